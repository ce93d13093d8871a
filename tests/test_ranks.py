"""Several processes of one cell: each takes its own part of every batch, and the work of all is counted."""

import torch

from fourfold.benchmarks import interface as benchmarks
from fourfold.composition import compose, plain
from fourfold.experience import Experience, Run
from fourfold.hardware.device import acquire
from fourfold.hardware.engine import Engine
from fourfold.measure.until import Until
from fourfold.recipe import resolve
from fourfold.settings import stream as streams


def steps_of(rank: int, world: int, batch: int) -> tuple[list[torch.Tensor], float]:
    """The inputs of each step that one of ``world`` ranks sees, and the units that its meter counted."""
    cell = plain(compose(["benchmark=digits", "hardware=cpu", "until=epochs", "until.epochs=1", f"batch={batch}"]))
    device = acquire(cell["hardware"])
    recipe = resolve(cell, device.accelerator)
    engine = Engine(device, recipe.precision, cell["strategy"])
    engine.part, engine.parts = rank, world
    benchmark = benchmarks.build(cell, recipe)
    stream = streams.build(cell["setting"], benchmark, cell["seed"])
    run = Run(cell["seed"], benchmark, engine, recipe, Until(recipe.until, 1e6), progress=False, oracle=False)
    seen = []
    for step in Experience(stream, stream.phases[0], run):
        seen.append(step.observation.inputs)
        run.tick(step, None)
    return seen, run.meter.units


def test_ranks_draw_from_all_samples_where_there_are_too_few_to_share() -> None:
    """1,438 training samples, 4 ranks of 1,000 each: whole batches, not a fourth of the samples each."""
    first, units = steps_of(0, 4, batch=1000)
    second, _ = steps_of(1, 4, batch=1000)
    assert len(first[0]) == len(second[0]) == 1000
    assert not torch.equal(first[0], second[0])
    assert units == 4 * 1000


def test_ranks_share_each_batch_and_count_the_work_of_all() -> None:
    alone, units = steps_of(0, 1, batch=32)
    first, units_of_first = steps_of(0, 2, batch=16)
    second, units_of_second = steps_of(1, 2, batch=16)
    assert units == units_of_first == units_of_second == 1438
    assert len(alone) == len(first) == len(second)
    for whole, even, odd in zip(alone, first, second, strict=True):
        torch.testing.assert_close(whole[0::2], even)
        torch.testing.assert_close(whole[1::2], odd)
