"""Two values on every axis: what each cell learns and what it costs, side by side in the table and in MLflow."""

import copy
import logging
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hydra.core.singleton import Singleton

from fourfold.launch import main
from fourfold.report.groups import AXES, group, rate_of
from fourfold.report.read import read_sweep
from fourfold.report.text import sweep_text
from fourfold.tracking.store import Store

VALUES = {
    "benchmark": ("digits", "glyphs"),
    "hardware": ("cpu", "a100"),
    "setting": ("class_incremental", "domain_incremental"),
    "method": ("finetune", "replay"),
    "method/rule": ("backprop", "fast_dtp"),
}
TINY = ("scale=smoke", "until.steps=20", "measure.idle=0", "measure.period=null", "checkpoint.seconds=null")


@pytest.fixture
def _hydra_as_it_was() -> Iterator[None]:
    state, root = copy.deepcopy(Singleton.get_state()), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    Singleton.set_state(state)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("_hydra_as_it_was")
def test_accuracy_beside_cost_of_every_combination(
    tracking: dict[str, str], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOURFOLD_OUTPUT", str(tmp_path))
    axes = [f"{axis}={','.join(values)}" for axis, values in VALUES.items()]
    told = [f"tracking.uri={tracking['uri']}", f"tracking.experiment={tracking['experiment']}"]
    assert main.run_command_line(["-m", *axes, "hardware.stand_in=true", *TINY, *told]) == 0

    sweep = read_sweep(tmp_path)
    rows = group(sweep.cells)
    assert {tuple(getattr(row, axis) for axis in AXES[2:]) for row in rows} == set(product(*list(VALUES.values())[2:]))
    assert len(rows) == len(sweep.cells) == 2**5
    assert {row.evidence for row in rows} == {"simulated"}
    for row in rows:
        assert 0 <= row.figures["average_accuracy"].mean <= 1
        assert rate_of(row) is not None or row.figures["overall_units_per_second"].mean > 0
    text = sweep_text(sweep, 200, color=False)
    assert all(name in text for values in VALUES.values() for name in values)

    found = store.client.search_runs([store.experiment_id], "tags.kind = 'cell'", max_results=100)
    assert len(found) == 2**5
    for run in found:
        assert {"average_accuracy", "overall_units_per_second", "cpu_seconds"} <= run.data.metrics.keys()
