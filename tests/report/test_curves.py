"""report --adaptation: the score by steps since a switch over seeds, as a picture, with the figures beside it."""

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourfold.__main__ import main
from fourfold.report.curves import panels
from fourfold.report.read import read_sweep
from records import make_record, make_series, write_cell, write_sweep

SINCE = np.array([0, 1, 2, 3, 0, 1, 2, 0, 1, 0], dtype=float)
MODES = ["context 0: characters", "context 1: digits"]


def stream(level: float, detected: bool = False) -> dict[str, np.ndarray]:
    """Ten steps, four contexts of 4, 3, 2 and 1; ``level`` from the first step after a switch on, 0.1 at it."""
    told = {"score": np.where(SINCE == 0, 0.1, level), "since_switch": SINCE}
    found = {"detected": ((SINCE == 0) | (np.arange(10) == 1)).astype(float)} if detected else {}
    return {**make_series(10), "context": np.array([0, 0, 0, 0, 1, 1, 1, 0, 0, 1]), **told, **found}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    records, series = [], []
    for alpha in (0.9, 0.98):
        for method, rate in (("online_sgd", 0.01), ("online_sgd", 0.1), ("cmaml", None)):
            for seed in (0, 1, 2):
                words = [
                    f"setting.alpha={alpha}",
                    "scale=smoke",
                    f"method.rate={rate}" if rate else "method.keep=there",
                ]
                record = make_record("osaka_glyphs", setting="osaka", method=method, seed=seed)
                record.cell += f"{alpha}{rate}"
                record.overrides = [f"method={method}", f"seed={seed}", *words]
                record.config["setting"]["alpha"] = alpha
                record.measurements["contexts"] = MODES
                records.append(record)
                series.append(stream(0.4 + 0.1 * seed + (rate or 0), detected=method == "cmaml"))
    records.append(make_record("osaka_glyphs", setting="osaka", method="maml", state="failed", message="no memory"))
    write_sweep(tmp_path, records)
    for record, own in zip(records, series, strict=False):
        write_cell(tmp_path, record, own)
    return tmp_path


def said(capsys: Any, output: Path, *words: str) -> tuple[int, str, str]:
    status = main(["report", "--output-dir", str(output), *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_panel_for_each_stream_and_a_line_for_each_learner(output: Path) -> None:
    found = panels(read_sweep(output).cells)
    assert [panel.title.split(", ")[-1] for panel in found] == ["alpha 0.9", "alpha 0.98"]
    names = ["online_sgd method.rate=0.01", "online_sgd method.rate=0.1", "cmaml"]
    assert [learner.name for learner in found[0].learners] == names
    curve = found[0].learners[2].curve()
    assert [point.count for point in curve] == [3, 3, 3, 3]
    assert curve[0].mean == pytest.approx(0.1)
    assert curve[1].mean == pytest.approx(0.5)  # of 0.4, 0.5, 0.6
    assert curve[1].half_width == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)  # Student's t of two degrees


def test_the_picture_and_the_figures_beside_it(output: Path, capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    status, out, _ = said(capsys, output, "--adaptation", str(path))
    assert status == 0
    with Image.open(path) as picture:
        assert picture.size == (1240, 440)
    lines = [line for line in out.splitlines() if line.startswith("cmaml")]
    assert "0.340 ±0.15" in lines[0]  # 4 of 10 steps at 0.1, the others at 0.4, 0.5, 0.6
    assert "characters" in out
    assert "0.500 ±0.25" in lines[1]  # one step after a switch
    assert "3.000 ±0" in lines[2]  # switches
    assert "0.750" in lines[2]  # three name a switch, one is a false alarm, that of the first step does not count
    assert "units/s" in out.replace("\n", "")


def test_as_csv_and_json(output: Path, capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    _, out, _ = said(capsys, output, "--adaptation", str(path), "--csv")
    rows = list(csv.DictReader(StringIO(out)))
    assert len(rows) == 2 * 3 * 4
    assert {row["seeds"] for row in rows} == {"3"}
    _, out, _ = said(capsys, output, "--adaptation", str(path), "--json")
    learner = json.loads(out)[1]["learners"][2]
    assert learner["name"] == "cmaml"
    assert learner["figures"]["detection_recall"]["mean"] == 1.0
    assert learner["curve"][2]["mean"] == pytest.approx(0.5)


def test_refusals(output: Path, capsys: Any, tmp_path: Path) -> None:
    for words, expected in (
        (["--adaptation", str(tmp_path / "curves.txt")], r"ends in .png, .svg, .pdf"),
        (["--adaptation", str(tmp_path / "nowhere/curves.png")], "there is no folder"),
        (["--adaptation", "curves.png", "--pivot", "method,setting"], "not together with --pivot"),
    ):
        status, _, err = said(capsys, output, *words)
        assert status == 2
        assert expected in err
    write_sweep(tmp_path / "other", [make_record()])
    status, _, err = said(capsys, tmp_path / "other", "--adaptation", str(tmp_path / "curves.png"))
    assert status == 2
    assert "setting=osaka" in err
    assert not (tmp_path / "curves.png").exists()


def test_the_plain_report_has_the_cumulative_accuracy(output: Path, capsys: Any) -> None:
    _, out, _ = said(capsys, output, "--json")
    assert "cumulative_accuracy" in out
    _, out, _ = said(capsys, output)
    assert "cumulative" in out
