"""Difference target propagation towards backprop's targets, "L-DRL" (Ernoult et al. 2022, arXiv 2201.13415)."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fourfold.errors import Refused
from fourfold.hardware.engine import Engine
from fourfold.rules import jacobian_matching as forms
from fourfold.rules.diagnostics import alignment
from fourfold.rules.feedback import FeedbackBlock
from fourfold.rules.tape import frozen_statistics
from fourfold.rules.targets import Pass, TargetRule

GAIN = 0.02  # automatic rate: the share of the misalignment that an iteration takes away
LARGEST_SOLVED = 1024  # units of a layer whose normal equations are solved
SAMPLES = 2.0  # correlated: observations of each unknown that an iteration uses
# Correlated with automatic iterations, in time constants of the filter: what a batch gets, and what weights that have
# learned nothing yet get, so that the first steps of the network are not taken in a random direction.
REACH, FIRST_REACH = 0.5, 8.0


class DTP(TargetRule):
    """Every feedback block takes ``iterations`` steps a batch on the L-DRL loss, then targets come down, then F learns.

    formulation: reference (the loss by autograd), linear (the same gradient without a graph), orthogonal (linear with
    orthogonal probes), solve (normal equations for fully connected blocks), correlated (both halves of the loss from
    the same noise; gated only). A block that a formulation does not know (several linear maps, normalisation) is
    trained by the next general one. feedback_rate: null for GAIN (1 - momentum) / (2 sigma^2 P), P the positions of
    the block's outputs. train_above: by a look every look_every steps, blocks whose weights are within so many degrees
    of the forward ones are not trained (the angle of mirror feedback does not fall below about 10). iterations: null,
    with correlated only, for REACH time constants of the filter a batch and FIRST_REACH on the first one. compiled:
    each block's iteration is one program of torch.compile, on CUDA replayed as a graph.
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
        compiled: bool,
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
        self.fresh = True  # whether there are weights that no batch has trained yet
        self.compiled = compiled
        self.velocity: dict[int, list[Tensor]] = {}
        self.solvers: dict[int, forms.Solver] = {}
        self.programs: dict[tuple[int, Any], Any] = {}

    def begin_feedback(self, new: Collection[int]) -> None:
        later, rate = self.asked["later_iterations"], self.asked["feedback_rate"]
        self.later = self.iterations if later is None else self.per_layer("later_iterations", later, int, 0, 1_000_000)
        self.rates = {} if rate is None else self.per_layer("feedback_rate", rate, float, 0.0, 1e6)
        self.fresh = True
        self.forms = {n: self.form_of(block) for n, block in self.feedback.items()}
        for n in new:
            self.velocity[n] = [torch.zeros_like(p) for p in self.feedback[n].parameters]
            if self.forms[n] == "solve":
                self.solvers[n] = forms.Solver(self.feedback[n].layers[0], keep=0.95)  # type: ignore[arg-type]

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
        learning = [n for n in self.feedback if counts[n] and n not in self.resting]
        jobs = [partial(self.train_block, n, passes[n], counts[n]) for n in learning]
        # A graph is replayed on the stream that it was captured on: ours.
        side_by_side(torch.device("cpu") if self.compiled else self.engine.device, jobs)
        self.fresh = False

    def train_block(self, n: int, one: Pass, count: int) -> None:
        """The iterations of one feedback block on one batch. No other block's depend on them; no number is read."""
        back, form = self.feedback[n], self.forms[n]
        if form == "correlated":
            self.correlate(n, back, one, count)
        elif form == "solve":
            self.solve(n, back, one, count)
        else:
            self.descend(n, back, one, count)

    def is_late(self) -> bool:
        """Whether the later number of iterations holds."""
        return self.later is not self.iterations and self.steps > self.later_after

    def descend(self, n: int, back: FeedbackBlock, one: Pass, count: int) -> None:
        """Stochastic gradient steps with momentum."""
        x, y, sigma, stream = one.inputs, one.outputs.detach(), self.noise[n], self.stream(n)
        rate = self.rates[n] if self.rates else self.automatic_rate(n, y)
        gradients, draw = forms.DESCENTS[self.forms[n]]
        gradients = self.program(n, gradients)
        if self.inversion == "gated":
            one.tape.differentiate()
        for _ in range(count):
            eps, eta = draw(x, sigma, stream), draw(y, sigma, stream)
            found = gradients(back, x, y, one.tape, eps, eta)
            for parameter, velocity, gradient in zip(back.parameters, self.velocity[n], found, strict=True):
                velocity.mul_(self.momentum).add_(gradient)
                parameter.sub_(velocity, alpha=rate)

    def program(self, n: int, function: Any) -> Any:
        """A function of one block's iterations, compiled for it if that was asked for; never the oracle's autograd."""
        if not self.compiled or function is forms.reference:
            return function
        if (n, function) not in self.programs:
            graphs = "reduce-overhead" if self.engine.device.type == "cuda" else None  # by CUDA graphs
            self.programs[n, function] = torch.compile(function, dynamic=False, mode=graphs)
        return self.programs[n, function]

    def automatic_rate(self, n: int, outputs: Tensor) -> float:
        """The loss's curvature is 2 sigma^2 P, P the positions [height x width] that carry noise to the kernel."""
        return GAIN * (1 - self.momentum) / (2 * self.noise[n] ** 2 * math.prod(outputs.shape[2:]))

    def correlate(self, n: int, back: FeedbackBlock, one: Pass, count: int) -> None:
        """Steps of a least-mean-squares filter, on as many samples as its unknowns ask for."""
        if self.automatic and not self.is_late():
            count = automatic_iterations(back, one.outputs, FIRST_REACH if self.fresh else REACH)
        step = forms.every(back, one.outputs, SAMPLES)
        draw = forms.normal_like if one.outputs.dim() > 2 else forms.orthogonal_like
        x, tape = one.inputs[::step], one.tape.some(step)
        sigma, stream = self.noise[n], self.stream(n)
        take = self.program(n, forms.correlated_step)
        with frozen_statistics(back.block):
            rates, before = forms.correlated_rates(back, tape, sigma), back.block(x)
            for _ in range(count):
                back.weights[0].add_(take(back, x, before, tape, draw(x, sigma, stream), rates))

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
        y = one.outputs.detach()
        return forms.loss_of_a_draw(back, one.inputs, y, one.tape, self.noise[n], stream, parameters)

    def state_dict(self) -> dict[str, Any]:
        sums = {n: [solver.gram, solver.product] for n, solver in self.solvers.items()}
        own = {"velocity": self.velocity, "sums": sums, "resting": sorted(self.resting), "fresh": self.fresh}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.resting, self.fresh = set(state["resting"]), state["fresh"]
        pairs = [(self.velocity[n], saved) for n, saved in state["velocity"].items()]
        pairs += [([self.solvers[n].gram, self.solvers[n].product], saved) for n, saved in state["sums"].items()]
        for mine, saved in pairs:
            for one, other in zip(mine, saved, strict=True):
                one.copy_(other)


def side_by_side(device: torch.device, jobs: Sequence[Callable[[], None]]) -> None:
    """Does jobs that do not depend on each other: in turn, or on an accelerator with streams each on one of its own."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    if len(jobs) < 2 or not hasattr(module, "Stream"):
        for job in jobs:
            job()
        return
    assert module is not None
    ours, streams = module.current_stream(device), [module.Stream(device) for _ in jobs]
    for job, stream in zip(jobs, streams, strict=True):
        stream.wait_stream(ours)
        with module.stream(stream):
            job()
    for stream in streams:
        ours.wait_stream(stream)


def widest_angle(back: FeedbackBlock) -> float:
    """Degrees between feedback and forward weights, of the linear map furthest apart; waits for the device."""
    pairs = zip(back.weights, back.layers, strict=True)
    return float(torch.stack([alignment(feedback, layer.weight).angle for feedback, layer in pairs]).max())


def automatic_iterations(back: FeedbackBlock, outputs: Tensor, reach: float = REACH) -> int:
    """``reach`` time constants, each 1 + unknowns / observations iterations, or 32 where there are few observations."""
    observations = len(outputs) * math.prod(outputs.shape[2:])
    return math.ceil(reach * min(32, 1 + forms.unknowns(back.layers[0]) / observations))
