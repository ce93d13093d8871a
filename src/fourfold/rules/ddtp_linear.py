"""Direct difference target propagation with linear feedback (Meulemans et al. 2020): learned maps from the output."""

from typing import Any

import torch
from torch import Tensor, nn

from fourfold.hardware.engine import Engine
from fourfold.rules.direct_feedback_alignment import DirectFeedbackAlignment
from fourfold.rules.jacobian_matching import normal_like
from fourfold.rules.layers import random_stream, with_32_bit_weights
from fourfold.rules.tape import frozen_statistics


class DDTPLinear(DirectFeedbackAlignment):
    """t_i = h_i + (t_N - s_N) Q_i, one map Q_i [outputs, size of h_i] a layer; local losses as in dtp.

    Q_i learns from 1/sigma^2 <|h_i + (s~_N - s_N) Q_i - h~_i|^2> + decay |Q_i|^2, h~_i = h_i + sigma eps and s~_N the
    output that it leads to: at small noise Q_i = (J^T J + ...)-damped inverse of the Jacobian J to the output. Q is
    linear, so the size of the nudge drops out.
    """

    name = "ddtp_linear"

    def __init__(self, engine: Engine, iterations: int, noise: float, feedback_rate: float, decay: float) -> None:
        super().__init__(engine, scale=1.0)
        self.iterations = iterations
        self.noise = noise
        self.feedback_rate = feedback_rate
        self.decay = decay
        self.steps = 0
        self.optimizers: dict[str, torch.optim.Adam] = {}

    def prepare(self, network: nn.Module) -> None:
        with_32_bit_weights(self.engine, self.name)
        super().prepare(network)

    @torch.no_grad()
    def train_feedback(self, hidden: list[Tensor], outputs: Tensor) -> None:
        self.steps += 1
        for number, h in enumerate(hidden):
            stream = random_stream(h.device, "feedback training", self.steps, number)
            q = self.map_to(number, h, outputs.shape[1])
            for _ in range(self.iterations):
                q.grad = self.feedback_gradient(number, q, h.detach(), outputs.detach(), stream)
                self.optimizer(str(number), q).step()
        self.check_finite(self.steps)

    def feedback_gradient(self, number: int, q: Tensor, h: Tensor, outputs: Tensor, stream: torch.Generator) -> Tensor:
        """The gradient of the loss of one block's map, for one draw of noise."""
        change, missed = self.missed(number, q, h, outputs, stream)
        return 2 / (len(h) * self.noise**2) * change.T @ missed + 2 * self.decay * q

    def missed(
        self, number: int, q: Tensor, h: Tensor, outputs: Tensor, stream: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """(s~_N - s_N [batch, outputs], what its way back through Q_i misses of sigma eps [batch, size of h_i])."""
        eps = normal_like(h, self.noise, stream)
        values = h + eps
        for block in self.blocks[number + 1 :]:
            with frozen_statistics(block):
                values = block(values)
        change = values - outputs
        return change, change @ q - eps.flatten(1)

    @torch.no_grad()
    def feedback_losses(self, inputs: Any) -> dict[str, Tensor]:
        hidden, values, found = [], inputs.to(next(self.blocks[-1].parameters()).dtype), {}
        with self.engine.full_precision():
            for block in self.blocks:
                values = block(values)
                hidden.append(values)
            for number, h in enumerate(hidden[:-1]):
                q = self.map_to(number, h, values.shape[1])
                stream = random_stream(h.device, "feedback look", self.steps, number)
                _, missed = self.missed(number, q, h, values, stream)
                loss = missed.square().sum() / (len(h) * self.noise**2) + self.decay * q.square().sum()
                found[f"block_{number + 1}"] = loss
        return found

    def not_finite(self) -> str | None:
        wrong = [int(name) for name, q in self.feedback.items() if not bool(torch.isfinite(q).all())]
        return f"the feedback weights to block {min(wrong) + 1}" if wrong else None

    def optimizer(self, name: str, q: Tensor) -> torch.optim.Adam:
        """The optimizer of one map; a new one where the map has grown or come from a file."""
        known = self.optimizers.get(name)
        if known is None or known.param_groups[0]["params"][0] is not q:
            self.optimizers[name] = known = torch.optim.Adam([q], lr=self.feedback_rate)
        return known

    def state_dict(self) -> dict[str, Any]:
        own = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {**super().state_dict(), "steps": self.steps, "optimizers": own}

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.steps = state["steps"]
        for name, saved in state["optimizers"].items():
            self.optimizer(name, self.feedback[name]).load_state_dict(saved)
