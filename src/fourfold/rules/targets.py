"""What the target-propagation family shares: one pass, feedback training, targets downwards, local losses."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.benchmarks.interface import LossOf
from fourfold.errors import Refused
from fourfold.hardware.engine import Engine
from fourfold.rules.feedback import FeedbackBlock
from fourfold.rules.interface import Rule
from fourfold.rules.layers import blocks_of, on_one_device, random_stream, with_32_bit_weights
from fourfold.rules.tape import Tape, record


@dataclass
class Pass:
    """One block's part of a step: inputs [batch, ...] without graph, outputs with the graph of this block alone."""

    inputs: Tensor
    outputs: Tensor
    tape: Tape

    def in_full(self) -> "Pass":
        """The same, without graph, in the type of the block's weights where it was computed in another."""
        kind = next((p.dtype for entry in self.tape.entries for p in entry.layer.parameters()), self.outputs.dtype)
        if self.inputs.dtype == self.outputs.dtype == kind:
            return self
        return Pass(self.inputs.to(kind), self.outputs.detach().to(kind), self.tape.to(kind))


class TargetRule(Rule):
    """Local losses 1/2 |s_n - t_n|^2 towards targets that feedback blocks G_n bring down from the output.

    The output's target is t_N = s_N - beta B dL/ds_N, L the mean loss of B samples. ``errors`` stand for targets:
    e_n = (s_n - t_n) / (beta B), which is dL/ds_N at the output, so that the gradients are those of the local losses
    divided by beta and compare with backprop's; the output layer's are equal to them.

    Where L is not a mean, as that of replay with ``weighting: sum`` (two means added up, B the samples of both), the
    nudge is as many times larger: there mirror feedback sees twice beta. Gated feedback is linear and sees no beta.
    """

    name = "targets"
    biases = False

    def __init__(self, engine: Engine, beta: float, inversion: str, iterations: Any, noise: Any, start: str) -> None:
        super().__init__(engine)
        self.beta = beta
        self.inversion = inversion
        self.asked = {"iterations": iterations, "noise": noise}
        self.start = start
        self.steps = 0

    # ------------------------------------------------------------------------------------------------- set-up

    def prepare(self, network: nn.Module) -> None:
        on_one_device(self.engine, self.name)
        with_32_bit_weights(self.engine, self.name)
        self.blocks = blocks_of(network, self.name)
        self.feedback: dict[int, FeedbackBlock] = {
            n: FeedbackBlock(self.blocks[n], n + 1, self.inversion, self.biases, self.start) for n in self.trained()
        }
        self.iterations = self.per_layer("iterations", self.asked["iterations"], int, 0, 1_000_000)
        self.noise = self.per_layer("noise", self.asked["noise"], float, 1e-6, 1e6)
        self.begin_feedback(list(self.feedback))

    def trained(self) -> list[int]:
        """The blocks that need a feedback block: all that lie above the lowest with anything to train."""
        return list(range(self.lowest() + 1, len(self.blocks)))

    def lowest(self) -> int:
        """The first block with a parameter to train."""
        able = (n for n, block in enumerate(self.blocks) if any(p.requires_grad for p in block.parameters()))
        return next(able, len(self.blocks) - 1)

    def per_layer(self, key: str, value: Any, kind: type, low: float, high: float) -> dict[int, Any]:
        """One value for each trained feedback block, from one number or a list of as many.

        Raises Refused, naming the blocks, if there are not as many, or one is out of range.
        """
        labels = [block.label for block in self.feedback.values()]
        values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * len(labels)
        if len(values) != len(labels):
            raise Refused(
                f"method.rule.{key} has {len(values)} values; the trained feedback layers are {len(labels)}: "
                + "; ".join(f"that of {label}" for label in labels)
            )
        wanted = "a whole number" if kind is int else "a number"
        for each in values:
            right = isinstance(each, int) or (kind is float and isinstance(each, float))
            if not right or isinstance(each, bool) or not low <= each <= high:
                raise Refused(f"method.rule.{key}={each}: must be {wanted} between {low:g} and {high:g}, or a list")
        return dict(zip(self.feedback, values, strict=True))

    def begin_feedback(self, new: Collection[int]) -> None:
        """Called when the feedback blocks are there, and when some have grown: makes what the training of the new ones
        needs."""

    # --------------------------------------------------------------------------------------------------- step

    def gradients(
        self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf, outputs: Any = None
    ) -> tuple[Any, Tensor]:
        self.steps += 1
        found = self.found(inputs, targets, loss_of, learning=True)
        self.check_finite(self.steps)
        return found

    def gradients_beside(self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf) -> tuple[Any, Tensor]:
        return self.found(inputs, targets, loss_of, learning=False)

    def found(self, inputs: Any, targets: Any, loss_of: LossOf, learning: bool) -> tuple[Any, Tensor]:
        """Adds the gradients; ``learning``: after the feedback has learned from this batch."""
        with self.engine.autocast():
            passes = self.forward(inputs)
            full = [one.in_full() for one in passes]
            outputs = full[-1].outputs.detach().requires_grad_()
            loss = loss_of(outputs, targets)
            (error,) = torch.autograd.grad(loss, outputs)
        # Feedback and targets are made of small differences, which 16 bits would round away.
        with torch.no_grad(), self.engine.full_precision():
            if learning:
                self.train_feedback(full)
            errors = self.errors(full, error)
        for block, one, own in zip(self.blocks, passes, errors, strict=True):
            self.add_local_gradient(block, one, own)
        return outputs.detach(), loss.detach()

    def forward(self, inputs: Tensor) -> list[Pass]:
        """All blocks in turn, each from inputs without graph: the graphs of the local losses."""
        passes, below = [], inputs
        for block in self.blocks:
            outputs, tape = record(block, below)
            passes.append(Pass(below, outputs, tape))
            below = outputs.detach()
        return passes

    @abstractmethod
    def train_feedback(self, passes: list[Pass]) -> None:
        """Improves the feedback blocks on this batch."""

    def errors(self, passes: list[Pass], error: Tensor) -> list[Tensor | None]:
        """e_n for every block, from that of the output downwards; None below the lowest block that trains."""
        found: list[Tensor | None] = [None] * len(passes)
        found[-1] = error
        for n in reversed(self.feedback):
            error = self.error_below(n, passes[n], error)
            found[n - 1] = error
        return found

    def error_below(self, n: int, one: Pass, error: Tensor) -> Tensor:
        """Difference target propagation: t_{n-1} = s_{n-1} + G(t_n) - G(s_n). A gated G is linear: e_{n-1} = G(e_n)."""
        back = self.feedback[n]
        if self.inversion == "gated":
            return back(one.tape, error)
        scale = self.beta * len(error)
        s = one.outputs.detach()
        return (back(one.tape, s) - back(one.tape, s - scale * error)) / scale

    def add_local_gradient(self, block: nn.Module, one: Pass, error: Tensor | None) -> None:
        """The gradient of the block's local loss, 1/2 |s - t|^2 averaged over samples and divided by beta."""
        trained = [parameter for parameter in block.parameters() if parameter.requires_grad]
        if error is None or not trained:
            return
        scale = self.engine.gradient_scale()  # before the pass back, so that fp16 does not round small errors to 0
        error = (error * scale).to(one.outputs.dtype) if scale != 1.0 else error.to(one.outputs.dtype)
        for parameter, gradient in zip(trained, torch.autograd.grad(one.outputs, trained, error), strict=True):
            self.engine.add_gradient(parameter, gradient, weight=1 / scale)

    def not_finite(self) -> str | None:
        for block in self.feedback.values():
            if not all(bool(torch.isfinite(values).all()) for values in block.parameters):
                return f"the feedback weights of {block.label}"
        return None

    def stream(self, n: int, name: str = "feedback training") -> torch.Generator:
        """The random numbers of this step's training of one feedback block."""
        return random_stream(self.engine.device, name, self.steps, n)

    # ------------------------------------------------------------------------------------------------ the rest

    def feedback_pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        pairs = {}
        for back in self.feedback.values():
            for number, (feedback, layer) in enumerate(zip(back.weights, back.layers, strict=True)):
                pairs[f"block_{back.number}" + (f".{number}" if len(back.layers) > 1 else "")] = feedback, layer.weight
        return pairs

    @torch.no_grad()
    def feedback_losses(self, inputs: Any) -> dict[str, Tensor]:
        with self.engine.autocast():
            passes = self.forward(inputs)
        full, found = [one.in_full() for one in passes], {}
        with self.engine.full_precision():
            for n, back in self.feedback.items():
                stream = self.stream(n, "feedback look")
                found[f"block_{back.number}"] = self.feedback_loss(n, back, full, stream, back.parameters)
        return found

    @abstractmethod
    def feedback_loss(
        self, n: int, back: FeedbackBlock, passes: list[Pass], stream: torch.Generator, parameters: list[Tensor]
    ) -> Tensor:
        """The loss [] that a feedback block with these parameters has on a batch, for one draw of noise."""

    def grow(self, network: nn.Module) -> None:
        self.blocks = blocks_of(network, self.name)
        self.begin_feedback([n for n, block in self.feedback.items() if block.grow(self.blocks[n])])

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "feedback": {n: block.parameters for n, block in self.feedback.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        with torch.no_grad():
            for n, values in state["feedback"].items():
                for mine, saved in zip(self.feedback[n].parameters, values, strict=True):
                    mine.copy_(saved)
