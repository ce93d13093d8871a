"""Backpropagation (Rumelhart, Hinton & Williams 1986)."""

from typing import Any

from torch import Tensor, nn

from fourfold.benchmarks.interface import LossOf
from fourfold.rules.interface import Rule


class Backprop(Rule):
    """The exact gradient of the loss, by reverse-mode differentiation."""

    def gradients(
        self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf, outputs: Any = None
    ) -> tuple[Any, Tensor]:
        with self.engine.phase("forward"), self.engine.autocast():
            if outputs is None:
                outputs = network(inputs)
            loss = loss_of(outputs, targets)
        self.engine.backward(loss)
        return outputs, loss.detach()
