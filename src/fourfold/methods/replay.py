"""Methods that learn again from remembered samples."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fourfold.benchmarks.interface import Benchmark, LossOf, Term
from fourfold.errors import Refused
from fourfold.experience import Experience, Run
from fourfold.methods import buffers
from fourfold.methods.finetune import Finetune, masked
from fourfold.methods.gradients import gradient_of_each, gradient_on, trained
from fourfold.settings.stream import Observation, View

Samples = dict[str, Tensor]


class Replay(Finetune):
    """Experience replay (Rolnick et al. 2019): a step learns from the batch that came and from as many remembered.

    loss = w l(new) + v l(remembered); ``sum``: w = v = 1; ``balanced``: w = 1/t, v = 1 - 1/t in context t where
    boundaries are told (van de Ven, Tuytelaars & Tolias 2022), else one half each. Samples are offered to the memory
    after each step, or (``contexts``) all of a context in random order when it ends, so that only past contexts are
    learned again. ``each``: at most so many of a class, also while there is room for more.
    """

    def __init__(
        self, memory: int, storage: str, weighting: str, each: int | None = None, filled: str = "steps"
    ) -> None:
        self.memory_size = memory
        self.storage = storage
        self.weighting = weighting
        self.each = each
        self.filled = filled
        self.contexts_begun = 0

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        if self.storage != "reservoir" and "classification" not in benchmark.facts:
            raise Refused(f"method.storage={self.storage}: {benchmark.name} has no classes; choose reservoir")
        if self.filled == "contexts" and "boundaries_train" not in view.grants:
            raise Refused("method.filled=contexts: this setting does not tell when a context ends; choose steps")
        self.memory = buffers.memory(self.storage, self.memory_size, run.generator("reservoir"), view, self.each)

    def begin_context(self, number: int) -> None:
        self.contexts_begun += 1

    def terms(self, observation: Observation) -> Iterator[Term]:
        new, old = self.weights()
        past = self.remembered(observation) if old and len(self.memory) else None
        if past is None:
            yield from super().terms(observation)
        else:
            both = together(self.told(observation), past)
            weights = shares((new, len(observation.targets)), (old, len(past["targets"])), device=self.device)
            mask = self.mask_of_both(observation, both)
            for term in self.objective.terms(self.network, both):
                yield Term(term.group, term.inputs, term.targets, weighted(masked(term.loss_of, mask), weights))
        self.keep(observation)

    def told(self, observation: Observation) -> Samples:
        """What of a batch the method learns from."""
        found = {"inputs": observation.inputs, "targets": observation.targets}
        return {**found, "task": observation.task} if self.task_outputs is not None else found

    def remembered(self, observation: Observation) -> Samples | None:
        """The samples to learn again beside this batch."""
        return self.memory.draw(len(observation.targets))

    def mask_of_both(self, observation: Observation, both: Observation) -> Tensor | None:
        """The outputs that take part, for the batch and the remembered samples after it."""
        return self.mask(both)

    def keep(self, observation: Observation) -> None:
        """What to do with a batch after it was learned from."""
        if self.filled == "steps":
            self.offer(observation)

    def end_context(self, experience: Experience) -> None:
        if self.filled == "contexts":
            for observation in experience.sample(experience.samples, "offered", buffers.OFFER_BATCH):
                self.offer(observation)

    def offer(self, observation: Observation) -> None:
        """Offers a batch to the memory."""
        told = self.told(observation)
        if self.storage != "reservoir":  # which does not ask for classes; text has none
            told["group"] = buffers.group_of(observation, self.view)
        self.memory.add(**told)

    def weights(self) -> tuple[float, float]:
        """The weights of the losses on what is new and on what is remembered."""
        if self.weighting == "sum":
            return 1.0, 1.0
        if "boundaries_train" not in self.view.grants:
            return 0.5, 0.5
        contexts = max(1, self.contexts_begun)
        return 1 / contexts, 1 - 1 / contexts

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "memory": self.memory.state_dict(), "contexts_begun": self.contexts_begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
        self.contexts_begun = state["contexts_begun"]


class AsymmetricReplay(Replay):
    """ER-ACE (Caccia et al. 2022): the loss on new samples compares the classes of the batch with each other only.

    loss = l(new; classes in the batch) + l(remembered; classes seen), so that new classes do not push old ones down.
    """

    def mask_of_both(self, observation: Observation, both: Observation) -> Tensor | None:
        mask = self.mask(both)
        rows = torch.ones(len(both.targets), self.view.outputs, dtype=torch.bool, device=self.device)
        rows = rows if mask is None else rows & mask
        count = len(observation.targets)
        present = torch.zeros(self.view.outputs, dtype=torch.bool, device=self.device)
        present[observation.targets] = True
        rows[:count] &= present
        return rows


class DarkReplay(Replay):
    """Dark experience replay (Buzzega et al. 2020): remembered samples keep the outputs that they once had.

    DER: loss = l(new) + alpha mean (z(x) - z)^2 over remembered (x, z), z the outputs when x came; DER++ adds
    beta l(x', y') over others (x', y').
    """

    def __init__(self, memory: int, storage: str, alpha: float, beta: float) -> None:
        super().__init__(memory, storage, "sum")
        self.alpha, self.beta = alpha, beta
        self.outputs: Tensor | None = None

    def terms(self, observation: Observation) -> Iterator[Term]:
        count = len(observation.targets)
        dark = self.memory.draw(count) if self.alpha and len(self.memory) else {}
        past = self.memory.draw(count) if self.beta and len(self.memory) else {}
        logits = dark.pop("logits", None)
        past.pop("logits", None)
        both = observation
        for part in (dark, past):
            both = together(self.told(both), part) if part else both
        mask = self.mask(both)
        for term in self.objective.terms(self.network, both):
            yield Term(term.group, term.inputs, term.targets, self._loss_of(term.loss_of, mask, logits, count))
        assert self.outputs is not None
        group = buffers.group_of(observation, self.view)
        self.memory.add(**self.told(observation), logits=self.outputs, group=group)
        self.outputs = None

    def _loss_of(self, loss_of: LossOf, mask: Tensor | None, logits: Tensor | None, count: int) -> LossOf:
        """The loss over rows: ``count`` new ones, then those with kept outputs, then those with kept targets."""
        plain = masked(loss_of, mask)

        def dark_loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
            self.outputs = outputs[:count].detach()
            dark = 0 if logits is None else len(logits)
            if len(outputs) == count and reduction == "mean":
                return plain(outputs, targets)
            labelled = len(outputs) - count - dark
            weights = shares((1, count), (0, dark), (self.beta, labelled), device=outputs.device)
            losses = plain(outputs, targets, reduction="none") * weights
            if logits is not None:
                distances = (outputs[count : count + dark] - logits).square().mean(1) * (self.alpha / dark)
                losses = torch.cat([losses[:count], distances, losses[count + dark :]])
            return losses if reduction == "none" else losses.sum()

        return dark_loss


class InterferedReplay(Replay):
    """MIR (Aljundi et al. 2019): of the remembered samples those that the coming update hurts most.

    p' = p - rate grad l(new); of ``candidates`` samples drawn for each of the batch, as many as the batch has are
    learned again, those with the largest l(x; p') - l(x; p). The paper draws 50 for a batch of 10.
    """

    def __init__(
        self, memory: int, storage: str, weighting: str, each: int | None, filled: str, candidates: int
    ) -> None:
        super().__init__(memory, storage, weighting, each, filled)
        self.candidates = candidates

    def remembered(self, observation: Observation) -> Samples | None:
        count = len(observation.targets)
        drawn = self.memory.draw(self.candidates * count)
        if len(drawn["targets"]) <= count:
            return drawn
        with self.run.meter.phase("selection"):
            harm = self.interference(observation, drawn)
            worst = harm.topk(count).indices
        return {name: values[worst] for name, values in drawn.items()}

    def interference(self, observation: Observation, drawn: Samples) -> Tensor:
        """How much the loss of each drawn sample grows by one plain step on the batch, [drawn]."""
        gradient = gradient_on(self, observation)
        rate = self.run.recipe.optimizer["learning_rate"]
        with torch.no_grad():
            ahead = {name: p - rate * gradient[name] for name, p in trained(self.network).items()}
            before = self.network(drawn["inputs"])
            after = functional_call(self.network, ahead, (drawn["inputs"],))
            mask = self.mask(Observation(**drawn))
            term = next(iter(self.objective.terms(self.network, Observation(**drawn))))
            loss_of = masked(term.loss_of, mask)
            return loss_of(after, term.targets, reduction="none") - loss_of(before, term.targets, reduction="none")


class GradientDiverseReplay(Replay):
    """GSS-greedy (Aljundi et al. 2019): the memory keeps samples whose gradients point in different directions.

    A sample's score is 1 + its largest cosine to the gradients of ``compared`` random members. While there is room
    all are taken; then a sample with score c < 1 meets a member i drawn by its score C_i, and takes its place with
    probability C_i / (C_i + c).
    """

    def __init__(self, memory: int, weighting: str, compared: int) -> None:
        super().__init__(memory, "reservoir", weighting)
        self.compared = compared

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.scores = torch.zeros(self.memory_size)  # of each place of the memory
        self.draw = run.generator("gss")

    def keep(self, observation: Observation) -> None:
        with self.run.meter.phase("selection"):
            own = self.told(observation)
            scores = self.similarity(own)
            room = self.memory_size - len(self.memory)
            rows = {at: row for row, at in enumerate(range(len(self.memory), self.memory_size)) if row < len(scores)}
            rows |= self._replacements(scores, room)
            for place, row in rows.items():
                self.scores[place] = scores[row]
            self.memory.place(rows, own)

    def similarity(self, samples: Samples) -> Tensor:
        """1 + the largest cosine of each sample's gradient with those of the members compared; [batch], on the CPU."""
        if not len(self.memory):
            return torch.zeros(len(samples["targets"]))
        new = self._directions(samples)
        members = self._directions(self.memory.draw(self.compared))
        return (1 + (new @ members.T).max(1).values).cpu()

    def _replacements(self, scores: Tensor, room: int) -> dict[int, int]:
        """{place: row} for the rows that do not fit in the room left and win against a member."""
        found: dict[int, int] = {}
        for row in range(room, len(scores)):
            if scores[row] >= 1 or len(self.memory) < self.memory_size:
                continue
            weights = self.scores + 1e-8
            place = int(torch.multinomial(weights, 1, generator=self.draw))
            wins = self.scores[place] / (self.scores[place] + scores[row] + 1e-8)
            if float(torch.rand(1, generator=self.draw)) < wins:
                found[place] = row
                self.scores[place] = scores[row]
        return found

    def _directions(self, samples: Samples) -> Tensor:
        """The gradients of the samples' losses, each of length 1: [batch, parameters]."""
        mask = self.mask(Observation(**samples))
        rows = torch.ones(len(samples["targets"]), self.view.outputs, dtype=torch.bool, device=self.device)
        allowed = rows if mask is None else rows & mask

        def loss(outputs: Tensor, target: Tensor, own: Tensor) -> Tensor:
            return F.cross_entropy(outputs.masked_fill(~own, -1e9), target)

        found = gradient_of_each(self.network, loss, samples["inputs"], samples["targets"], allowed)
        return F.normalize(torch.cat([values.flatten(1) for values in found.values()], 1), dim=1)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "scores": self.scores, "draw": self.draw.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.scores = state["scores"]
        self.draw.set_state(state["draw"])


def together(new: Samples, past: Samples) -> Observation:
    """A batch with remembered samples after it."""
    return Observation(**{name: torch.cat([values, past[name]]) for name, values in new.items()})


def shares(*parts: tuple[float, int], device: torch.device) -> Tensor:
    """The weight of each sample where each part of so many samples has a weight as a whole: [samples]."""
    return torch.cat([torch.full((count,), weight / max(1, count), device=device) for weight, count in parts])


def weighted(loss_of: LossOf, weights: Tensor) -> LossOf:
    """The sum of the samples' losses times their weights [batch]."""

    def weighted_loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        losses = loss_of(outputs, targets, reduction="none") * weights
        return losses if reduction == "none" else losses.sum()

    return weighted_loss
