"""Drawing few-shot contexts and their batches: a few classes with fresh labels, a few samples of each.

Everything is drawn in blocks from counter-based randomness, so that a step costs microseconds and any position of the
stream can be returned to at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fourfold.errors import Refused
from fourfold.randomness import generator
from fourfold.settings.stream import Drawn

BLOCK = 256  # steps that are drawn at once


@dataclass(frozen=True)
class Classes:
    """Where the samples of each class are: those of class c are ``order[first[c] : first[c] + count[c]]``."""

    order: Tensor
    first: Tensor
    count: Tensor

    @classmethod
    def of(cls, class_of: Tensor) -> "Classes":
        """class_of: [samples], the class of each."""
        count = torch.bincount(class_of)
        return cls(class_of.argsort(stable=True), count.cumsum(0) - count, count)

    def draw(self, classes: Tensor, each: int, draw: torch.Generator) -> Tensor:
        """Indices [rows, ways, each]: for each class of ``classes`` [rows, ways] different samples, uniformly."""
        flat = classes.flatten()
        chosen = choose(torch.rand(len(flat), each, generator=draw, dtype=torch.float64), self.count[flat])
        chosen = chosen.gather(1, torch.rand(chosen.shape, generator=draw).argsort(1))
        return self.order[self.first[flat][:, None] + chosen].view(*classes.shape, each)


def choose(uniform: Tensor, below: Tensor) -> Tensor:
    """In each row k different whole numbers under ``below`` [rows], every set of them equally likely: [rows, k].

    uniform: [rows, k] draws from [0, 1). Their order is not uniform. (Bentley & Floyd 1987, "Programming pearls".)
    """
    rows, k = uniform.shape
    chosen = torch.full((rows, k), -1, dtype=torch.long)
    for number in range(k):
        top = below - k + number
        drawn = (uniform[:, number] * (top + 1)).long().minimum(top)
        taken = (chosen[:, :number] == drawn[:, None]).any(1)
        chosen[:, number] = torch.where(taken, top, drawn)
    return chosen


class _Block(NamedTuple):
    """Of each step of a block: its mode [steps], its classes in the order of their labels [steps, ways], since when its
    context runs [steps], and the samples with their labels, support before query [steps, ways, shots + queries].
    """

    mode: Tensor
    classes: Tensor
    since: Tensor
    samples: Tensor


@dataclass(frozen=True)
class ContextSampler:
    """A stream that changes its context with probability ``1 - stay`` before each step (OSAKA: Caccia et al. 2020).

    A new context draws a mode by ``probabilities``, then ``ways`` of its classes in random order: the order is the
    labels. Each step draws ``shots`` samples a class for learning, and ``queries`` more, other ones, to be predicted
    afterwards. ``fresh``: targets are these labels; else they are the data's own.
    """

    classes: Classes
    modes: tuple[Tensor, ...]
    probabilities: tuple[float, ...]
    ways: int
    shots: int
    queries: int
    stay: float
    fresh: bool

    def __call__(self, phase: object, size: int, seed: int, start: int = 0) -> Iterator[Drawn]:
        """Batch after batch from number ``start`` on; their size is the sampler's own."""
        number, within = divmod(start, BLOCK)
        while True:
            yield from self.batches(seed, number, within)
            number, within = number + 1, 0

    def batches(self, seed: int, number: int, within: int) -> Iterator[Drawn]:
        """The batches of one block from position ``within`` on."""
        block = self.block(seed, number)
        draw = generator(seed, "episodes", "order", number)
        shown = _shuffled(block.samples[:, :, : self.shots], draw)
        asked = _shuffled(block.samples[:, :, self.shots :], draw) if self.queries else None
        since = block.since.tolist()
        for step in range(within, BLOCK):
            query = None if asked is None else self._drawn(asked, block, step, since[step], None)
            yield self._drawn(shown, block, step, since[step], query)

    def _drawn(self, parts: tuple[Tensor, Tensor], block: _Block, step: int, since: int, query: Drawn | None) -> Drawn:
        indices, labels = parts[0][step], parts[1][step]
        contexts = block.mode[step].expand(len(indices))
        return Drawn(indices, contexts, labels if self.fresh else None, since, query)

    def block(self, seed: int, number: int) -> _Block:
        """A block of steps, whatever was drawn before."""
        begins, mode, classes = self._contexts(seed, number)
        steps = torch.arange(BLOCK)
        latest = torch.where(begins, steps, -1).cummax(0).values
        waiting = latest < 0  # these steps belong to a context of an earlier block
        back = 0
        while waiting.any():
            back += 1
            earlier, modes_before, classes_before = self._contexts(seed, number - back)
            if earlier.any():
                last = int(earlier.nonzero().flatten()[-1])
                mode[waiting], classes[waiting] = modes_before[last], classes_before[last]
                latest[waiting] = last - back * BLOCK
                break
        running = latest.clamp(min=0)  # where a context of an earlier block runs on, its facts were copied above
        mode, classes = mode[running], classes[running]
        samples = self.classes.draw(classes, self.shots + self.queries, generator(seed, "episodes", "samples", number))
        return _Block(mode, classes, steps - latest, samples)

    def _contexts(self, seed: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where a context begins in a block [steps], and for each step the mode and classes that would begin there."""
        draw = generator(seed, "episodes", "contexts", number)
        begins = torch.rand(BLOCK, generator=draw, dtype=torch.float64) >= self.stay
        if number == 0:
            begins[0] = True
        bounds = torch.tensor(self.probabilities, dtype=torch.float64).cumsum(0)
        uniform = torch.rand(BLOCK, generator=draw, dtype=torch.float64) * bounds[-1]
        mode = torch.searchsorted(bounds, uniform, right=True).clamp(max=len(bounds) - 1)
        return begins, mode, tasks_of(self.modes, mode, self.ways, draw)


def tasks_of(pools: Sequence[Tensor], pool: Tensor, ways: int, draw: torch.Generator) -> Tensor:
    """Classes [rows, ways] in random order, different ones, from the pool [classes] that each row names by number."""
    sizes = torch.tensor([len(each) for each in pools])
    table = torch.nn.utils.rnn.pad_sequence(list(pools), batch_first=True)
    places = choose(torch.rand(len(pool), ways, generator=draw, dtype=torch.float64), sizes[pool])
    places = places.gather(1, torch.rand(places.shape, generator=draw).argsort(1))
    return table[pool[:, None], places]


def _shuffled(samples: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Samples [rows, ways, each] and their labels, the place within a row telling nothing: [rows, ways * each] both."""
    rows, ways, each = samples.shape
    labels = torch.arange(ways).repeat_interleave(each).expand(rows, -1)
    order = torch.rand(rows, ways * each, generator=draw).argsort(1)
    return samples.flatten(1).gather(1, order), labels.gather(1, order)


@dataclass(frozen=True)
class EpisodeSource:
    """Tasks of the classes of a pool, apart from any stream: see ``fourfold.settings.stream.Episodes``.

    shots_key: the key that sets ``shots``. Raises Refused where a class has no samples besides to judge by.
    """

    classes: Classes
    pools: dict[str, Tensor]
    ways: int
    shots: int
    fresh: bool
    seed: int
    shots_key: str = "setting.shots"

    def __call__(
        self, part: str, number: int, tasks: int, queries: int
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        draw = generator(self.seed, "pre-training", part, number)
        chosen = tasks_of([self.pools[part]], torch.zeros(tasks, dtype=torch.long), self.ways, draw)
        fewest = int(self.classes.count[self.pools[part]].min())
        if fewest <= self.shots:
            raise Refused(
                f"{self.shots_key}={self.shots}: a class for pre-training has {fewest} samples, and a task takes "
                f"others besides to judge by; {fewest - 1} at most"
            )
        each = min(self.shots + queries, fewest)
        samples = self.classes.draw(chosen, each, draw)
        support, labels = _shuffled(samples[:, :, : self.shots], draw)
        query, answers = _shuffled(samples[:, :, self.shots :], draw)
        return support, labels if self.fresh else None, query, answers if self.fresh else None
