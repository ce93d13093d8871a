"""Feedback alignment: errors travel back through fixed random weights (Lillicrap et al. 2016)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.benchmarks.interface import LossOf
from fourfold.rules.interface import Rule
from fourfold.rules.layers import LinearMap, grown, initial_weights, linear_maps, on_one_device, random_stream
from fourfold.rules.routed import routed


class FeedbackAlignment(Rule):
    """delta_{n-1} = phi'(z_{n-1}) * (delta_n B_n), with B_n drawn like W_n's initial values, and kept.

    B_n has the shape of W_n: [out, in], or [out, in / groups, height, width]. Each layer's own gradient is the usual
    product of its inputs and its error. Any network with linear layers and convolutions will do.
    """

    name = "feedback_alignment"

    def prepare(self, network: nn.Module) -> None:
        on_one_device(self.engine, self.name)
        self.layers = linear_maps(network)
        self.feedback = {name: self.first(name, layer.weight) for name, layer in self.layers.items()}

    def first(self, name: str, weight: Tensor) -> Tensor:
        """The feedback weights at the start."""
        return initial_weights(weight.detach(), random_stream("cpu", "feedback", name))

    def route(self) -> dict[LinearMap, Tensor]:
        """What each layer's errors travel through in the next step."""
        return {layer: self.feedback[name] for name, layer in self.layers.items()}

    def gradients(
        self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf, outputs: Any = None
    ) -> tuple[Any, Tensor]:
        # An earlier prediction's graph leads back through the forward weights: it cannot be used here.
        with routed(self.route()), self.engine.autocast():
            outputs = network(inputs)
            loss = loss_of(outputs, targets)
        self.engine.backward(loss)
        return outputs, loss.detach()

    def feedback_pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        sent = self.route()
        return {name: (sent[layer], layer.weight) for name, layer in self.layers.items()}

    def grow(self, network: nn.Module) -> None:
        self.layers = linear_maps(network)
        for name, layer in self.layers.items():
            old = self.feedback.get(name)
            if old is None or old.shape != layer.weight.shape:
                fresh = initial_weights(
                    layer.weight.detach(), random_stream("cpu", "feedback", name, *layer.weight.shape)
                )
                self.feedback[name] = fresh if old is None else grown(old, fresh)

    def state_dict(self) -> dict[str, Any]:
        return {"feedback": dict(self.feedback)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.feedback = {name: torch.clone(value) for name, value in state["feedback"].items()}
