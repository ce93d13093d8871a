"""Methods that learn from what an earlier copy of the network says."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark, LossOf, Term
from fourfold.experience import Experience, Run
from fourfold.methods.finetune import Finetune, masked
from fourfold.settings.stream import Observation, View


class Teacher:
    """A frozen copy of a network as it was; ``network`` is None before the first."""

    def __init__(self) -> None:
        self.network: nn.Module | None = None

    def take(self, network: nn.Module) -> None:
        """From now on this network as it is now."""
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, inputs: Any) -> Tensor:
        assert self.network is not None
        return self.network(inputs)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.network is None else dict(self.network.state_dict())

    def load_state_dict(self, state: Mapping[str, Any], like: nn.Module) -> None:
        """Takes what ``state_dict`` gave; ``like`` is a network of the same shape."""
        self.network = None
        if state:
            self.take(like)
            assert self.network is not None
            self.network.load_state_dict(state)


def distance(outputs: Tensor, taught: Tensor, mask: Tensor | None, old: Tensor | None, temperature: float) -> Tensor:
    """T^2 KL(softmax(taught / T) || softmax(outputs / T)) of each sample, [batch] (Hinton, Vinyals & Dean 2015).

    outputs, taught: [batch, outputs]; mask, old: which outputs the student and the teacher have, None for all.
    """
    if mask is not None:
        outputs = outputs.masked_fill(~mask, -1e9)
    if old is not None:
        taught = taught.masked_fill(~old, -1e9)
    log_student = (outputs / temperature).log_softmax(1)
    log_teacher = (taught / temperature).log_softmax(1)
    return temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(1)


class LwF(Finetune):
    """Learning without forgetting (Li & Hoiem 2016): new samples, labelled by the network as it was.

    w l(new) + v strength T^2 KL(softmax(z_old / T) || softmax(z / T)) on the inputs of the batch; z_old are the outputs
    of the network after the last context, over the outputs that it had seen. Where tasks are told at test, the second
    term is the mean over past tasks, each over its own outputs. In context t, ``sum``: w = v = 1; ``balanced``:
    w = 1/t, v = 1 - 1/t (van de Ven & Tolias 2019); ``past``: w = 1, v = t - 1, so that every past task has the weight
    of the present one (van de Ven, Tuytelaars & Tolias 2022, who leave T^2 out: their strength 1 is 1 / T^2 here).
    """

    def __init__(self, strength: float, temperature: float, weighting: str) -> None:
        self.strength = strength
        self.temperature = temperature
        self.weighting = weighting
        self.contexts_begun = 0

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.teacher = Teacher()
        self.seen_before: Tensor | None = None
        tasks = 0 if self.task_outputs is None else len(self.task_outputs)
        self.tasks_seen = torch.zeros(tasks, dtype=torch.bool, device=self.device)
        self.tasks_past: list[int] = []

    def begin_context(self, number: int) -> None:
        self.contexts_begun += 1

    def terms(self, observation: Observation) -> Iterator[Term]:
        if self.task_outputs is not None:
            self.tasks_seen[observation.task] = True
        if self.teacher.network is None or not self.strength:
            yield from super().terms(observation)
            return
        taught = self.teacher(observation.inputs)
        mask = self.mask(observation)
        for term in self.objective.terms(self.network, observation):
            loss_of = masked(term.loss_of, mask)
            yield Term(term.group, term.inputs, term.targets, self._with_distance(loss_of, mask, taught))

    def _weights(self) -> tuple[float, float]:
        """(w, v): the weights of what is new and of what the old network says."""
        number = max(1, self.contexts_begun)
        if self.weighting == "balanced":
            return 1 / number, 1 - 1 / number
        return 1.0, float(number - 1) if self.weighting == "past" else 1.0

    def _with_distance(self, loss_of: LossOf, mask: Tensor | None, taught: Tensor) -> LossOf:
        new, old = self._weights()
        if self.task_outputs is None:
            pairs = [(mask, self.seen_before)]
        else:
            pairs = [(self.task_outputs[task], self.task_outputs[task]) for task in self.tasks_past]

        def taught_loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
            each = [distance(outputs, taught, mine, its, self.temperature) for mine, its in pairs]
            drift = torch.stack(each).mean(0)
            drift = drift if reduction == "none" else drift.mean()
            return new * loss_of(outputs, targets, reduction=reduction) + old * self.strength * drift

        return taught_loss

    def end_context(self, experience: Experience) -> None:
        self.teacher.take(self.network)
        self.seen_before = None if self.seen is None else self.seen.clone()
        self.tasks_past = self.tasks_seen.nonzero().flatten().tolist()

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "teacher": self.teacher.state_dict(),
            "seen_before": self.seen_before,
            "tasks_seen": self.tasks_seen,
            "tasks_past": self.tasks_past,
            "contexts_begun": self.contexts_begun,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.teacher.load_state_dict(state["teacher"], self.network)
        self.seen_before = state["seen_before"]
        self.tasks_seen.copy_(state["tasks_seen"])
        self.tasks_past = state["tasks_past"]
        self.contexts_begun = state["contexts_begun"]
