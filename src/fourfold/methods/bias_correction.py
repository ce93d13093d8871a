"""BiC: replay and distillation, and then two numbers that take back the preference for what is new."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark, LossOf, Term
from fourfold.experience import Experience, Run
from fourfold.methods import buffers
from fourfold.methods.distillation import Teacher, distance
from fourfold.methods.finetune import Finetune, masked
from fourfold.methods.replay import Samples, together, weighted
from fourfold.settings.stream import Observation, View

OFFER_BATCH = 500  # samples of an ended context looked at at once
SPREAD = 997.0  # makes the last digits of a sum of pixels decide who is held out


class BiC(Finetune):
    """Bias correction (Wu et al. 2019).

    Stage 1 trains on the context's samples and remembered ones, as many of these a step as their share of the union:
    (1 - v) l + v T^2 KL(old || new) over the old outputs, v = old / (old + this context's outputs). Stage 2, as the
    context ends, fits q_k = a z_k + b for the outputs k that are new in it, on samples that are held out of stage 1,
    balanced over classes, with the network fixed: argmin l + prior/2 ((a - 1)^2 + b^2). a, b stay with these outputs.

    Whether a sample is held out is decided by its pixels, so that it is in every pass, and no augmentation may change
    them. Remembered samples are drawn at
    random, balanced over classes; the paper herds them.
    """

    def __init__(
        self, memory: int, held_out: float, temperature: float, distill: bool, correct: bool, prior: float
    ) -> None:
        self.memory_size = memory
        self.held_out = held_out
        self.temperature = temperature
        self.distill = distill
        self.correct = correct
        self.prior = prior
        self.a_step: float | None = None  # remembered samples for each new one

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        for_validation = max(1, round(self.held_out * self.memory_size))
        size = max(1, self.memory_size - for_validation)
        self.memory = buffers.Balanced(size, run.generator("memory"))
        self.validation = buffers.Balanced(for_validation, run.generator("validation"))
        self.teacher = Teacher()
        self.old = torch.zeros(view.outputs, dtype=torch.bool, device=self.device)
        self.shown = self.old.clone()
        self.scale = torch.ones(view.outputs, device=self.device)
        self.shift = torch.zeros(view.outputs, device=self.device)

    def begin_context(self, number: int) -> None:
        self.shown = torch.zeros_like(self.old)

    def learn(self, experience: Experience, run: Run) -> None:
        self.a_step = len(self.memory) / max(1, experience.samples)
        super().learn(experience, run)

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        self.shown[observation.targets] = True
        return super().observe(observation)  # a prediction here is corrected: not what stage 1 learns from

    def is_held_out(self, inputs: Tensor) -> Tensor:
        """[batch], true for the share ``held_out`` of all possible inputs."""
        return (inputs.flatten(1).double().sum(1) * SPREAD).frac().abs() < self.held_out

    def corrected(self, outputs: Tensor) -> Tensor:
        """a z + b with each output's own numbers."""
        return outputs * self.scale + self.shift

    def terms(self, observation: Observation) -> Iterator[Term]:
        both = self._with_remembered(observation)
        if both is observation and not self.held_out:  # the first context: nothing to weigh, and no teacher
            yield from super().terms(observation)
            return
        used = torch.ones(len(both.targets), device=self.device)
        used[: len(observation.targets)] = (~self.is_held_out(observation.inputs)).float()
        weights = used / used.sum().clamp(min=1)
        mask = self.mask(both)
        taught = None
        if self.distill and self.teacher.network is not None:
            taught = self.corrected(self.teacher(both.inputs))
        for term in self.objective.terms(self.network, both):
            plain = weighted(masked(term.loss_of, mask), weights)
            yield Term(term.group, term.inputs, term.targets, self._loss_of(plain, taught, weights))

    def _loss_of(self, plain: LossOf, taught: Tensor | None, weights: Tensor) -> LossOf:
        old = self.old.clone()
        share = float(old.sum()) / max(1.0, float(old.sum() + self.shown.sum()))

        def bias_loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
            own = self.corrected(outputs)
            losses = plain(own, targets, reduction="none")
            if taught is not None:
                losses = (1 - share) * losses + share * weights * distance(own, taught, old, old, self.temperature)
            return losses if reduction == "none" else losses.sum()

        return bias_loss

    def _told(self, observation: Observation) -> Samples:
        found = {"inputs": observation.inputs, "targets": observation.targets}
        return {**found, "task": observation.task} if self.task_outputs is not None else found

    def _with_remembered(self, observation: Observation) -> Observation:
        share = 1.0 if self.a_step is None else self.a_step
        count = math.ceil(share * len(observation.targets)) if len(self.memory) else 0
        return together(self._told(observation), self.memory.draw(count)) if count else observation

    def end_context(self, experience: Experience) -> None:
        with self.run.meter.phase("consolidation"):
            for observation in experience.sample(experience.samples, "offered", OFFER_BATCH):
                held = self.is_held_out(observation.inputs)
                group = buffers.group_of(observation, self.view)
                offered = {**self._told(observation), "group": group}
                for memory, rows in ((self.memory, ~held), (self.validation, held)):
                    if bool(rows.any()):
                        memory.add(**{name: values[rows] for name, values in offered.items()})
            new = self.shown & ~self.old
            if self.correct and self.held_out and bool(self.old.any()) and bool(new.any()):
                self._fit(new)
            self.old = self.old | self.shown
            self.teacher.take(self.network)

    def _fit(self, new: Tensor) -> None:
        """Stage 2: the two numbers of the new outputs, at the least cross entropy of the validation samples."""
        samples = Observation(**self.validation.rows(torch.arange(len(self.validation))))
        self.mode(training=False)
        with torch.no_grad():
            outputs = self.corrected(self.network(samples.inputs))
        self.mode(training=True)
        mask = self.mask(samples)
        numbers = torch.tensor([1.0, 0.0], device=self.device, requires_grad=True)
        # Convex in both: found in a few steps of a quasi-Newton method.
        solver = torch.optim.LBFGS([numbers], max_iter=100, line_search_fn="strong_wolfe")
        loss_of = masked(next(iter(self.objective.terms(self.network, samples))).loss_of, mask)

        def loss() -> Tensor:
            solver.zero_grad()
            value = loss_of(torch.where(new, outputs * numbers[0] + numbers[1], outputs), samples.targets)
            value = value + self.prior / 2 * ((numbers[0] - 1).square() + numbers[1].square())
            value.backward()
            return value

        solver.step(loss)
        scale, shift = numbers.detach()
        self.scale, self.shift = torch.where(new, scale, self.scale), torch.where(new, shift, self.shift)

    def predict(self, observation: Observation) -> Tensor:
        with self.run.engine.autocast():
            return self.corrected(self.network(observation.inputs))

    @property
    def outputs_before(self) -> Tensor | None:
        outputs = super().outputs_before
        return None if outputs is None else self.corrected(outputs)

    OWN = ("old", "shown", "scale", "shift", "a_step")

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            **{name: getattr(self, name) for name in self.OWN},
            "memory": self.memory.state_dict(),
            "validation": self.validation.state_dict(),
            "teacher": self.teacher.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name in self.OWN:
            setattr(self, name, state[name])
        self.memory.load_state_dict(state["memory"])
        self.validation.load_state_dict(state["validation"])
        self.teacher.load_state_dict(state["teacher"], self.network)
