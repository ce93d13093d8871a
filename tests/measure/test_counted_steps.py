"""FLOP counted as they are spent: what a memory adds, what the end of a context takes; counting changes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from fourfold import errors
from fourfold.measure.flops import StepCount, is_counted
from fourfold.metrics import figures
from fourfold.record import read_series
from learning import Bench, killed_and_resumed, same, untimed

SMALL = ("benchmark=digits", "setting=class_incremental", "until.steps=60", "batch=16")
STEPS = 60 // 5  # of each context


def counted(run: Any, *words: str) -> tuple[Any, Any]:
    record = run(*SMALL, *words, "measure.flops=on")
    assert record.state == errors.DONE, record.message
    return record, read_series(record.folder)


def test_some_steps_are_counted() -> None:
    assert [number + 1 for number in range(600) if is_counted(number)] == [1, 2, 8, 32, 128, 512]


def test_replay_learns_from_nothing_first_and_from_twice_as_many_then(run: Any) -> None:
    record, series = counted(run, "method=replay", "method.weighting=sum", "method.memory=100")
    plain = record.measurements["flops"]["model"]
    assert np.flatnonzero(np.isfinite(series["step_flops"])).tolist() == [
        STEPS * context + step for context in range(5) for step in (0, 1, 7)
    ]
    per_unit = (series["step_flops"] / series["step_units"])[np.isfinite(series["step_flops"])] / plain
    assert per_unit == pytest.approx([1] + 14 * [2])
    found, units = figures(record, series), record.measurements["data"]["units"]
    learned = [(2 * STEPS - (context == 0)) * 16 for context in range(5)]
    assert found["compute_efficiency"] == pytest.approx(np.mean(np.array(units) / learned))
    assert found["executed_flops_per_unit"] == pytest.approx(plain * (10 * STEPS - 1) / (5 * STEPS))
    assert 0 < found["cl_score_diaz"] < 1


def test_gdumb_spends_all_as_contexts_end(run: Any) -> None:
    record, series = counted(run, "method=gdumb", "method.memory=40", "method.passes=3")
    assert not np.nansum(series["step_flops"])
    plain = record.measurements["flops"]["model"]
    ends = [held["end_flops"] for held in record.measurements["held"]]
    assert ends == pytest.approx([0] + 5 * [3 * 40 * plain])
    assert figures(record, series)["compute_efficiency"] == pytest.approx(
        np.mean([units / 120 for units in record.measurements["data"]["units"]]).clip(max=1)
    )


@pytest.mark.parametrize("method", ["der_plus_plus", "gem", "ewc", "lwf"])
def test_counting_changes_nothing_that_is_learned(method: str, run: Any) -> None:
    record, series = counted(run, f"method={method}")
    plain = run(*SMALL, f"method={method}", "measure.flops=off")
    assert np.array_equal(series["loss"], read_series(plain.folder)["loss"])
    assert record.evaluations == plain.evaluations
    assert "compute_efficiency" in figures(record, series)
    assert "compute_efficiency" not in figures(plain, read_series(plain.folder))


def test_a_killed_cell_counts_the_same_steps(tmp_path: Path) -> None:
    def made() -> Bench:
        bench = Bench("replay", "class_incremental", steps=40)
        meter = bench.run.meter
        bench.run.count = StepCount(lambda flops, at: meter.note("step_flops", flops, at), lambda: meter.steps)
        return bench

    whole, resumed = killed_and_resumed(made, tmp_path, every=3, killed_at=22)
    assert same(whole.run.held, resumed.run.held)
    np.testing.assert_equal(*(untimed(one.run.meter.series()) for one in (whole, resumed)))
    assert np.isfinite(whole.run.meter.series()["step_flops"]).sum() == 15


def test_a_step_that_breaks_leaves_no_counter_behind(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fourfold.methods.replay import Replay

    def breaks(*_: Any) -> torch.Tensor:
        assert _get_current_dispatch_mode() is not None
        raise ValueError("no")

    monkeypatch.setattr(Replay, "observe", breaks)
    record = run(*SMALL, "method=replay", "measure.flops=on")
    assert record.state == errors.FAILED
    assert _get_current_dispatch_mode() is None
