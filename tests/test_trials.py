"""The search for a batch size, on made-up machines and in a cell; repeats of a cell."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fourfold.errors import Refused
from fourfold.metrics import figures
from fourfold.metrics.throughput import rate, rate_over_repeats
from fourfold.record import read_series
from fourfold.trials import MOST_TRIALS, Trial, best_of, search, with_best_batch


def machine(rate: Callable[[int], float], fits: int = 10**9) -> Callable[[int], Trial]:
    return lambda batch: Trial(batch, rate(batch), 1.0) if batch <= fits else Trial(batch, None, None, "out of memory")


def test_doubles_while_it_pays_and_looks_between_the_best_and_its_neighbours() -> None:
    trials = search(8, machine(lambda batch: 100 * batch / (batch + 16)))
    assert [trial.batch for trial in trials][:4] == [8, 16, 32, 64]
    assert len(trials) <= MOST_TRIALS
    assert best_of(trials) >= 256


def test_stops_where_more_does_not_help() -> None:
    trials = search(16, machine(lambda batch: min(batch, 64)))
    assert [trial.batch for trial in trials] == [16, 32, 64, 128, 256, 96, 48]
    assert best_of(trials) == 64


def test_goes_no_further_than_memory_and_tries_between() -> None:
    trials = search(16, machine(float, fits=100))
    assert [trial.batch for trial in trials] == [16, 32, 64, 128, 96, 48]
    assert best_of(trials) == 96


def test_halves_what_does_not_fit_and_gives_up_at_one() -> None:
    assert [trial.batch for trial in search(16, machine(float, fits=5))][:3] == [16, 8, 4]
    assert best_of(search(16, machine(float, fits=5))) == 4
    hopeless = search(4, machine(float, fits=0))
    assert [trial.batch for trial in hopeless] == [4, 2, 1]
    with pytest.raises(ValueError):
        best_of(hopeless)


def test_several_processes_are_refused() -> None:
    with pytest.raises(Refused, match="one process"):
        with_best_batch({"hardware": {"devices": 2, "nodes": 1}}, lambda *_: None, 8, None)  # type: ignore[arg-type]


def test_a_cell_finds_its_batch_and_leaves_the_curve(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourfold.trials.MOST_TRIALS", 4)
    monkeypatch.setattr("fourfold.trials.TRIAL_STEPS", 10)
    record = run("benchmark=digits", "batch=auto", "until.steps=10")
    assert record.state == "done", record.message
    curve = record.measurements["batch_search"]
    rates = {trial["batch"]: trial["rate"] for trial in curve}
    assert 2 <= len(curve) <= 4
    assert record.recipe["batch"] == max(rates, key=rates.__getitem__)
    assert (record.recipe["batch_from"], record.config["batch"]) == ("auto", "auto")
    assert record.measurements["units"] == 10 * record.recipe["batch"] or record.recipe["batch"] > 64


def test_a_batch_larger_than_the_data_is_refused_and_the_search_goes_no_further(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourfold.trials.TRIAL_STEPS", 2)
    record = run("benchmark=digits", "batch=1439", "until.steps=2")
    assert (record.state, record.message) == (
        "refused",
        "batch=1439: these data have 1438 training samples; choose batch=1438 or less, or more benchmark.data.samples=",
    )
    assert run("benchmark=digits", "batch=1438", "until.steps=2").measurements["units"] == 2 * 1438
    few = ("benchmark.data.samples=12", "benchmark.data.classes_used=2", "until.steps=2")
    small = run("benchmark=resnet", "batch=auto", *few)
    assert (small.state, small.message) == ("done", None)
    assert [trial["outcome"] for trial in small.measurements["batch_search"] if trial["batch"] > 12] == [
        "larger than the data"
    ]


def test_repeats_do_the_same_work_and_tell_between_from_within(run: Callable[..., Any]) -> None:
    record = run("benchmark=digits", "repeats=3", "until.steps=60")
    assert record.state == "done", record.message
    assert record.measurements["repeats_agree"] is True
    series = read_series(record.folder)
    assert len(series["repeats.2.step_seconds"]) == 60
    found = figures(record, series)
    assert found["repeats"] == 3
    assert found["units_per_second_low"] < found["units_per_second"] < found["units_per_second_high"]
    assert found["rate_freedom"] == 2


def test_variance_between_repeats_is_apart_from_that_within() -> None:
    generator = np.random.default_rng(0)
    units = np.full(500, 32.0)
    times = [0.01 * (1 + 0.05 * generator.standard_normal(500)) for _ in range(5)]
    steady = [rate(seconds, units) for seconds in times]
    levels = [rate(seconds * level, units) for seconds, level in zip(times, (0.9, 0.95, 1, 1.05, 1.1), strict=True)]
    alike, unlike = rate_over_repeats(steady), rate_over_repeats(levels)
    assert alike.within == pytest.approx(0.05 / np.sqrt(500), rel=0.4)
    assert alike.between < 3 * alike.within
    assert unlike.within == pytest.approx(alike.within)
    assert unlike.between == pytest.approx(np.std([1 / level for level in (0.9, 0.95, 1, 1.05, 1.1)], ddof=1), rel=0.1)
    assert unlike.high - unlike.mean == pytest.approx(2.776 * unlike.between * unlike.mean / np.sqrt(5), rel=0.001)
    assert rate_over_repeats(steady[:1]) is None


@pytest.mark.parametrize(
    "words", [["batch=most"], ["batch=0"], ["repeats=0"], ["measure.period=0"], ["measure.flops=yes"]]
)
def test_bad_values_are_refused_with_the_key(words: list[str]) -> None:
    from fourfold.composition import check, compose

    with pytest.raises(Refused, match=words[0].split("=")[0]):
        check(compose(words))
