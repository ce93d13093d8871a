"""Plain training, and the parts that every gradient-trained method shares."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from fourfold.benchmarks.interface import Benchmark, LossOf, Term
from fourfold.errors import Refused
from fourfold.experience import Run
from fourfold.methods.interface import Method
from fourfold.settings.protocols import judged
from fourfold.settings.stream import Observation, View


class Finetune(Method):
    """Minimises the loss of what comes, and keeps nothing.

    Which outputs take part: those of the sample's task where tasks are labelled in training and at test; those seen
    so far where classes arrive over time, unless the setting has all active; all of them otherwise. A subclass
    overrides ``terms`` to learn from more, ``after_gradients`` to change what was found before it is applied.
    """

    _before: tuple[Any, int, Tensor | None] | None = None  # the last step's outputs, samples that came, mask before it

    @property
    def accumulates(self) -> bool:
        """A subclass that makes its updates in another way, or whose loss belongs to a whole batch, does not."""
        own = type(self)
        return own.observe is Finetune.observe and own.terms is Finetune.terms and own.learn is Method.learn

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        self.run, self.view, self.rule = run, view, rule
        self.benchmark, self.objective = benchmark, benchmark.objective
        self.device = run.engine.device
        self.network = run.engine.network(lambda device: self.build_network(benchmark, view, device))
        groups = self.objective.groups(self.network)
        self.optimizers = {name: run.engine.optimizer(own, run.recipe.optimizer) for name, own in groups.items()}
        rule.prepare(self.network)
        self.task_outputs = view.task_outputs
        if self.task_outputs is not None and run.recipe.accumulate > 1:
            raise Refused(f"accumulate={run.recipe.accumulate}: not where each sample's task says what it can be")
        arriving = "classification" in benchmark.facts and not view.grants & {"stationary", "shared_outputs"}
        masks = arriving and not view.all_active
        self.seen = torch.zeros(view.outputs, dtype=torch.bool, device=self.device) if masks else None

    def build_network(self, benchmark: Benchmark, view: View, device: torch.device) -> torch.nn.Module:
        """The benchmark's network, with as many outputs as the setting has."""
        return benchmark.network(self.run.seed, device, outputs=view.outputs)

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        mask_before = self.mask(observation)
        if self.seen is not None:
            self.seen = self.seen.index_fill(0, observation.targets, True)  # a new one: the mask before stays as it was
        loss, self._before = None, None
        for term in self.terms(observation):
            optimizer = self.optimizers[term.group]
            optimizer.zero_grad(set_to_none=True)
            outputs = prediction if term.inputs is observation.inputs else None  # used again, if it was for these
            found, loss = self.gradients(term, outputs)
            if self._before is None:
                self._before = (found, len(observation.targets), mask_before)
            self.after_gradients()
            with self.run.meter.phase("optimizer"):
                optimizer.step()
        self.objective.after_update(self.network)
        return loss

    def gradients(self, term: Term, outputs: Any = None) -> tuple[Any, Tensor]:
        """Fills ``.grad`` of what the term trains; (its outputs, its loss). In as many parts as the recipe says: the
        loss of each counts by its samples, so that the gradients are those of the whole batch, where a loss is a mean
        over samples, or over as many tokens in each.
        """
        parts = 1 if outputs is not None else self.run.recipe.accumulate
        if parts == 1:
            return self.rule.gradients(self.network, term.inputs, term.targets, term.loss_of, outputs)
        found, losses = [], []
        pieces = in_parts(term, parts)
        for number, (share, inputs, targets) in enumerate(pieces, start=1):
            last = number == len(pieces)
            with nullcontext() if last else self.run.engine.without_sync(self.network):
                ask = self.rule.gradients if number == 1 else self.rule.gradients_beside
                own, loss = ask(self.network, inputs, targets, scaled(term.loss_of, share))
            found.append(own)
            losses.append(loss)
        whole = torch.cat(found) if all(isinstance(each, Tensor) for each in found) else found[0]
        return whole, torch.stack(losses).sum()

    @property
    def outputs_before(self) -> Tensor | None:
        """Of the last step's outputs those of the batch that came, which are first, by the mask before its labels."""
        if self._before is None or "classification" not in self.benchmark.facts:
            return None
        outputs, count, mask = self._before
        return judged(outputs.detach()[:count], mask)

    def terms(self, observation: Observation) -> Any:
        """The losses of one step, one after another."""
        mask = self.mask(observation)
        if mask is None:
            yield from self.objective.terms(self.network, observation)
            return
        for term in self.objective.terms(self.network, observation):
            yield Term(term.group, term.inputs, term.targets, masked(term.loss_of, mask))

    def after_gradients(self) -> None:
        """Called between the gradients and the update: penalties add to ``.grad``, projections change it."""

    def mask(self, observation: Observation) -> Tensor | None:
        """Outputs that can be right: [batch, outputs] by task, [outputs] by what was seen, or None for all."""
        return self.seen if self.task_outputs is None else super().mask(observation)

    def predict(self, observation: Observation) -> Tensor:
        with self.run.engine.autocast():
            scores: Tensor = self.rule.predict(self.network, observation.inputs)
        return scores

    def mode(self, training: bool) -> None:
        self.network.train(training)

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "rule": self.rule.state_dict(),
            "objective": _state_of(self.objective),
            "seen": self.seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.rule.load_state_dict(state["rule"])
        if state["objective"]:
            self.objective.load_state_dict(state["objective"])  # type: ignore[attr-defined]
        if self.seen is not None:
            self.seen.copy_(state["seen"])


def in_parts(term: Term, parts: int) -> list[tuple[float, Any, Any]]:
    """(share of the samples, inputs, targets) of each part of a term's batch.

    Raises Refused where some of its tensors have no entry for each sample.
    """
    leaves, form = tree_flatten((term.inputs, term.targets))
    lengths = {len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else 0 for leaf in leaves}
    if len(lengths) != 1 or 0 in lengths:
        raise Refused(
            f"accumulate={parts}: the inputs of this benchmark are not one entry a sample; leave accumulate=1"
        )
    (count,) = lengths
    pieces = zip(*(leaf.split(-(-count // parts)) for leaf in leaves), strict=True)
    return [(len(piece[0]) / count, *tree_unflatten(list(piece), form)) for piece in pieces]


def scaled(loss_of: LossOf, share: float) -> LossOf:
    """The same loss, counted by a share."""
    return lambda outputs, targets, reduction="mean": share * loss_of(outputs, targets, reduction=reduction)


def masked(loss_of: LossOf, mask: Tensor | None) -> LossOf:
    """The same loss with the scores of impossible outputs taken out; ``mask`` [outputs] or [batch, outputs]."""
    if mask is None:
        return loss_of
    wrong = ~mask

    def without_impossible(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        return loss_of(outputs.masked_fill(wrong, -1e9), targets, reduction=reduction)

    return without_impossible


def _state_of(part: Any) -> dict[str, Any]:
    return part.state_dict() if hasattr(part, "state_dict") else {}
