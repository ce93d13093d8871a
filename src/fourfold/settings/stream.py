"""The stream: an explicit, immutable list of contexts and of phases of learning. Methods may not touch it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fourfold.data.tensors import Data
from fourfold.errors import FourfoldError
from fourfold.members import parameters, target
from fourfold.randomness import generator

# With these a learner may tell by a sample's task which outputs it can have; a label in training alone says nothing.
TOLD = frozenset({"task_labels_train", "task_labels_test"})


class Hidden(FourfoldError):
    """A method asked for what the setting does not tell."""


class Observation:
    """What the learner is shown of one batch. What the setting does not grant is absent, not None.

    inputs; and, where granted and revealed, ``targets`` and ``task`` [batch], the context of each sample.
    """

    def __init__(self, inputs: Any, **told: Any) -> None:
        self.__dict__.update(inputs=inputs, **told)

    def __getattr__(self, name: str) -> Any:
        raise Hidden(f"{name} is not shown in this setting")

    def __contains__(self, name: str) -> bool:
        return name in self.__dict__


@dataclass(frozen=True)
class Context:
    """One distribution of the stream.

    train, test: indices into the data; relabel: [classes], the output of each class, or None for the class itself;
    outputs: the outputs that can be right here, or None for all.
    """

    index: int
    name: str
    train: Tensor | None
    test: Tensor | None
    relabel: Tensor | None = None
    outputs: tuple[int, ...] | None = None


class Drawn(NamedTuple):
    """One batch of a sampled stream: indices [batch] into the data and the context of each [batch].

    targets: [batch], where they are not the data's own; since: steps since the context began; query: the batch that is
    to be predicted once this one was learned, where a setting shows a support set first.
    """

    indices: Tensor
    contexts: Tensor
    targets: Tensor | None = None
    since: int | None = None
    query: "Drawn | None" = None


Sampler = Callable[..., Iterator[Drawn]]  # (phase, batch size, seed, first batch) -> one batch after another


@dataclass(frozen=True)
class Episodes:
    """Tasks to be learned apart from the stream: ``draw(part, number, tasks, queries)`` gives indices and targets of
    support [tasks, ways * shots] and query sets [tasks, ways * queries], the same for the same number, for ``part``
    train or validation (where there are classes for that).

    epochs: passes of training at most, of ``batches`` batches of tasks each: what the benchmark's recipe says.
    """

    ways: int
    shots: int
    epochs: int
    batches: int
    validation: bool
    draw: Callable[[str, int, int, int], tuple[Tensor, Tensor | None, Tensor, Tensor | None]]


@dataclass(frozen=True)
class Phase:
    """One call of ``learn``: the samples that come (indices, and the context of each), and whether more than once.

    A setting that samples its stream, rather than list it, gives ``draw``: (phase, batch size, seed, first batch) ->
    one batch after another from that one on, without drawing those before. A phase of pre-training gives ``episodes``.
    """

    index: int
    contexts: tuple[int, ...]
    indices: Tensor | None
    context_of: Tensor | None
    ordered: bool = False  # the order of the samples is part of the setting: seen once, as they come
    draw: Sampler | None = None  # instead of ``batches``
    episodes: Episodes | None = None


@dataclass(frozen=True)
class Stream:
    """Everything that a cell learns from and is judged on, fixed before it starts."""

    contexts: tuple[Context, ...]
    phases: tuple[Phase, ...]
    grants: frozenset[str]
    protocol: tuple[str, ...]
    outputs: int
    train: Data | None
    test: Data | None
    pretraining: Phase | None = None
    active_outputs: str = "seen"

    def task_outputs(self, device: torch.device) -> Tensor:
        """[contexts, outputs], true where an output can be right in a context."""
        mask = torch.zeros(len(self.contexts), self.outputs, dtype=torch.bool)
        for context in self.contexts:
            mask[context.index, list(context.outputs if context.outputs is not None else range(self.outputs))] = True
        return mask.to(device)

    def view(self, device: torch.device) -> "View":
        """What a method may know of the stream before it starts."""
        labelled = self.grants & TOLD
        apart = any(context.outputs is not None and len(context.outputs) < self.outputs for context in self.contexts)
        told = self.task_outputs(device) if labelled >= TOLD and apart else None
        tasks = len(self.contexts) if labelled else None
        return View(self.grants, self.outputs, told, tasks, self.active_outputs == "all")

    def describe(self) -> list[str]:
        """The stream in words, one line a context."""
        lines = []
        for context in self.contexts:
            if context.train is None and context.test is None:
                lines.append(f"context {context.index}: {context.name}")
                continue
            train = "-" if context.train is None else len(context.train)
            test = "-" if context.test is None else len(context.test)
            lines.append(f"context {context.index}: {context.name}, {train} training and {test} test samples")
        return lines


@dataclass(frozen=True)
class View:
    """What a method is told before it starts: what the setting grants, the size of a prediction; where tasks are
    labelled, how many there are, and, if they are at test, too, and differ in them, which outputs each can have
    [contexts, outputs].

    all_active: outputs of classes that have not come yet take part in losses and predictions.
    """

    grants: frozenset[str]
    outputs: int
    task_outputs: Tensor | None = None
    tasks: int | None = None
    all_active: bool = False


def batches(phase: Phase, size: int, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices and contexts of one batch after another, from batch number ``start`` on.

    An ordered phase ends after one pass; any other is shuffled anew for each pass, for ever. The order depends on the
    seed, the phase and the pass only, so any position can be returned to.
    """
    assert phase.indices is not None
    assert phase.context_of is not None
    count = len(phase.indices)
    a_pass = -(-count // size)
    first_pass, skip = divmod(start, a_pass)
    number = first_pass
    if phase.ordered and number:
        return
    while True:
        indices, context_of = phase.indices, phase.context_of
        if not phase.ordered:  # permuted once a pass, so that a batch is two slices
            order = torch.randperm(count, generator=generator(seed, "order", phase.index, number))
            indices, context_of = indices[order], context_of[order]
        for at in range(skip * size, count, size):
            yield indices[at : at + size], context_of[at : at + size]
        if phase.ordered:
            return
        number, skip = number + 1, 0


def steps_in_a_pass(phase: Phase, size: int) -> int:
    """Batches in one pass over a phase's samples; 1 where there is no data."""
    return 1 if phase.indices is None else -(-len(phase.indices) // size)


def build(node: Mapping[str, Any], benchmark: Any, seed: int, method: Mapping[str, Any] | None = None) -> Stream:
    """The stream that a setting's configuration makes of a benchmark; it tells a method that needs ``true_tasks``, a
    bound, the task of each sample, whatever the setting tells."""
    own = parameters(node, "setting")
    grants = frozenset(node["grants"]) | (TOLD if method and "true_tasks" in method["needs"] else frozenset())
    return target(node)(benchmark, grants, tuple(node["protocol"]), seed, **own)


def first_contexts(stream: Stream, count: int) -> Stream:
    """The stream as if it had ended after so many contexts; samples of later ones do not come."""
    phases: list[Phase] = []
    for phase in stream.phases:
        own = tuple(index for index in phase.contexts if index < count)
        if not own:
            continue
        if phase.indices is not None and phase.context_of is not None:
            kept = phase.context_of < count
            phase = replace(phase, indices=phase.indices[kept], context_of=phase.context_of[kept])
        phases.append(replace(phase, index=len(phases), contexts=own))
    return replace(stream, contexts=stream.contexts[:count], phases=tuple(phases))
