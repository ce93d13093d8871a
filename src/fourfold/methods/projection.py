"""Methods that turn the gradient so that what was learned before does not get worse."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import nnls
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Experience, Run
from fourfold.methods import buffers
from fourfold.methods.finetune import Finetune
from fourfold.methods.gradients import dot, gradient_on, trained
from fourfold.settings.stream import Observation, View


class AGEM(Finetune):
    """Averaged gradient episodic memory (Chaudhry et al. 2019).

    With r the gradient on samples of past contexts: if g.r < 0 then g <- g - (g.r / r.r) r. At its end a context's
    samples are offered to the memory, which is balanced over classes: ``each`` of one at most.
    """

    def __init__(self, memory: int, storage: str, each: int | None) -> None:
        self.memory_size = memory
        self.storage = storage
        self.each = each

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.memory = buffers.memory(self.storage, self.memory_size, run.generator("memory"), view, self.each)
        self.reference: Mapping[str, Tensor] | None = None

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        if len(self.memory):
            with self.run.meter.phase("reference"):
                past = self.memory.draw(len(observation.targets))
                self.reference = gradient_on(self, Observation(**past))
        return super().observe(observation, prediction)

    def after_gradients(self) -> None:
        if self.reference is None:
            return
        own = trained(self.network)
        gradient = {name: p.grad for name, p in own.items() if p.grad is not None}
        reference = {name: self.reference[name] for name in gradient}
        square = dot(reference, reference)
        # No question to the device: where the two agree, or there is no reference gradient, the share is 0.
        share = torch.where(square > 0, (dot(gradient, reference) / square).clamp(max=0), torch.zeros_like(square))
        for name, values in gradient.items():
            values.sub_(share * reference[name])

    def end_context(self, experience: Experience) -> None:
        for observation in experience.sample(experience.samples, "offered", buffers.OFFER_BATCH):
            kept = {"inputs": observation.inputs, "targets": observation.targets}
            kept["group"] = buffers.group_of(observation, self.view)
            self.memory.add(**kept, **({"task": observation.task} if self.task_outputs is not None else {}))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "memory": self.memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])


class GEM(Finetune):
    """Gradient episodic memory (Lopez-Paz & Ranzato 2017): one constraint for each past context.

    min 1/2 |h - g|^2 so that h.g_k >= 0 for all k < t, by its dual: h = g + G'v, v >= margin, where v minimises
    1/2 v'GG'v + g'G'v and the rows of G are the past contexts' gradients.
    """

    def __init__(self, memory: int, margin: float) -> None:
        self.memory_each = memory
        self.margin = margin
        self.past: list[dict[str, Tensor]] = []  # the samples kept of each context
        self.references: list[dict[str, Tensor]] = []

    def sample_bytes(self) -> int:
        return sum(buffers.stored_bytes(values) for kept in self.past for values in kept.values())

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        if self.past:
            with self.run.meter.phase("reference"):
                self.references = [gradient_on(self, Observation(**kept)) for kept in self.past]
        return super().observe(observation, prediction)

    def after_gradients(self) -> None:
        if not self.references:
            return
        own = {name: p.grad for name, p in trained(self.network).items() if p.grad is not None}
        gradient = torch.cat([values.flatten() for values in own.values()])
        rows = torch.stack([torch.cat([one[name].flatten() for name in own]) for one in self.references])
        if bool((rows @ gradient >= 0).all()):
            return
        gram = (rows @ rows.T).double().cpu().numpy()
        towards = (rows @ gradient).double().cpu().numpy()
        weights = torch.from_numpy(dual(gram, towards, self.margin)).to(gradient)
        gradient = gradient + weights @ rows
        parts = gradient.split([values.numel() for values in own.values()])
        for values, part in zip(own.values(), parts, strict=True):
            values.copy_(part.view_as(values))

    def end_context(self, experience: Experience) -> None:
        parts = list(experience.sample(self.memory_each, "kept", buffers.OFFER_BATCH))
        kept = ["inputs", "targets", *(["task"] if self.task_outputs is not None else [])]
        self.past.append({name: torch.cat([getattr(part, name) for part in parts]) for name in kept})

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "past": list(self.past)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.past = list(state["past"])


def dual(gram: np.ndarray, towards: np.ndarray, margin: float) -> np.ndarray:
    """argmin over v >= margin of 1/2 v' gram v + towards' v, for a Gram matrix [k, k] and vector [k].

    With u = v - margin >= 0 and gram = L L' it is the least-squares problem min |L'u + L^-1 (towards + gram margin)|.
    """
    size = np.trace(gram) / len(gram)
    lower = cholesky(gram + 1e-9 * max(size, 1e-30) * np.eye(len(gram)), lower=True)
    shift = solve_triangular(lower, towards + gram @ np.full(len(gram), margin), lower=True)
    return nnls(lower.T, -shift)[0] + margin
