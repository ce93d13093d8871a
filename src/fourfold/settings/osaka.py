"""OSAKA and its neighbours: streams of few-shot contexts that are drawn as they come (Caccia et al. 2020)."""

import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.data.modes import Mode, ModeSets
from fourfold.data.tensors import Sets
from fourfold.errors import Refused
from fourfold.settings.episodes import Classes, ContextSampler, EpisodeSource
from fourfold.settings.stream import Context, Episodes, Phase, Stream


def build_stream(
    benchmark: Benchmark,
    grants: frozenset[str],
    protocol: tuple[str, ...],
    seed: int,
    *,
    alpha: float,
    ways: int | None,
    shots: int | None,
    queries: int,
    classes: str,
    modes: str,
) -> Stream:
    """The stream of an episodic setting; the arguments are those of conf/setting/osaka.yaml.

    Its contexts are the modes: a step says which one it is of, and since when its few-shot context runs.
    """
    if benchmark.sets is None:
        raise Refused(f"benchmark={benchmark.name}: it has no data set that contexts could be drawn from")
    sets = benchmark.sets
    classification = "classification" in benchmark.facts
    group = sets.group if isinstance(sets, ModeSets) and sets.group is not None else sets.train.targets
    by_class = Classes.of(group)
    ways, shots = ways or own(benchmark, "ways", min(10, sets.classes)), shots or own(benchmark, "shots", 5)
    used = stream_modes(sets, benchmark.name, classes, modes)
    check_classes(used, ways)
    check_samples(by_class, used, shots + queries)
    sampler = ContextSampler(
        by_class,
        tuple(mode.classes for mode in used),
        tuple(mode.probability for mode in used),
        ways,
        shots,
        queries,
        alpha,
        classification,
    )
    contexts = tuple(Context(number, mode.name, None, None) for number, mode in enumerate(used))
    phase = Phase(0, tuple(range(len(contexts))), None, None, draw=sampler)
    outputs = ways if classification else benchmark.outputs
    before = pretraining(benchmark, by_class, ways, shots, seed)
    return Stream(contexts, (phase,), grants, protocol, outputs, sets.train, None, before)


def own(benchmark: Benchmark, key: str, otherwise: int) -> int:
    """What the benchmark's data says of the size of a context."""
    return int(benchmark.recipe.data.get(key) or otherwise)


def stream_modes(sets: Sets, name: str, classes: str, modes: str) -> tuple[Mode, ...]:
    """The modes that the stream draws from; ``classes`` new: without those of pre-training."""
    found = sets.modes if isinstance(sets, ModeSets) else (Mode(name, 1.0, torch.arange(sets.classes)),)
    if modes == "first":
        found = (Mode(found[0].name, 1.0, found[0].classes),)
    if classes == "new" and isinstance(sets, ModeSets):
        known = torch.cat([part for part in (sets.meta_train, sets.meta_validation) if part is not None])
        found = tuple(Mode(one.name, one.probability, without(one.classes, known)) for one in found)
    return found


def without(classes: Tensor, known: Tensor) -> Tensor:
    return classes[~torch.isin(classes, known)]


def check_classes(modes: tuple[Mode, ...], ways: int) -> None:
    """Raises Refused if a mode has too few classes for a context."""
    for mode in modes:
        if mode.probability and len(mode.classes) < ways:
            raise Refused(
                f"setting.ways={ways}: {mode.name} has {len(mode.classes)} classes for the stream, a context takes no "
                "more than that"
            )


def check_samples(by_class: Classes, modes: tuple[Mode, ...], needed: int) -> None:
    """Raises Refused if a class of the stream has too few samples for a step."""
    for mode in modes:
        if mode.probability and (fewest := int(by_class.count[mode.classes].min())) < needed:
            raise Refused(f"setting.shots: a step takes {needed} samples of a class; {mode.name} has one with {fewest}")


def pretraining(
    benchmark: Benchmark, by_class: Classes, ways: int, shots: int, seed: int, shots_key: str = "setting.shots"
) -> Phase | None:
    """The tasks for training before the stream; None where the benchmark keeps no classes for it."""
    sets = benchmark.sets
    if not isinstance(sets, ModeSets) or sets.meta_train is None or not len(sets.meta_train):
        return None
    pools = {"train": sets.meta_train}
    if sets.meta_validation is not None and len(sets.meta_validation) >= ways:
        pools["validation"] = sets.meta_validation
    source = EpisodeSource(by_class, pools, ways, shots, "classification" in benchmark.facts, seed, shots_key)
    epochs, batches = own(benchmark, "epochs", 1000), own(benchmark, "epoch_batches", 100)
    episodes = Episodes(ways, shots, epochs, batches, "validation" in pools, source)
    return Phase(0, (0,), None, None, episodes=episodes)
