"""Kolen-Pollack: both directions get the same changes and decay (Kolen & Pollack 1994; Akrout et al. 2019)."""

from typing import Any

import torch
from torch import nn

from fourfold.hardware.engine import Engine
from fourfold.rules.feedback_alignment import FeedbackAlignment


class KolenPollack(FeedbackAlignment):
    """W <- (1 - decay) (W + D) and B <- (1 - decay) (B + D), so B - W shrinks by 1 - decay a step.

    D is the change that the optimizer made to W in the last step, whichever optimizer it is; no weight is ever copied
    from one direction to the other.
    """

    name = "kolen_pollack"

    def __init__(self, engine: Engine, decay: float) -> None:
        super().__init__(engine)
        self.decay = decay

    def prepare(self, network: nn.Module) -> None:
        super().prepare(network)
        self._remember()

    def begin_update(self) -> None:
        self.follow()

    @torch.no_grad()
    def follow(self) -> None:
        """Gives both directions the last change and the decay."""
        for name, layer in self.layers.items():
            if not layer.weight.requires_grad:
                continue
            self.feedback[name].add_(layer.weight - self.before[name]).mul_(1 - self.decay)
            layer.weight.mul_(1 - self.decay)
            self.before[name].copy_(layer.weight)

    def grow(self, network: nn.Module) -> None:
        super().grow(network)
        self._remember()

    def _remember(self) -> None:
        self.before = {name: layer.weight.detach().clone() for name, layer in self.layers.items()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "before": dict(self.before)}

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.before = {name: torch.clone(value) for name, value in state["before"].items()}
