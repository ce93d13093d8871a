"""What a network computes before its last layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def last_layer(network: nn.Module) -> nn.Linear:
    """The last fully connected layer, whose input are the features and whose rows are the outputs."""
    found = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not found:
        raise ValueError("the network has no fully connected layer")
    return found[-1]


@contextmanager
def caught_features(network: nn.Module) -> Iterator[list[Tensor]]:
    """The input of the last layer, [batch, features], of each forward pass made inside, graph included."""
    caught: list[Tensor] = []
    hook = last_layer(network).register_forward_pre_hook(lambda _, given: caught.append(given[0].flatten(1)))
    try:
        yield caught
    finally:
        hook.remove()


def features(network: nn.Module, inputs: Any) -> Tensor:
    """The input of the last layer, [batch, features]."""
    with caught_features(network) as caught:
        network(inputs)
    return caught[-1]


@torch.no_grad()
def features_of_all(network: nn.Module, inputs: Tensor, size: int = 500) -> Tensor:
    """The features of many inputs, a batch at a time, in evaluation mode."""
    training = network.training
    network.eval()
    found = torch.cat([features(network, part) for part in inputs.split(size)])
    network.train(training)
    return found
