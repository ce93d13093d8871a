"""L-DRL with one iteration a batch and many noise samples in it, so that all layers could learn at once."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from fourfold.hardware.engine import Engine
from fourfold.rules import jacobian_matching as forms
from fourfold.rules.feedback import FeedbackBlock
from fourfold.rules.targets import Pass, TargetRule


class ParallelDTP(TargetRule):
    """The loss of dtp averaged over ``samples`` draws, once a batch, and Adam for all feedback blocks.

    The "parallel" variant of the code of Ernoult et al. 2022 (not in the paper): 10 samples, Adam at 3e-4 with decay
    1e-4. Here the linear form of the gradient, where a block allows it.
    """

    name = "parallel_dtp"

    def __init__(
        self, engine: Engine, beta: float, inversion: str, samples: int, noise: Any, feedback_rate: float, decay: float
    ) -> None:
        super().__init__(engine, beta, inversion, samples, noise, "random")
        self.feedback_rate = feedback_rate
        self.decay = decay
        self.optimizer: torch.optim.Adam | None = None

    def begin_feedback(self, new: Collection[int]) -> None:
        every = [parameter for back in self.feedback.values() for parameter in back.parameters]
        moments = {} if self.optimizer is None else self.optimizer.state
        self.optimizer = torch.optim.Adam(every, lr=self.feedback_rate, weight_decay=self.decay) if every else None
        if self.optimizer is not None:
            self.optimizer.state.update({p: moments[p] for p in every if p in moments})

    def train_feedback(self, passes: list[Pass]) -> None:
        for n, back in self.feedback.items():
            one, stream, count = passes[n], self.stream(n), self.iterations[n]
            x, y, sigma = one.inputs, one.outputs.detach(), self.noise[n]
            form = forms.linear if back.plain else forms.reference
            for parameter in back.parameters:
                parameter.grad = torch.zeros_like(parameter)
            for _ in range(count):
                eps, eta = forms.normal_like(x, sigma, stream), forms.normal_like(y, sigma, stream)
                found = form(back, x, y, one.tape, eps, eta)
                for parameter, gradient in zip(back.parameters, found, strict=True):
                    assert parameter.grad is not None
                    parameter.grad.add_(gradient, alpha=1 / count)
        if self.optimizer is not None:
            self.optimizer.step()

    def feedback_loss(
        self, n: int, back: FeedbackBlock, passes: list[Pass], stream: torch.Generator, parameters: list[Tensor]
    ) -> Tensor:
        one = passes[n]
        y = one.outputs.detach()
        return forms.loss_of_a_draw(back, one.inputs, y, one.tape, self.noise[n], stream, parameters)

    def state_dict(self) -> dict[str, Any]:
        own = None if self.optimizer is None else self.optimizer.state_dict()
        return {**super().state_dict(), "optimizer": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
