"""Two values on every axis: what each cell learns and what it costs, side by side in the table and in MLflow."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from fourfold.report.groups import AXES, group
from fourfold.report.read import read_all
from fourfold.report.text import sweep_text
from fourfold.tracking import sync
from fourfold.tracking.store import Store

VALUES = {
    "benchmark": ("digits", "glyphs"),
    "hardware": ("cpu", "a100"),
    "setting": ("class_incremental", "domain_incremental"),
    "method": ("finetune", "replay"),
    "method/rule": ("backprop", "fast_dtp"),
}
TINY = ("scale=smoke", "until.steps=10", "measure.idle=0", "measure.period=null", "checkpoint.seconds=null")


def test_accuracy_beside_cost_of_every_combination(
    tracking: dict[str, str], store: Store, tmp_path: Path, run: Callable[..., Any]
) -> None:
    for chosen in product(*VALUES.values()):
        words = [f"{axis}={value}" for axis, value in zip(VALUES, chosen, strict=True)]
        record = run(*words, "hardware.stand_in=true", *TINY)
        assert record.state == "done", record.message

    sweep = read_all(tmp_path)
    rows = group(sweep.cells)
    assert {tuple(getattr(row, axis) for axis in AXES if axis != "hardware") for row in rows} == set(
        product(*(values for axis, values in VALUES.items() if axis != "hardware"))
    )
    assert len(rows) == len(sweep.cells) == 2 ** len(VALUES)
    for row in rows:
        assert row.evidence == "simulated"
        assert 0 <= row.figures["average_accuracy"].mean <= 1
        assert row.figures["overall_units_per_second"].mean > 0
    text = sweep_text(sweep, 200)
    assert all(name in text for values in VALUES.values() for name in values)
    assert all(word in text.split() for word in ("rate,", "average", "accuracy", "time"))

    sync(tracking, tmp_path)
    found = store.client.search_runs([store.experiment_id], "tags.kind = 'cell'", max_results=100)
    assert len(found) == 2 ** len(VALUES)
    for cell in found:
        assert {"average_accuracy", "overall_units_per_second", "cpu_seconds"} <= cell.data.metrics.keys()
