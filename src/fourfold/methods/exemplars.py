"""Methods whose knowledge is in chosen samples: iCaRL and GDumb."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark, Term
from fourfold.errors import Refused
from fourfold.experience import Experience, Run
from fourfold.hardware.engine import make_optimizer
from fourfold.methods import buffers
from fourfold.methods.distillation import Teacher
from fourfold.methods.features import features_of_all
from fourfold.methods.finetune import Finetune, masked
from fourfold.settings.stream import Observation, View

GATHER_BATCH = 500  # samples of an ended context looked at at once


def herd(vectors: Tensor, count: int) -> Tensor:
    """The rows whose running mean stays closest to the mean of all, in order of choice (Welling 2009); [count].

    vectors: [samples, features]; greedily p_k = argmin |mean - (sum_{i<k} f(p_i) + f(x)) / k|.
    """
    mean = vectors.mean(0)
    chosen: list[Tensor] = []
    total = torch.zeros_like(mean)
    free = torch.zeros(len(vectors), device=vectors.device)
    for number in range(1, min(count, len(vectors)) + 1):
        distances = (mean - (total + vectors) / number).norm(dim=1) + free
        best = distances.argmin()
        chosen.append(best)
        total = total + vectors[best]
        free[best] = math.inf
    return torch.stack(chosen)


class ICaRL(Finetune):
    """iCaRL (Rebuffi et al. 2017): exemplars, distillation, nearest mean.

    Trains on the context's samples and all exemplars together, as many of these a step as their share of the union,
    with binary cross entropies summed over outputs: towards the targets for outputs that are new, towards what the
    network said before (at a temperature) for those seen in earlier contexts and not in this one. After a context,
    memory / classes exemplars of each class are chosen by herding; the classes are those seen (the paper), or all
    that there will be (van de Ven et al. 2022: as many a class from the beginning). A prediction is the class whose
    exemplars' mean is nearest, in features of length 1.
    """

    def __init__(self, memory: int, shared_by: str, distill: bool, temperature: float) -> None:
        self.memory = memory
        self.shared_by = shared_by
        self.distill = distill
        self.temperature = temperature
        self.exemplars: dict[int, Tensor] = {}  # class -> inputs, in order of choice
        self.a_step: float | None = None  # exemplars for each new sample

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        if self.memory < view.outputs:
            raise Refused(
                f"method.memory={self.memory}: {view.outputs} classes need one each; choose {view.outputs} or more"
            )
        self.teacher = Teacher()
        self.old = torch.zeros(view.outputs, dtype=torch.bool, device=self.device)
        self.shown = self.old.clone()  # in this context
        self.draw = run.generator("exemplars")
        self.means: Tensor | None = None

    def sample_bytes(self) -> int:
        return sum(map(buffers.stored_bytes, self.exemplars.values()))

    def learn(self, experience: Experience, run: Run) -> None:
        kept = sum(len(inputs) for inputs in self.exemplars.values())
        self.a_step = kept / max(1, experience.samples)
        super().learn(experience, run)

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        self.means = None
        return super().observe(observation)  # a prediction here is a distance: nothing to learn from

    def terms(self, observation: Observation) -> Iterator[Term]:
        both = self._with_exemplars(observation)
        taught = None
        if self.distill and self.teacher.network is not None:
            taught = (self.teacher(both.inputs) / self.temperature).sigmoid()
        self.shown[observation.targets] = True
        seen, old = self.seen, self.old & ~self.shown  # a class that comes again is learned by its labels

        def binary(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
            wanted = F.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
            if taught is not None:
                wanted = torch.where(old, taught, wanted)
            losses = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
            losses = losses.sum(1) if seen is None else losses.masked_fill(~seen, 0.0).sum(1)
            return losses if reduction == "none" else losses.mean()

        yield Term("all", both.inputs, both.targets, binary)

    def _with_exemplars(self, observation: Observation) -> Observation:
        share = 1.0 if self.a_step is None else self.a_step
        count = math.ceil(share * len(observation.targets)) if self.exemplars else 0
        if not count:
            return observation
        labels = torch.cat([torch.full((len(x),), label) for label, x in self.exemplars.items()])
        chosen = torch.randint(len(labels), (count,), generator=self.draw)
        inputs = torch.cat(list(self.exemplars.values()))[chosen.to(self.device)]
        targets = labels[chosen].to(self.device)
        return Observation(
            inputs=torch.cat([observation.inputs, inputs]), targets=torch.cat([observation.targets, targets])
        )

    def end_context(self, experience: Experience) -> None:
        with self.run.meter.phase("consolidation"):
            parts = list(experience.sample(experience.samples, "herding", GATHER_BATCH))
            inputs = torch.cat([part.inputs for part in parts])
            targets = torch.cat([part.targets for part in parts])
            labels = targets.unique().tolist()
            classes = len(set(self.exemplars) | set(labels)) if self.shared_by == "seen" else self.view.outputs
            each = self.memory // classes
            self.exemplars = {label: kept[:each] for label, kept in self.exemplars.items()}
            for label in labels:
                own = inputs[targets == label]
                before = self.exemplars.get(label)  # a class that comes again: old exemplars compete with new samples
                own = own if before is None else torch.cat([before, own])
                self.exemplars[label] = own[herd(F.normalize(features_of_all(self.network, own), dim=1), each)]
            self.teacher.take(self.network)
            self.old[list(self.exemplars)] = True
            self.shown.zero_()
            self.means = None

    def predict(self, observation: Observation) -> Tensor:
        if not self.exemplars:
            return super().predict(observation)
        if self.means is None:
            each = [F.normalize(features_of_all(self.network, x), dim=1).mean(0) for x in self.exemplars.values()]
            self.means = F.normalize(torch.stack(each), dim=1)
        found = F.normalize(features_of_all(self.network, observation.inputs), dim=1)
        scores = torch.full((len(found), self.view.outputs), -1e9, device=self.device)
        scores[:, list(self.exemplars)] = -torch.cdist(found, self.means)
        return scores

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "exemplars": dict(self.exemplars),
            "a_step": self.a_step,
            "teacher": self.teacher.state_dict(),
            "old": self.old,
            "shown": self.shown,
            "draw": self.draw.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.exemplars = dict(state["exemplars"])
        self.a_step = state["a_step"]
        self.teacher.load_state_dict(state["teacher"], self.network)
        self.old.copy_(state["old"])
        self.shown.copy_(state["shown"])
        self.draw.set_state(state["draw"])
        self.means = None


class GDumb(Finetune):
    """GDumb (Prabhu, Torr & Dokania 2020): greedily keeps a balanced memory, and trains on nothing else, when asked.

    Each sample is offered to the memory once, in the first pass. Before a prediction a fresh network is trained on it:
    ``passes`` passes of SGD with momentum 0.9, gradients cut to length ``clip``, the rate falling from
    ``learning_rate`` to ``last_rate`` along a cosine. Where boundaries are told this is done as a context ends, so
    that its time counts as learning. CutMix is not used.
    """

    def __init__(
        self, memory: int, passes: int, batch: int, learning_rate: float, last_rate: float, clip: float
    ) -> None:
        self.memory_size = memory
        self.passes = passes
        self.batch = batch
        self.rates = (learning_rate, last_rate)
        self.clip = clip
        self.stale = False  # whether the memory has changed since the network was trained
        self.experience = -1  # the number of the one being learned
        self.left = math.inf  # its samples that were not offered yet

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.memory = buffers.Balanced(self.memory_size, run.generator("memory"))
        self.fresh = {name: values.clone() for name, values in self.network.state_dict().items()}

    def learn(self, experience: Experience, run: Run) -> None:
        if experience.number != self.experience:
            self.experience, self.left = experience.number, experience.samples / run.engine.parts or math.inf
        super().learn(experience, run)

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        if self.seen is not None:
            self.seen[observation.targets] = True
        if self.left > 0:
            self._offer(observation)
            self.left -= len(observation.targets)
        return None

    def _offer(self, observation: Observation) -> None:
        kept = {"inputs": observation.inputs, "targets": observation.targets}
        kept["group"] = buffers.group_of(observation, self.view)
        self.memory.add(**kept, **({"task": observation.task} if self.task_outputs is not None else {}))
        self.stale = True

    def end_context(self, experience: Experience) -> None:
        with self.run.meter.phase("consolidation"):
            self.train()

    def predict(self, observation: Observation) -> Tensor:
        if self.stale:
            self.train()
        return super().predict(observation)

    def train(self) -> None:
        """Trains a fresh network on the memory; the order of samples depends on the cell's seed alone."""
        training = self.network.training
        with torch.enable_grad():
            self.network.load_state_dict(self.fresh)
            self.network.train()
            sgd = {"name": "sgd", "learning_rate": self.rates[0], "momentum": 0.9, "weight_decay": 1e-6}
            optimizer = make_optimizer(self.network.parameters(), sgd)
            draw = self.run.generator("passes")
            for number in range(self.passes):
                high, low = self.rates
                rate = low + (high - low) * (1 + math.cos(math.pi * number / self.passes)) / 2
                for group in optimizer.param_groups:
                    group["lr"] = rate
                for part in torch.randperm(len(self.memory), generator=draw).split(self.batch):
                    self._step(Observation(**self.memory.rows(part)), optimizer)
        self.network.train(training)
        self.stale = False

    def _step(self, observation: Observation, optimizer: torch.optim.Optimizer) -> None:
        mask = self.mask(observation)
        for term in self.objective.terms(self.network, observation):
            optimizer.zero_grad(set_to_none=True)
            self.rule.gradients(self.network, term.inputs, term.targets, masked(term.loss_of, mask))
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("stale", "experience", "left")}
        return {**super().state_dict(), "memory": self.memory.state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
        self.stale, self.experience, self.left = state["stale"], state["experience"], state["left"]
