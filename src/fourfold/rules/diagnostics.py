"""How close a rule's gradients, and its feedback weights, are to backprop's: angles, norm ratios, distances."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fourfold.benchmarks.interface import LossOf


class Alignment(NamedTuple):
    """angle in degrees [], norm of the first over that of the second []; on their device."""

    angle: Tensor
    ratio: Tensor


def alignment(found: Tensor, exact: Tensor) -> Alignment:
    """The angle between two tensors taken as vectors, and the ratio of their norms.

    By atan2 of the unit vectors' difference and sum, which is exact near 0 where an arc cosine is not.
    """
    a, b = found.detach().flatten().double(), exact.detach().flatten().double()
    size_a, size_b = a.norm(), b.norm()
    a, b = a / size_a, b / size_b
    return Alignment(torch.rad2deg(2 * torch.atan2((a - b).norm(), (a + b).norm())), size_a / size_b)


def alignments(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, Alignment]:
    """The alignment of each tensor that both have by name, in the order of ``exact``."""
    return {name: alignment(found[name], exact[name]) for name in exact if name in found}


def backprop_gradients(network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf) -> dict[str, Tensor]:
    """The exact gradients of the loss on a batch, by parameter."""
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        found = torch.autograd.grad(loss_of(network(inputs), targets), list(named.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}
