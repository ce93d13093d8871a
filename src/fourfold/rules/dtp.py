"""Difference target propagation towards backprop's targets, "L-DRL" (Ernoult et al. 2022, arXiv 2201.13415)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fourfold.errors import Refused
from fourfold.hardware.engine import Engine
from fourfold.rules import jacobian_matching as forms
from fourfold.rules.diagnostics import alignment
from fourfold.rules.feedback import FeedbackBlock
from fourfold.rules.targets import Pass, TargetRule

GAIN = 0.02  # automatic rate: the share of the misalignment that an iteration takes away
LARGEST_SOLVED = 1024  # units of a layer whose normal equations are solved
SAMPLES = 2.0  # correlated: observations of each unknown that an iteration uses
REACH = 0.25  # correlated: the share of the misalignment that a batch is to take away where iterations are automatic


class DTP(TargetRule):
    """Every feedback block takes ``iterations`` steps a batch on the L-DRL loss, then targets come down, then F learns.

    formulation: reference (the loss by autograd), linear (the same gradient without a graph), orthogonal (linear with
    orthogonal probes), solve (normal equations for fully connected blocks), correlated (both halves of the loss from
    the same noise; gated only). A block that a formulation does not know (several linear maps, normalisation) is
    trained by the next general one. feedback_rate: null for GAIN (1 - momentum) / (2 sigma^2 P), P the positions of
    the block's outputs. train_above: by a look every look_every steps, blocks whose weights are within so many degrees
    of the forward ones are not trained (the angle of mirror feedback does not fall below about 10). iterations: null,
    with correlated only, for as many as take REACH of the misalignment away.
    """

    name = "dtp"

    def __init__(
        self,
        engine: Engine,
        beta: float,
        inversion: str,
        formulation: str,
        iterations: Any,
        later_iterations: Any,
        later_after: int,
        train_above: float | None,
        look_every: int,
        noise: Any,
        feedback_rate: Any,
        momentum: float,
        start: str,
    ) -> None:
        super().__init__(engine, beta, inversion, iterations, noise, start)
        if formulation == "correlated" and inversion != "gated":
            raise Refused(
                f"method.rule.formulation=correlated needs method.rule.inversion=gated, not {inversion}: "
                "it trains a linear feedback"
            )
        self.formulation = formulation
        self.automatic = iterations is None and formulation == "correlated"
        if self.automatic:
            self.asked["iterations"] = 1  # for blocks that are trained by another form
        self.asked |= {"later_iterations": later_iterations, "feedback_rate": feedback_rate}
        self.later_after = later_after
        self.momentum = momentum
        self.train_above, self.look_every = train_above, look_every
        self.resting: set[int] = set()  # blocks that are close enough

    def begin_feedback(self) -> None:
        later, rate = self.asked["later_iterations"], self.asked["feedback_rate"]
        self.later = self.iterations if later is None else self.per_layer("later_iterations", later, int, 0, 1_000_000)
        self.rates = {} if rate is None else self.per_layer("feedback_rate", rate, float, 0.0, 1e6)
        self.velocity = {n: [torch.zeros_like(p) for p in block.parameters] for n, block in self.feedback.items()}
        self.forms = {n: self.form_of(block) for n, block in self.feedback.items()}
        self.solvers = {
            n: forms.Solver(self.feedback[n].layers[0], keep=0.95)  # type: ignore[arg-type]
            for n, form in self.forms.items()
            if form == "solve"
        }

    def form_of(self, back: FeedbackBlock) -> str:
        """The formulation that a block is trained by: the one asked for, or the most special one that knows it."""
        if not back.plain:
            return "reference"
        if self.formulation == "correlated" and not forms.can_correlate(back):
            return "linear"
        if self.formulation == "solve" and not forms.can_solve(back, LARGEST_SOLVED):
            return "linear"
        return self.formulation

    def train_feedback(self, passes: list[Pass]) -> None:
        counts = self.later if self.is_late() else self.iterations
        if self.train_above is not None and (self.steps - 1) % self.look_every == 0:
            self.resting = {n for n, back in self.feedback.items() if widest_angle(back) <= self.train_above}
        for n, back in self.feedback.items():
            one, form = passes[n], self.forms[n]
            if counts[n] == 0 or n in self.resting:
                continue
            if form == "correlated":
                self.correlate(n, back, one, counts[n])
            elif form == "solve":
                self.solve(n, back, one, counts[n])
            else:
                self.descend(n, back, one, counts[n], getattr(forms, form))

    def is_late(self) -> bool:
        """Whether the later number of iterations holds."""
        return self.later is not self.iterations and self.steps > self.later_after

    def descend(self, n: int, back: FeedbackBlock, one: Pass, count: int, gradients: forms.Gradients) -> None:
        """Stochastic gradient steps with momentum."""
        y, stream = one.outputs.detach(), self.stream(n)
        rate = self.rates[n] if self.rates else self.automatic_rate(n, y)
        for _ in range(count):
            found = gradients(back, one.inputs, y, one.tape, self.noise[n], stream)
            for parameter, velocity, gradient in zip(back.parameters, self.velocity[n], found, strict=True):
                velocity.mul_(self.momentum).add_(gradient)
                parameter.sub_(velocity, alpha=rate)

    def automatic_rate(self, n: int, outputs: Tensor) -> float:
        """The loss's curvature is 2 sigma^2 P, P the positions [height x width] that carry noise to the kernel."""
        return GAIN * (1 - self.momentum) / (2 * self.noise[n] ** 2 * math.prod(outputs.shape[2:]))

    def correlate(self, n: int, back: FeedbackBlock, one: Pass, count: int) -> None:
        """Steps of a least-mean-squares filter, on as many samples as its unknowns ask for."""
        if self.automatic and not self.is_late():
            count = automatic_iterations(back, one.outputs)
        step = forms.every(back, one.outputs, SAMPLES)
        draw = forms.normal_like if one.outputs.dim() > 2 else forms.orthogonal_like
        # In 16 bits the answer to a small probe is lost in rounding, so this part is computed in 32.
        with torch.autocast(one.inputs.device.type, enabled=False):
            x, tape = one.inputs[::step].to(back.weights[0].dtype), one.tape.some(step)
            for change in forms.correlated(back, x, tape, self.noise[n], self.stream(n), count, draw):
                back.weights[0].add_(change)

    def solve(self, n: int, back: FeedbackBlock, one: Pass, count: int) -> None:
        """As many draws as iterations, then the solution of all so far."""
        y, stream = one.outputs.detach(), self.stream(n)
        for _ in range(count):
            self.solvers[n].draw(back, one.inputs, y, one.tape, self.noise[n], stream)
        back.weights[0].copy_(self.solvers[n].solution())

    def feedback_loss(
        self, n: int, back: FeedbackBlock, passes: list[Pass], stream: torch.Generator, parameters: list[Tensor]
    ) -> Tensor:
        one = passes[n]
        return forms.loss(back, one.inputs, one.outputs.detach(), one.tape, self.noise[n], stream, parameters)

    def state_dict(self) -> dict[str, Any]:
        sums = {n: [solver.gram, solver.product] for n, solver in self.solvers.items()}
        return {**super().state_dict(), "velocity": self.velocity, "sums": sums, "resting": sorted(self.resting)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.resting = set(state["resting"])
        pairs = [(self.velocity[n], saved) for n, saved in state["velocity"].items()]
        pairs += [([self.solvers[n].gram, self.solvers[n].product], saved) for n, saved in state["sums"].items()]
        for mine, saved in pairs:
            for one, other in zip(mine, saved, strict=True):
                one.copy_(other)


def widest_angle(back: FeedbackBlock) -> float:
    """Degrees between feedback and forward weights, of the linear map furthest apart; waits for the device."""
    pairs = zip(back.weights, back.layers, strict=True)
    return float(torch.stack([alignment(feedback, layer.weight).angle for feedback, layer in pairs]).max())


def automatic_iterations(back: FeedbackBlock, outputs: Tensor) -> int:
    """An iteration takes away 1 / (1 + unknowns / observations); 16 at most."""
    observations = len(outputs) * math.prod(outputs.shape[2:])
    return min(16, max(1, math.ceil(REACH * (1 + forms.unknowns(back.layers[0]) / observations))))
