"""The page on learning rules in continual learning, from records made by hand."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold.record import DIAGNOSED_STEP
from records import evaluations, make_record, make_series, write_cell

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "rules_continual.py"
MATRIX = [[0.5, 0.5], [0.9, 0.1], [0.6, 0.8]]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def cell(output_dir: Path, rule: str, seed: int, seconds: float, suite: str = "rules_continual", **fields: Any) -> None:
    """A cell of two contexts whose gradients were at 20 degrees, and at 60 just after the change."""
    record = make_record(setting="class_incremental", rule=rule, seed=seed, evaluations=evaluations(MATRIX), **fields)
    record.cell = f"{rule}-{seed}-{suite}"
    record.config["suite"] = {"name": suite, "row": "class_incremental", "weight": 1.0}
    series = make_series(seconds=seconds, seed=seed)
    series["context"] = np.repeat([0, 1], 100)
    series[DIAGNOSED_STEP] = np.arange(0, 200, 20)
    series["angle/a"] = np.where(np.arange(10) == 5, 60.0, 20.0)
    write_cell(output_dir, record, series)


def test_accuracy_forgetting_angles_and_cost(script: dict[str, Any], tmp_path: Path) -> None:
    for seed in (0, 1):
        cell(tmp_path, "backprop", seed, 0.01)
        cell(tmp_path, "dtp", seed, 0.03)
    cell(tmp_path, "drl", 0, 0.05, state="failed", message="a nan", measurements={})
    cell(tmp_path, "dtp", 2, 0.01, suite="another")
    page = script["page"](script["cells_of"](tmp_path))
    assert "| finetune | `backprop` | 70.0 ± 0.0 | 30.0 ± 0.0 | 20 | 60 | 1.0 |" in page
    assert "| finetune | `dtp` | 70.0 ± 0.0 | 30.0 ± 0.0 | 20 | 60 | 3.0 |" in page
    assert "| finetune | `drl` | — | — | — | — | — |" in page
    assert "1 failed: a nan" in page
    assert "5 cells" in page
    assert "200 updates each, seeds 0, 1." in page
