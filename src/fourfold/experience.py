"""What a method is handed while it learns: devices, meter, budget, named random streams, and its part of the stream."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fourfold import randomness
from fourfold.benchmarks.interface import Benchmark
from fourfold.data.tensors import Batch
from fourfold.data.workers import prepared
from fourfold.errors import Failed
from fourfold.hardware.engine import Engine
from fourfold.keeper import Keeper, Place
from fourfold.measure.flops import StepCount
from fourfold.measure.meter import LOSS_CHUNK, Meter
from fourfold.measure.stopwatch import Stopwatch
from fourfold.measure.until import Until
from fourfold.randomness import seed_of
from fourfold.recipe import Recipe
from fourfold.settings.stream import Episodes, Hidden, Observation, Phase, Sampler, Stream, batches, steps_in_a_pass

# What may keep a loss finite.
NAN_REMEDY = "a smaller optimizer.learning_rate= or precision=fp32 may keep it finite"


class Step:
    """One step of the stream: what is seen at once, and what is revealed after a prediction.

    ``fresh``: its samples were not seen before in this experience, or were drawn for it. ``query`` is a step that is
    only asked about, once this one was learned; None in most settings.
    """

    fresh = False
    query: "Step | None" = None
    _since: int | None = None  # steps since the context began, where the stream is sampled

    def __init__(self, batch: Batch, task: Tensor | None, units: float, context: int) -> None:
        self._batch = batch
        self._told = {} if task is None else {"task": task}
        self._context = context
        self.units = units

    @property
    def observation(self) -> Observation:
        """The inputs, without their targets."""
        return Observation(self._batch.inputs, **self._told)

    def reveal(self) -> Observation:
        """The inputs with their targets."""
        return Observation(self._batch.inputs, targets=self._batch.targets, **self._told)


@dataclass(frozen=True)
class Tasks:
    """Few-shot tasks to learn from and to judge by: inputs [tasks, samples, ...], targets [tasks, samples]."""

    support: Observation
    query: Observation


class Run:
    """One cell at work. Methods use ``engine``, ``recipe``, ``generator``, ``tick`` and, for parts, ``meter.phase``.

    ``keeper`` writes checkpoints between steps. A long loop of a method that is not over an experience is to be over
    ``keeper.counted(count)``, so that there are some in it too.
    """

    def __init__(
        self,
        seed: int,
        benchmark: Benchmark,
        engine: Engine,
        recipe: Recipe,
        until: Until,
        progress: bool,
        oracle: bool,
    ) -> None:
        self.seed = seed
        self.benchmark = benchmark
        self.engine = engine
        self.recipe = recipe
        self.until = until
        self.oracle = oracle
        self.meter = Meter(engine.device, benchmark.unit)
        self.watch = Stopwatch("setup", "learn", "evaluate")
        self.keeper = Keeper()
        engine.phase = self.meter.phase
        until.agree = None if engine.alone else engine.as_the_first
        self.count = StepCount()
        self.findings: dict[str, Any] = {}  # what the method tells of itself for the record: plain data
        self.held: list[dict[str, Any]] = []  # bytes that the method holds after each context
        self.bar = tqdm(disable=not progress, unit="step", dynamic_ncols=True, leave=False)

    def generator(self, *names: str | int) -> torch.Generator:
        """A fresh CPU generator for a named stream of this cell; the same names give the same numbers."""
        return randomness.generator(self.seed, *names)

    def judge(self, step: Step, prediction: Tensor) -> None:
        """Scores a prediction made before the targets of its step were revealed; the score is kept unread."""
        self.meter.note("score", self.benchmark.score(prediction.detach(), step._batch.targets))

    def note(self, name: str, value: Tensor | float) -> None:
        """Keeps a number of the running step, unread, in the record's series of that name."""
        self.meter.note(name, value.detach() if isinstance(value, Tensor) else value)

    def tick(self, step: Step, loss: Tensor | None) -> None:
        """Ends a step: its units are done, its loss (if any) is kept unread."""
        if step._since is not None:
            self.meter.note("since_switch", float(step._since))
        self.meter.tick(step.units, loss, step._context)
        self.bar.update()
        if self.meter.steps % (4 * LOSS_CHUNK) == 0 and not self.meter.last_losses_finite():
            raise Failed(f"the loss is not finite after {self.meter.steps} steps; {NAN_REMEDY}", reason="nan")


class Experience:
    """The part of the stream that one call of ``learn`` gets. Iterating it paces, bounds and measures the learning.

    ``prequential``: each step asks for a prediction before its targets are revealed. ``paced_by``: the phases that give
    it its steps, itself unless it is a union: where samples come once, they end with them.
    """

    def __init__(
        self,
        stream: Stream,
        phase: Phase,
        run: Run,
        judge_at: Mapping[int, list[Callable[[], None]]] | None = None,
        paced_by: tuple[Phase, ...] | None = None,
    ) -> None:
        self._stream = stream
        self._phase = phase
        self._context = phase.contexts[0] if len(phase.contexts) == 1 else None  # of all its samples
        self._run = run
        self._judge_at = judge_at or {}
        self._paced_by = paced_by or (phase,)
        self._data = None if stream.train is None else stream.train.to(run.engine.device)
        self._relabel = _relabel_table(stream, run.engine.device)
        self.prequential = "prequential" in stream.protocol
        self.number = phase.index

    def __iter__(self) -> Iterator[Step]:
        run, phase = self._run, self._phase
        share = len(phase.contexts) / sum(len(each.contexts) for each in self._stream.phases)
        place = run.keeper.begin_loop()
        size = run.recipe.batch * run.engine.parts
        a_pass = steps_in_a_pass(phase, size)
        most = sum(steps_in_a_pass(each, size) if each.ordered else math.inf for each in self._paced_by)
        run.until.begin(share, a_pass, most, place.seconds)
        source = self._steps(place)
        run.meter.start()
        while not run.until.over(place.step, run.meter):
            with run.meter.phase("input"):
                step = next(source, None)
            if step is None:
                run.until.reason = "data"
                break
            step.fresh = phase.draw is not None or place.step < a_pass
            run.engine.set_rates(place.step / a_pass, run.until.last / a_pass)
            run.count.begin(place.step)
            yield step
            run.count.end()
            place.step += 1
            for judge in self._judge_at.get(place.step, ()):
                with run.meter.excluded():
                    judge()
            run.keeper.between_steps()
        run.meter.stop()
        run.keeper.end_loop()

    def _steps(self, place: Place | None = None) -> Iterator[Step]:
        """The steps from a place on, where the number of batches drawn is kept."""
        place = place or Place()
        if self._data is None:
            while True:
                yield Step(Batch(None, None), None, 0.0, 0)
        if self._phase.draw is not None:
            yield from self._sampled(self._phase.draw, place)
            return
        for number, indices, contexts, of_all, batch in self._batches(place.batch):
            place.batch = number + 1
            step = self._step(indices, contexts, "task_labels_train", batch)
            if of_all != len(indices):  # the rate of a cell is that of all its devices
                step.units *= of_all / len(indices)
            yield self._augmented(step, number)

    def _batches(self, first: int) -> Iterator[tuple[int, Tensor, Tensor, int, Batch | None]]:
        """From batch number ``first`` on: its number, this rank's indices and contexts, the samples of all, and
        the batch where processes prepare it."""
        run = self._run
        part, parts = run.engine.part, run.engine.parts
        own: Iterator[tuple[int, Tensor, Tensor, int]]
        if parts > 1 and self.samples < run.recipe.batch * parts and not self._phase.ordered:
            # Too few to share out: each part draws from all of them.
            drawn = batches(self._phase, run.recipe.batch, seed_of(run.seed, "part", part), first)
            own = ((number, i, c, parts * len(i)) for number, (i, c) in enumerate(drawn, first))
        elif parts == 1:
            drawn = batches(self._phase, run.recipe.batch, run.seed, first)
            own = ((number, i, c, len(i)) for number, (i, c) in enumerate(drawn, first))
        else:  # a rank without samples would leave the others waiting for its gradient
            drawn = batches(self._phase, run.recipe.batch * parts, run.seed, first)
            whole = ((number, *each) for number, each in enumerate(drawn, first) if len(each[0]) >= parts)
            own = ((number, i[part::parts], c[part::parts], len(i)) for number, i, c in whole)
        if run.recipe.workers == 0:
            yield from ((*one, None) for one in own)
            return
        assert self._stream.train is not None
        for one, batch in prepared(self._stream.train, own, run.recipe.workers, run.engine.device):
            yield (*one, batch)

    def _sampled(self, draw: Sampler, place: Place) -> Iterator[Step]:
        """The steps of a stream that is drawn as it goes; they are small, so that no process prepares them."""
        run = self._run
        part, parts = run.engine.part, run.engine.parts
        for indices, contexts, targets, since, query in draw(
            self._phase, run.recipe.batch * parts, run.seed, place.batch
        ):
            place.batch += 1
            if len(indices) < parts:
                continue  # a rank without samples would leave the others waiting for its gradient
            own = None if targets is None else targets[part::parts]
            step = self._step(indices[part::parts], contexts[part::parts], "task_labels_train", targets=own)
            step._since = since
            if query is not None:
                step.query = self._step(query.indices, query.contexts, "task_labels_test", targets=query.targets)
            if parts > 1:
                step.units *= len(indices) / len(indices[part::parts])
            yield self._augmented(step, place.batch)

    def _augmented(self, step: Step, number: int) -> Step:
        """The step of batch ``number`` as it is to be learned from; the same for the same seed, phase and number."""
        run = self._run
        if run.benchmark.augment is not None:
            stream = run.generator("augmentation", self._phase.index, number, run.engine.part)
            step._batch = Batch(run.benchmark.augment(step._batch.inputs, stream), step._batch.targets)
        return step

    def _step(
        self, indices: Tensor, contexts: Tensor, fact: str, batch: Batch | None = None, targets: Tensor | None = None
    ) -> Step:
        assert self._data is not None
        device = self._run.engine.device
        if batch is None:
            batch = self._data.batch(indices.to(device, non_blocking=True))
        if targets is not None:
            batch = Batch(batch.inputs, targets.to(device, non_blocking=True))
        context = int(contexts[0]) if self._context is None else self._context
        told = fact in self._stream.grants
        task = contexts.to(device, non_blocking=True) if self._relabel is not None or told else None
        if self._relabel is not None:
            batch = Batch(batch.inputs, self._relabel[task, batch.targets])
        return Step(batch, task if told else None, self._run.benchmark.units(batch), context)

    @property
    def episodes(self) -> Episodes:
        """The tasks of pre-training: their size, and how long to train at most."""
        assert self._phase.episodes is not None, "only pre-training has episodes"
        return self._phase.episodes

    def tasks(self, part: str, number: int, count: int, queries: int) -> Tasks:
        """Batch ``number`` of ``count`` tasks for pre-training (``part`` train) or for judging it (validation).

        ``queries`` samples a class to judge by, or as many as there are beside the support. Raises Failed once the time
        of the cell is up.
        """
        self._run.until.check_time()
        support, labels, query, answers = self.episodes.draw(part, number, count, queries)
        return Tasks(self._observed(support, labels), self._observed(query, answers))

    def _observed(self, indices: Tensor, targets: Tensor | None) -> Observation:
        assert self._data is not None
        device = self._run.engine.device
        batch = self._data.batch(indices.flatten().to(device))
        shape = indices.shape
        inputs = batch.inputs.view(*shape, *batch.inputs.shape[1:])
        told = batch.targets.view(*shape, *batch.targets.shape[1:]) if targets is None else targets.to(device)
        return Observation(inputs, targets=told)

    @property
    def samples(self) -> int:
        """How many samples this experience has; 0 where there is no data."""
        return 0 if self._phase.indices is None else len(self._phase.indices)

    def everything(self) -> "Experience":
        """All contexts of the stream at once, shuffled, with the steps of all. Only bounds may ask, else ``Hidden``."""
        phases = self._stream.phases
        whole = Phase(0, tuple(index for phase in phases for index in phase.contexts), None, None)
        return self._union(whole, phases, paced_by=phases)

    def so_far(self) -> "Experience":
        """This and all earlier experiences at once, shuffled, with the steps of this one. Only bounds may ask."""
        return self._union(self._phase, self._stream.phases[: self.number + 1], paced_by=(self._phase,))

    def _union(self, like: Phase, phases: tuple[Phase, ...], paced_by: tuple[Phase, ...]) -> "Experience":
        if not self._run.oracle:
            raise Hidden("the data of other contexts is shown to bounds (oracle methods) only")
        parts = [(each.indices, each.context_of) for each in phases if each.indices is not None]
        indices, context_of = (torch.cat(values) for values in zip(*parts, strict=True))
        union = Phase(like.index, like.contexts, indices, context_of)
        return Experience(self._stream, union, self._run, paced_by=paced_by)

    def sample(self, count: int, name: str, size: int) -> Iterator[Observation]:
        """A seeded choice of up to ``count`` samples of this experience, in batches of ``size``, with their targets."""
        assert self._phase.indices is not None
        assert self._phase.context_of is not None
        chosen = torch.randperm(len(self._phase.indices), generator=self._run.generator(name, self.number))[:count]
        for part in chosen.split(size):
            yield self._step(self._phase.indices[part], self._phase.context_of[part], "task_labels_train").reveal()


def _relabel_table(stream: Stream, device: torch.device) -> Tensor | None:
    """[contexts, classes]: the output of each class in each context; None where outputs are the classes."""
    tables: list[Any] = [context.relabel for context in stream.contexts]
    return None if any(table is None for table in tables) else torch.stack(tables).to(device)
