"""Projected cells from the words of a shell to the table; and the fit, on rates whose law is known."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fourfold.__main__ import main
from fourfold.composition import cell_name, compose, plain
from fourfold.errors import Refused
from fourfold.metrics import figures
from fourfold.projection import calibrate
from fourfold.projection.cell import facts_of, sizes_of
from fourfold.projection.model import project
from fourfold.recipe import resolve
from fourfold.report import report

SMALL = ("scale=smoke", "mode=projected")
FITTED = {
    "name": "test",
    "matmul": 0.8,
    "convolution": 0.4,
    "depthwise": 0.1,
    "attention": 0.5,
    "memory": 0.6,
    "reduction": 0.4,
    "launch": 4e-6,
    "spread": None,
}


def test_a_projected_cell_measures_nothing_and_says_so(run: Any) -> None:
    record = run("benchmark=llama", "hardware=a100", *SMALL)
    assert (record.state, record.evidence) == ("done", "projected"), record.message
    assert not (record.folder / "series.npz").exists() or "step_seconds" not in record.measurements
    found = figures(record)
    assert found["units_per_second"] > 0
    assert found["upper_bound"] == found["fits"] == 1
    assert "units_per_second_low" not in found
    text = report(record.folder.parent.parent, None, "text", True)
    assert "a100" in text
    assert "(projected)" in text
    assert "≤" in text
    rows = json.loads(report(record.folder.parent.parent, None, "json", True))["rows"]
    assert rows[0]["evidence"] == "projected"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["hardware=cpu"], "hardware=cpu mode=projected: states no peak rates"),
        (["hardware=auto"], "hardware=auto mode=projected: states no peak rates"),
        (["hardware=a100", "hardware.stand_in=true"], "needs nothing to stand in"),
        (["hardware=v100", "precision=bf16"], "precision=bf16: hardware v100 has fp16, fp32"),
        (["hardware=mi300", "precision=tf32"], "precision=tf32: hardware mi300 has"),
    ],
)
def test_what_cannot_be_projected_is_refused(words: list[str], what: str) -> None:
    with pytest.raises(Refused, match=what):
        compose([*words, "mode=projected"])


@pytest.mark.parametrize(
    ("words", "state", "what"),
    [
        (["hardware=gaudi2", "precision=fp32"], "unavailable", "hardware gaudi2 states no fp32 rate"),
        (["hardware=a100", "hardware.devices=2", "strategy=tensor"], "unavailable", "strategy=tensor mode=projected"),
        (["hardware=a100", "hardware.devices=2", "strategy=fsdp", "precision=fp16"], "refused", "loss scaling"),
        (["hardware=a100", "method=inference"], "unavailable", "cannot be traced without values"),
    ],
)
def test_what_is_not_modelled_is_one_line(run: Any, words: list[str], state: str, what: str) -> None:
    record = run("benchmark=llama", *words, *SMALL)
    assert record.state == state
    assert what in record.message


def test_the_nearest_precision_is_taken_and_marked(run: Any) -> None:
    record = run("benchmark=resnet", "hardware=mi300", "precision=tf32", "precision_policy=nearest", *SMALL)
    assert (record.recipe["precision_asked"], record.recipe["precision"]) == ("tf32", "fp32")


def test_what_a_device_states_names_a_projected_cell_and_no_other() -> None:
    words = ["benchmark=llama", "hardware=a100"]
    measured, other = (plain(compose([*words, *more])) for more in ([], ["hardware.peak.bf16=1e12"]))
    assert cell_name(measured) == cell_name(other)
    words.append("mode=projected")
    projected, other = (plain(compose([*words, *more])) for more in ([], ["hardware.peak.bf16=1e12"]))
    assert len({cell_name(cell) for cell in (measured, projected, other)}) == 3


@pytest.fixture(scope="module")
def rows() -> list[calibrate.Row]:
    """Rows whose rates follow the model exactly, with known efficiencies."""
    found = []
    for benchmark in ("resnet", "convnext", "bert", "llama"):
        for precision in ("fp32", "tf32", "bf16"):
            for batch in (32,):
                words = [f"benchmark={benchmark}", f"precision={precision}", f"batch={batch}"]
                cell = plain(compose([*words, "hardware=a100", *SMALL]))
                facts = facts_of(cell, resolve(cell, accelerator=True))
                known = project(facts.operators, sizes_of(facts), cell["hardware"], precision, "ddp", FITTED)
                name = " ".join(words)
                rate = known["units_per_second"]
                found.append(calibrate.Row(name, benchmark, facts, cell["hardware"], precision, "ddp", rate))
    return found


def test_a_fit_finds_the_law_that_made_the_rates(rows: list[calibrate.Row], tmp_path: Path) -> None:
    found = calibrate.fit(rows, "test", "rates made by the model")
    assert found.median_error < 0.05
    for row in rows:
        assert row.projected(found.calibration) == pytest.approx(row.rate, rel=0.05)
    text = calibrate.yaml_text(found, "this test")
    assert "rows: 12" in text
    assert "+0 %" in calibrate.text(found, rows) or "-0 %" in calibrate.text(found, rows)


def test_a_fit_knows_how_far_off_it_is(rows: list[calibrate.Row]) -> None:
    """A benchmark that is twice as fast as its law is off by half when it is left out."""
    odd = [calibrate.Row(**{**vars(row), "rate": row.rate * (2 if row.group == "bert" else 1)}) for row in rows]
    errors = calibrate.fit(odd, "test", "").errors
    assert all(errors[row.name] == pytest.approx(-math.log(2), abs=0.2) for row in odd if row.group == "bert")


def test_too_few_rows_and_unreadable_tables_are_refused(tmp_path: Path, capsys: Any) -> None:
    assert main(["calibrate", "--output-dir", str(tmp_path)]) == 2
    assert "calibrate: 0 usable rows; it takes" in capsys.readouterr().err
    assert main(["calibrate", "--figures", str(tmp_path / "absent.csv")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert main(["calibrate", "--figures", str(tmp_path / "other.csv")]) == 2
    assert "needs the columns name, overrides" in capsys.readouterr().err
