"""Backpropagation fills the gradients that autograd finds, and uses an earlier forward pass again."""

import pytest
import torch
from torch import nn

from fourfold.composition import compose, plain
from fourfold.hardware.device import acquire
from fourfold.hardware.engine import Engine
from fourfold.rules.backprop import Backprop


@pytest.fixture
def engine() -> Engine:
    return Engine(acquire(plain(compose(["hardware=cpu"]))["hardware"]), "fp32", "auto")


def test_gradients_are_those_of_the_loss(engine: Engine) -> None:
    network = nn.Linear(3, 2)
    inputs, targets = torch.randn(5, 3), torch.randint(2, (5,))
    loss_of = nn.functional.cross_entropy
    outputs, loss = Backprop(engine).gradients(network, inputs, targets, loss_of)
    expected = (outputs.softmax(1) - nn.functional.one_hot(targets, 2)).T @ inputs / 5
    torch.testing.assert_close(network.weight.grad, expected)
    assert not loss.requires_grad


def test_an_earlier_prediction_is_not_computed_again(engine: Engine) -> None:
    network = nn.Linear(3, 2)
    inputs, targets = torch.randn(5, 3), torch.randint(2, (5,))
    outputs = network(inputs)
    network.register_forward_hook(lambda *_: pytest.fail("computed twice"))
    Backprop(engine).gradients(network, inputs, targets, nn.functional.cross_entropy, outputs)
    assert network.weight.grad is not None
