"""Supervised settings: how the data of a benchmark becomes a stream of contexts."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.errors import Refused
from fourfold.randomness import generator
from fourfold.settings.stream import Context, Phase, Stream
from fourfold.settings.transforms import Transformed, permutations, rotations


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
    active_outputs: str,
    phases: str,
    mixed: bool,
    drift: float,
    single_pass: bool,
    visits: int,
    blurry: float,
    rarest: float,
    angle: float,
) -> Stream:
    """The stream of a supervised setting; the arguments are those of conf/setting/_supervised.yaml.

    All that is drawn depends on the seed alone, so all methods of a sweep meet the same contexts.
    """
    if benchmark.sets is None:
        whole = Context(0, benchmark.name, None, None)
        phase = Phase(0, (0,), None, None)
        return Stream((whole,), (phase,), grants, protocol, 0, None, None)
    sets = benchmark.sets
    train, test, size = sets.train, sets.test, benchmark.outputs
    shared = outputs == "shared"
    if split == "auto":
        split = "domains" if "domains" in benchmark.facts else "classes"
    if split == "classes":
        order = order_of_classes(class_order, sets.classes, seed)
        made = class_contexts(train.targets, test.targets, order, contexts, shared)
        size = sets.classes // contexts if shared else size
    elif split in ("permutation", "rotation"):
        train, test = transformed(train, split, contexts, angle, seed), transformed(test, split, contexts, angle, seed)
        made = copied_contexts(split, len(sets.train), len(sets.test), contexts, sets.classes, shared)
        size = size if shared else size * contexts
    elif split == "domains":
        made = domain_contexts(train, test, contexts, shared, benchmark.name)
        if shared and all(context.outputs for context in made):
            size = max(max(context.outputs or ()) + 1 for context in made)
    elif split == "samples":
        made = sample_contexts(len(train), len(test), contexts, seed)
    else:
        made = (Context(0, "everything", torch.arange(len(train)), torch.arange(len(test))),)
    if rarest < 1:
        made = imbalanced(made, train.targets, sets.classes, rarest, seed)
    shown = blurred(made, blurry, seed) if blurry else [_parts((context,)) for context in made]
    if phases == "one":
        learned = one_phase(shown, mixed, drift, single_pass, seed)
    else:
        learned = phase_each(shown, visits, single_pass, seed)
    stream = Stream(made, learned, grants, protocol, size, train, test, active_outputs=active_outputs)
    check_parts(stream)
    return stream


def check_parts(stream: Stream) -> None:
    """Raises Refused for a context or phase that nothing is learned in, and for a context that is judged on nothing."""
    remedy = "more benchmark.data.samples=, fewer setting.contexts= or setting.visits= give each some"
    for context in stream.contexts:
        parts = {"training": context.train} | ({"test": context.test} if "matrix" in stream.protocol else {})
        for kind, part in parts.items():
            if part is not None and len(part) == 0:
                raise Refused(f"context {context.index} ({context.name}) has no {kind} samples; {remedy}")
    for phase in stream.phases:
        if phase.indices is not None and len(phase.indices) == 0:
            names = " and ".join(f"context {index}" for index in phase.contexts)
            raise Refused(f"phase {phase.index} of learning ({names}) has no training samples; {remedy}")


# ------------------------------------------------------------------------------------------- contexts


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


def transformed(data: object, split: str, contexts: int, angle: float, seed: int) -> Transformed:
    """All samples once for each context, under the context's permutation of the pixels or rotation."""
    maker = permutations(contexts, seed) if split == "permutation" else rotations(contexts, angle)
    return Transformed(data, contexts, maker)


def copied_contexts(name: str, train: int, test: int, count: int, classes: int, shared: bool) -> tuple[Context, ...]:
    """Contexts of all classes and samples, each with its own inputs; outputs of their own unless shared.

    Context k's samples are those from k times the number of samples on, as in ``Transformed``.
    """
    contexts = []
    for index in range(count):
        first = 0 if shared else index * classes
        parts = torch.arange(train) + index * train, torch.arange(test) + index * test
        relabel = torch.arange(classes) + first
        contexts.append(Context(index, f"{name} {index}", *parts, relabel, tuple(range(first, first + classes))))
    return tuple(contexts)


def domain_contexts(train: Any, test: Any, count: int, shared: bool, benchmark: str) -> tuple[Context, ...]:
    """Contexts of consecutive domains of the data, the first ones larger where the division leaves a rest.

    A context's outputs are the classes that it has. Shared outputs are the classes themselves where all contexts have
    the same; else a class's output is its rank among those of its context. A context is judged on the test samples of
    its domains and classes; on those of its classes where all test samples come from domains that are never trained
    on (CORe50's sessions; Lomonaco & Maltoni 2017, NI). Raises Refused for too few domains.
    """
    domains = None if getattr(train, "domains", None) is None else train.domains.unique()
    if domains is None or len(domains) < count:
        have = "its data has no domains" if domains is None else f"its data has {len(domains)}"
        raise Refused(f"setting.split=domains, setting.contexts={count}: {benchmark} cannot do that, {have}")
    groups = domains.tensor_split(count)
    apart = not torch.isin(test.domains, domains).any()
    found = []
    for group in groups:
        own_test = torch.ones(len(test), dtype=torch.bool) if apart else torch.isin(test.domains, group)
        found.append((torch.isin(train.domains, group).nonzero().flatten(), own_test.nonzero().flatten()))
    names = [f"domain {','.join(map(str, group.tolist()))}" for group in groups]
    if not hasattr(train, "targets"):  # text: every token can follow
        return tuple(Context(index, names[index], parts[0], parts[1]) for index, parts in enumerate(found))
    classes = [train.targets[parts[0]].unique() for parts in found]
    alike = all(torch.equal(own, classes[0]) for own in classes)
    size = int(max(train.targets.max(), test.targets.max())) + 1
    contexts = []
    for index, (parts, own) in enumerate(zip(found, classes, strict=True)):
        relabel = None
        if shared and not alike:
            relabel = torch.arange(size)
            relabel[own] = torch.arange(len(own))
        right = range(len(own)) if relabel is not None else own.tolist()
        judged_on = parts[1][torch.isin(test.targets[parts[1]], own)]
        contexts.append(Context(index, names[index], parts[0], judged_on, relabel, tuple(right)))
    return tuple(contexts)


def sample_contexts(train: int, test: int, count: int, seed: int) -> tuple[Context, ...]:
    """Contexts of equally many samples, drawn at random; all are judged on all test samples."""
    parts = torch.randperm(train, generator=generator(seed, "samples")).tensor_split(count)
    everything = torch.arange(test)
    return tuple(Context(index, f"part {index}", part.sort().values, everything) for index, part in enumerate(parts))


def imbalanced(
    contexts: tuple[Context, ...], targets: Tensor, classes: int, rarest: float, seed: int
) -> tuple[Context, ...]:
    """A long tail: the class of rank r keeps the share rarest^(r / (classes - 1)) of its training samples.

    Ranks are drawn by the seed (Cao et al. 2019; in continual learning Liu et al. 2022, "shuffled").
    """
    draw = generator(seed, "imbalance")
    rank = torch.randperm(classes, generator=draw)
    made = []
    for context in contexts:
        assert context.train is not None
        labels = targets[context.train]
        kept = []
        for label in labels.unique().tolist():
            own = context.train[labels == label]
            count = max(1, round(len(own) * rarest ** (int(rank[label]) / max(1, classes - 1))))
            kept.append(own[torch.randperm(len(own), generator=draw)[:count]])
        made.append(replace(context, train=torch.cat(kept).sort().values))
    return tuple(made)


# --------------------------------------------------------------------------------------------- phases

Part = tuple[Tensor, Tensor]  # indices of samples, and the context that each belongs to


def blurred(contexts: tuple[Context, ...], share: float, seed: int) -> list[Part]:
    """What is shown in place of each context: ``share`` of its samples have changed places with others' samples.

    The samples that move are drawn from all contexts alike and shuffled among them (Aljundi et al. 2019; Bang et
    al. 2021), so that a part stays as large as it was; a sample's own context stays what it is.
    """
    parts = [_parts((context,)) for context in contexts]
    indices, context_of = (torch.cat(values) for values in zip(*parts, strict=True))
    draw = generator(seed, "blurry")
    movers = (torch.rand(len(indices), generator=draw) < share).nonzero().flatten()
    places = torch.arange(len(indices))
    places[movers] = movers[torch.randperm(len(movers), generator=draw)]
    sizes = [len(part[0]) for part in parts]
    return list(zip(indices[places].split(sizes), context_of[places].split(sizes), strict=True))


def phase_each(parts: list[Part], visits: int, single_pass: bool, seed: int) -> tuple[Phase, ...]:
    """A phase for each context; with more visits they all come back in turn, with other samples each time."""
    if visits == 1:
        return tuple(_phase(number, (number,), part, single_pass, seed) for number, part in enumerate(parts))
    made: list[Phase] = []
    for visit in range(visits):
        for number, (indices, context_of) in enumerate(parts):
            order = torch.randperm(len(indices), generator=generator(seed, "visits", number))
            own = order.tensor_split(visits)[visit].sort().values
            made.append(_phase(len(made), (number,), (indices[own], context_of[own]), single_pass, seed))
    return tuple(made)


def one_phase(parts: list[Part], mixed: bool, drift: float, single_pass: bool, seed: int) -> tuple[Phase, ...]:
    """One phase over all contexts: shuffled together if mixed, else in order, blending into each other by ``drift``.

    A sample's place is its part's number plus a uniform draw in [0, 1), moved by a uniform draw of width ``drift``.
    """
    indices, context_of = (torch.cat(values) for values in zip(*parts, strict=True))
    phase = _phase(0, tuple(range(len(parts))), (indices, context_of), mixed and single_pass, seed)
    if mixed:
        return (phase,)
    part_of = torch.cat([torch.full((len(part[0]),), number) for number, part in enumerate(parts)])
    draw = generator(seed, "drift")
    count = len(indices)
    place = part_of + torch.rand(count, generator=draw) + drift * (torch.rand(count, generator=draw) - 0.5)
    order = place.argsort()
    return (Phase(0, phase.contexts, indices[order], context_of[order], ordered=True),)


def _parts(contexts: tuple[Context, ...]) -> Part:
    own = [context.train for context in contexts if context.train is not None]
    numbers = [torch.full((len(part),), context.index) for part, context in zip(own, contexts, strict=True)]
    return torch.cat(own), torch.cat(numbers)


def _phase(index: int, contexts: tuple[int, ...], part: Part, single_pass: bool, seed: int) -> Phase:
    indices, context_of = part
    if single_pass:
        order = torch.randperm(len(indices), generator=generator(seed, "single pass", index))
        indices, context_of = indices[order], context_of[order]
    return Phase(index, contexts, indices, context_of, ordered=single_pass)
