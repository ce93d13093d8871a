"""PEPITA: a second forward pass, its input modulated by the error, in place of a backward one (Dellaferrera 2022)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.benchmarks.interface import LossOf
from fourfold.errors import Refused
from fourfold.hardware.engine import Engine
from fourfold.rules.feedback import FeedbackBlock, weight_gradient
from fourfold.rules.interface import Rule
from fourfold.rules.layers import LinearMap, blocks_of, grown, on_one_device, random_stream, with_32_bit_weights
from fourfold.rules.tape import ACTIVATIONS, NORMS, Tape, record


class Pepita(Rule):
    """h = activities for x, h' = those for x - e F, with e = B dL/do [batch, outputs] and F [outputs, inputs] fixed.

    Gradients (Dellaferrera & Kreiman, ICML 2022): (h_n - h'_n) h'_{n-1}^T averaged over samples, and at the output
    e h'_{N-1}^T. Activities are those before pooling. The sign of F is free, since it is random. F is uniform within
    scale sqrt(6 / inputs).
    """

    name = "pepita"

    def __init__(self, engine: Engine, scale: float) -> None:
        super().__init__(engine)
        self.scale = scale
        self.projection: Tensor | None = None

    def prepare(self, network: nn.Module) -> None:
        on_one_device(self.engine, self.name)
        with_32_bit_weights(self.engine, self.name)
        self.blocks = blocks_of(network, self.name)
        for number, block in enumerate(self.blocks, 1):
            plain = FeedbackBlock(block, number, "gated", False, "symmetric").plain
            if not plain or any(isinstance(layer, NORMS) for layer in block.modules()):
                raise Refused(f"rule pepita: block {number} must be one linear map, an activation and pooling")

    @torch.no_grad()
    def gradients(
        self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf, outputs: Any = None
    ) -> tuple[Any, Tensor]:
        # Two passes are compared: in 16 bits their difference would be lost in rounding.
        with self.engine.full_precision():
            inputs = inputs.to(next(network.parameters()).dtype)
            first, scores = self.run_through(inputs)
            with torch.enable_grad():
                scores.requires_grad_()
                loss = loss_of(scores, targets)
                (error,) = torch.autograd.grad(loss, scores)
            modulated = inputs - (len(error) * error @ self.projected(inputs, error.shape[1])).view_as(inputs)
            second, _ = self.run_through(modulated)
        for n, (one, other) in enumerate(zip(first, second, strict=True)):
            layer, activity, below = one[0], one[1] - other[1], other[2]
            self.add(layer, below, error if n == len(first) - 1 else activity / len(error))
        return scores.detach(), loss.detach()

    def run_through(self, values: Tensor) -> tuple[list[tuple[LinearMap, Tensor, Tensor]], Tensor]:
        """A pass: (linear map, activity, the map's inputs) for each block, and the outputs."""
        found = []
        for block in self.blocks:
            values, tape = record(block, values)
            found.append(activity_of(tape))
        return found, values

    def projected(self, inputs: Tensor, outputs: int) -> Tensor:
        """F, drawn when the sizes are first known."""
        size = inputs[0].numel()
        if self.projection is None or self.projection.shape[0] < outputs:
            bound = self.scale * math.sqrt(6 / size)
            stream = random_stream("cpu", "projection", outputs)
            fresh = torch.empty(outputs, size).uniform_(-bound, bound, generator=stream).to(inputs)
            self.projection = fresh if self.projection is None else grown(self.projection, fresh)
        return self.projection

    def add(self, layer: LinearMap, below: Tensor, error: Tensor) -> None:
        assert isinstance(layer.weight, nn.Parameter)
        assert layer.bias is None or isinstance(layer.bias, nn.Parameter)
        if layer.weight.requires_grad:
            self.engine.add_gradient(layer.weight, weight_gradient(layer, below, error))
        if layer.bias is not None and layer.bias.requires_grad:
            self.engine.add_gradient(layer.bias, error.sum([0, *range(2, error.dim())]))

    def grow(self, network: nn.Module) -> None:
        self.blocks = blocks_of(network, self.name)

    def state_dict(self) -> dict[str, Any]:
        return {"projection": self.projection}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.projection = None if state["projection"] is None else torch.clone(state["projection"])


def activity_of(tape: Tape) -> tuple[LinearMap, Tensor, Tensor]:
    """The linear map of a plain block's pass, its outputs after the activation, and its inputs."""
    at = next(n for n, entry in enumerate(tape.entries) if isinstance(entry.layer, nn.Linear | nn.Conv2d))
    entry, activity = tape.entries[at], tape.entries[at].outputs
    if at + 1 < len(tape.entries) and isinstance(tape.entries[at + 1].layer, ACTIVATIONS):
        activity = tape.entries[at + 1].outputs
    assert isinstance(entry.layer, nn.Linear | nn.Conv2d)
    return entry.layer, activity, entry.inputs
