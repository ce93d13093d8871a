"""Supervised settings: how the data of a benchmark becomes a stream of contexts."""

import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.randomness import generator
from fourfold.settings.stream import Context, Phase, Stream


def build_stream(
    benchmark: Benchmark,
    grants: frozenset[str],
    protocol: tuple[str, ...],
    seed: int,
    *,
    split: str,
    contexts: int,
    class_order: str | list[int],
    outputs: str,
    phases: str,
    mixed: bool,
    drift: float,
    single_pass: bool,
) -> Stream:
    """The stream of a supervised setting; the arguments are those of conf/setting/_supervised.yaml.

    Class orders depend on the seed alone, so all methods of a sweep meet the same contexts.
    """
    if benchmark.sets is None:
        whole = Context(0, benchmark.name, None, None)
        phase = Phase(0, (0,), None, None)
        return Stream((whole,), (phase,), grants, protocol, 0, None, None)
    sets = benchmark.sets
    if split == "classes":
        order = order_of_classes(class_order, sets.classes, seed)
        made = class_contexts(sets.train.targets, sets.test.targets, order, contexts, shared=outputs == "shared")
        size = sets.classes // contexts if outputs == "shared" else benchmark.outputs
    else:
        everything = torch.arange(len(sets.train)), torch.arange(len(sets.test))
        made = (Context(0, "everything", *everything),)
        size = benchmark.outputs
    learned = (
        one_phase(made, mixed, drift, single_pass, seed) if phases == "one" else phase_each(made, single_pass, seed)
    )
    return Stream(made, learned, grants, protocol, size, sets.train, sets.test)


def order_of_classes(asked: str | list[int], classes: int, seed: int) -> list[int]:
    """seeded: a permutation by the seed; natural: 0, 1, 2, ...; or the list itself."""
    if isinstance(asked, list):
        return [int(label) for label in asked]
    if asked == "natural":
        return list(range(classes))
    return torch.randperm(classes, generator=generator(seed, "class order")).tolist()


def class_contexts(train: Tensor, test: Tensor, order: list[int], count: int, shared: bool) -> tuple[Context, ...]:
    """Contexts of consecutive classes of the order, the first ones larger where the division leaves a rest."""
    groups = [group.tolist() for group in torch.tensor(order).tensor_split(count)]
    contexts = []
    for index, group in enumerate(groups):
        relabel = torch.arange(len(order))
        if shared:
            relabel[group] = torch.arange(len(group))
        right = tuple(range(len(group))) if shared else tuple(sorted(group))
        parts = [torch.isin(targets, torch.tensor(group)).nonzero().flatten() for targets in (train, test)]
        name = "classes " + ",".join(map(str, group))
        contexts.append(Context(index, name, parts[0], parts[1], relabel if shared else None, right))
    return tuple(contexts)


def phase_each(contexts: tuple[Context, ...], single_pass: bool, seed: int) -> tuple[Phase, ...]:
    """A phase for each context."""
    return tuple(_phase(context.index, (context,), single_pass, seed) for context in contexts)


def one_phase(
    contexts: tuple[Context, ...], mixed: bool, drift: float, single_pass: bool, seed: int
) -> tuple[Phase, ...]:
    """One phase over all contexts: shuffled together if mixed, else in order, blending into each other by ``drift``.

    A sample's place is its context's number plus a uniform draw in [0, 1), moved by a uniform draw of width ``drift``.
    """
    phase = _phase(0, contexts, single_pass, seed)
    if mixed:
        return (phase,)
    assert phase.context_of is not None
    assert phase.indices is not None
    draw = generator(seed, "drift")
    count = len(phase.indices)
    place = phase.context_of + torch.rand(count, generator=draw) + drift * (torch.rand(count, generator=draw) - 0.5)
    order = place.argsort()
    return (Phase(0, phase.contexts, phase.indices[order], phase.context_of[order], ordered=True),)


def _phase(index: int, contexts: tuple[Context, ...], single_pass: bool, seed: int) -> Phase:
    parts = [context.train for context in contexts if context.train is not None]
    indices = torch.cat(parts)
    context_of = torch.cat(
        [torch.full((len(part),), context.index) for part, context in zip(parts, contexts, strict=True)]
    )
    if single_pass:
        order = torch.randperm(len(indices), generator=generator(seed, "single pass", index))
        indices, context_of = indices[order], context_of[order]
    return Phase(index, tuple(context.index for context in contexts), indices, context_of, ordered=single_pass)
