"""Difference reconstruction loss: feedback trained through all layers above (Meulemans et al. 2020, 2006.14331)."""

from typing import Any

import torch
from torch import Tensor

from fourfold.hardware.engine import Engine
from fourfold.rules.feedback import FeedbackBlock
from fourfold.rules.jacobian_matching import normal_like
from fourfold.rules.tape import frozen_statistics, record
from fourfold.rules.targets import Pass
from fourfold.rules.vanilla_dtp import VanillaDTP


class DRL(VanillaDTP):
    """loss_i = 1/sigma^2 <|r - h~_i|^2> + decay |omega|^2, h~_i = h_i + sigma eps (DTPDRL).

    h~_i runs forward through all layers to the output, and the output comes down to layer i by the rule that brings
    targets down, t_{i-1} = h_{i-1} + G(t_i) - G(h_i); r is what arrives. At small noise the feedback from the output
    becomes J^T (J J^T + lambda I)^-1, J the Jacobian from layer i to the output, and the targets are Gauss-Newton's.
    Each feedback block learns from the loss of the layer that it leads to, and from no other.
    """

    name = "drl"
    biases = False  # they cancel in the differences

    def __init__(
        self, engine: Engine, beta: float, iterations: Any, noise: Any, feedback_rate: float, decay: float
    ) -> None:
        super().__init__(engine, beta, iterations, noise, feedback_rate)
        self.decay = decay

    def feedback_loss(
        self, n: int, back: FeedbackBlock, passes: list[Pass], stream: torch.Generator, parameters: list[Tensor]
    ) -> Tensor:
        """The loss of the inputs of block n; of the feedback blocks above it nothing is asked."""
        h, sigma = passes[n].inputs, self.noise[n]
        noisy = h + normal_like(h, sigma, stream)
        values, tapes = noisy, []
        with torch.no_grad():
            for block in self.blocks[n:]:
                with frozen_statistics(block):
                    values, tape = record(block, values)
                tapes.append(tape)
            for m in range(len(self.blocks) - 1, n, -1):
                above, clean = self.feedback[m], passes[m]
                values = clean.inputs + above(tapes[m - n], values) - above(clean.tape, clean.outputs.detach())
        own = passes[n]
        arrived = h + back(tapes[0], values, parameters) - back(own.tape, own.outputs.detach(), parameters)
        loss = (arrived - noisy).square().sum() / (len(h) * sigma**2)
        return loss + self.decay * torch.stack([value.square().sum() for value in parameters]).sum()
