"""Sign-symmetry: feedback weights share the signs of the forward weights, not their magnitudes (Liao et al. 2016)."""

from typing import Any

import torch
from torch import Tensor

from fourfold.hardware.engine import Engine
from fourfold.rules.feedback_alignment import FeedbackAlignment
from fourfold.rules.layers import LinearMap, initial_weights, random_stream


class SignSymmetry(FeedbackAlignment):
    """B_n = sign(W_n) * M_n with magnitudes M_n >= 0 (uSF, frSF, brSF of Moskovitz et al. 2018).

    magnitude: uniform, the root mean square of W_n's initial values; fixed, |values drawn like W_n's| once; batch,
    |those| drawn again at each step.
    """

    name = "sign_symmetry"

    def __init__(self, engine: Engine, magnitude: str) -> None:
        super().__init__(engine)
        self.magnitude = magnitude
        self.steps = 0

    def first(self, name: str, weight: Tensor) -> Tensor:
        drawn = initial_weights(weight.detach(), random_stream("cpu", "feedback", name, self.steps))
        if self.magnitude == "uniform":
            return torch.full_like(drawn, float(drawn.square().mean().sqrt()))
        return drawn.abs_()

    def begin_update(self) -> None:
        if self.magnitude == "batch":
            self.steps += 1
            self.feedback = {name: self.first(name, layer.weight) for name, layer in self.layers.items()}

    def route(self) -> dict[LinearMap, Tensor]:
        return {layer: layer.weight.detach().sign() * self.feedback[name] for name, layer in self.layers.items()}

    def feedback_pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: (layer.weight.sign() * self.feedback[name], layer.weight) for name, layer in self.layers.items()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.steps = state["steps"]
