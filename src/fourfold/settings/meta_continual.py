"""Meta-continual learning: meta-trained on sequences of classes, then judged on one more (Javed & White 2019)."""

import torch

from fourfold.benchmarks.interface import Benchmark
from fourfold.data.modes import ModeSets
from fourfold.errors import Refused
from fourfold.randomness import generator
from fourfold.settings.episodes import Classes
from fourfold.settings.osaka import pretraining, without
from fourfold.settings.stream import Context, Phase, Stream


def build_stream(
    benchmark: Benchmark,
    grants: frozenset[str],
    protocol: tuple[str, ...],
    seed: int,
    *,
    contexts: int,
    samples: int,
    test_samples: int,
) -> Stream:
    """One sequence of ``contexts`` classes of the first mode that pre-training has not seen, one class after another.

    Each has ``samples`` that come once, and ``test_samples`` others by which it is judged; a class is an output of its
    own. Pre-training has the classes that the benchmark keeps for it. Raises Refused where there are too few classes or
    samples.
    """
    sets = benchmark.sets
    assert isinstance(sets, ModeSets)
    known = torch.cat([part for part in (sets.meta_train, sets.meta_validation) if part is not None])
    fresh = without(sets.modes[0].classes, known)
    if contexts > len(fresh):
        raise Refused(
            f"setting.contexts={contexts}: {sets.modes[0].name} has {len(fresh)} classes beside those of pre-training"
        )
    by_class = Classes.of(sets.train.targets)
    draw = generator(seed, "meta-continual")
    chosen = fresh[torch.randperm(len(fresh), generator=draw)[:contexts]]
    if (fewest := int(by_class.count[chosen].min())) < samples + test_samples:
        raise Refused(
            f"setting.samples={samples} setting.test_samples={test_samples}: a class has no more than {fewest} samples"
        )
    drawn = by_class.draw(chosen[:, None], samples + test_samples, draw)[:, 0]
    relabel = torch.zeros(sets.classes, dtype=torch.long)
    relabel[chosen] = torch.arange(contexts)
    made = tuple(
        Context(number, f"class {int(label)}", own_samples[:samples], own_samples[samples:], relabel, None)
        for number, (label, own_samples) in enumerate(zip(chosen, drawn, strict=True))
    )
    order = drawn[:, :samples].flatten()
    context_of = torch.arange(contexts).repeat_interleave(samples)
    phase = Phase(0, tuple(range(contexts)), order, context_of, ordered=True)
    before = pretraining(benchmark, by_class, contexts, samples, seed, "setting.samples")
    return Stream(made, (phase,), grants, protocol, contexts, sets.train, sets.train, before)
