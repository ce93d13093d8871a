"""Difference target propagation with feedback that learns to invert (Lee et al. 2015, arXiv 1412.7525)."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from fourfold.hardware.engine import Engine
from fourfold.rules.feedback import FeedbackBlock
from fourfold.rules.jacobian_matching import noisy_pass, normal_like
from fourfold.rules.targets import Pass, TargetRule


class VanillaDTP(TargetRule):
    """G learns to undo F: loss = <|G(F(x~)) - x~|^2>, x~ = s_{n-1} + noise; t_{n-1} = s_{n-1} + G(t_n) - G(s_n).

    As in the code of Ernoult et al. 2022: the first target is the logits', every batch trains the feedback first. The
    feedback blocks have biases and the mirror inversion; they learn by SGD with ``momentum``, as there, or (null) Adam.
    """

    name = "vanilla_dtp"
    biases = True

    def __init__(
        self,
        engine: Engine,
        beta: float,
        iterations: Any,
        noise: Any,
        feedback_rate: Any,
        momentum: float | None = None,
    ) -> None:
        super().__init__(engine, beta, "mirror", iterations, noise, "random")
        self.asked["feedback_rate"] = feedback_rate
        self.momentum = momentum
        self.optimizers: dict[int, torch.optim.Optimizer] = {}

    def begin_feedback(self, new: Collection[int]) -> None:
        rates = self.per_layer("feedback_rate", self.asked["feedback_rate"], float, 0.0, 1e6)
        for n in new:
            self.optimizers[n] = self.optimizer(self.feedback[n], rates[n])

    def optimizer(self, back: FeedbackBlock, rate: float) -> torch.optim.Optimizer:
        if self.momentum is None:
            return torch.optim.Adam(back.parameters, lr=rate)
        return torch.optim.SGD(back.parameters, lr=rate, momentum=self.momentum)

    def train_feedback(self, passes: list[Pass]) -> None:
        for n, back in self.feedback.items():
            stream = self.stream(n)
            for _ in range(self.iterations[n]):
                found = self.feedback_gradients(n, back, passes, stream)
                for parameter, gradient in zip(back.parameters, found, strict=True):
                    parameter.grad = gradient
                self.optimizers[n].step()

    def feedback_gradients(
        self, n: int, back: FeedbackBlock, passes: list[Pass], stream: torch.Generator
    ) -> list[Tensor]:
        """The gradient of a feedback block's loss for one draw of noise."""
        with torch.enable_grad():
            parameters = [value.detach().requires_grad_() for value in back.parameters]
            return list(torch.autograd.grad(self.feedback_loss(n, back, passes, stream, parameters), parameters))

    def feedback_loss(
        self, n: int, back: FeedbackBlock, passes: list[Pass], stream: torch.Generator, parameters: list[Tensor]
    ) -> Tensor:
        x = passes[n].inputs
        noisy = x + normal_like(x, self.noise[n], stream)
        after, tape = noisy_pass(back, noisy, passes[n].tape)
        return (back(tape, after, parameters) - noisy).square().sum() / len(x)

    def state_dict(self) -> dict[str, Any]:
        own = {n: optimizer.state_dict() for n, optimizer in self.optimizers.items()}
        return {**super().state_dict(), "optimizers": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for n, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][n])
