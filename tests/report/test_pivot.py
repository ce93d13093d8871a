"""report --pivot: one figure over two axes, with intervals, and why a place has none; the heat map."""

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourfold.__main__ import main
from fourfold.report.heat import heat_map
from records import evaluations, make_record, make_series, write_sweep

CLASS, TASK = "class_incremental", "task_incremental"


def matrix(last: float) -> list[dict[str, Any]]:
    return evaluations([[0.1, 0.1], [0.9, 0.2], [last, last]])


@pytest.fixture
def output(tmp_path: Path) -> Path:
    records = [
        *(make_record(setting=CLASS, method="ewc", seed=s, evaluations=matrix(0.4 + 0.1 * s)) for s in (0, 1, 2)),
        make_record(setting=CLASS, method="replay", evaluations=matrix(0.8)),
        make_record(setting=TASK, method="replay", state="failed", message="out of memory\nmore", measurements={}),
        make_record(setting=CLASS, method="joint", oracle=True, evaluations=matrix(0.95)),
    ]
    refused = [{"overrides": ["setting=continual", "method=ewc"], "why": "ewc needs boundaries_train"}]
    write_sweep(tmp_path, records, refused=refused)
    return tmp_path


def said(capsys: Any, output: Path, *words: str) -> tuple[int, str, str]:
    status = main(["report", "--output-dir", str(output), *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_table_of_methods_and_settings(output: Path, capsys: Any) -> None:
    status, out, _ = said(capsys, output, "--pivot", "method,setting", "--metric", "average_accuracy")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("average accuracy, digits, cpu")
    ewc, replay, joint = (next(line for line in lines if line.startswith(name)) for name in ("ewc", "replay", "joint"))
    assert "0.500 ±0.25" in ewc  # t(2, 0.975) 0.1 / sqrt(3)
    assert "0.800 (1)" in replay
    assert "0.950" in joint
    assert lines.index(joint) > lines.index(replay) > lines.index(ewc), "bounds come last"
    assert any(line.endswith("ewc needs boundaries_train") and line.startswith("n/a") for line in lines)
    assert any(line.endswith("failed: out of memory") for line in lines)


def test_as_csv_and_json(output: Path, capsys: Any) -> None:
    _, out, _ = said(capsys, output, "--pivot", "setting,method", "--csv")
    rows = {(row["setting"], row["method"]): row for row in csv.DictReader(StringIO(out))}
    ewc = rows[CLASS, "ewc"]
    assert float(ewc["average_accuracy"]) == pytest.approx(0.5)
    assert float(ewc["standard_error"]) == pytest.approx(0.1 / 3**0.5)
    assert float(ewc["interval_high"]) == pytest.approx(0.5 + 4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert rows["continual", "ewc"]["why"] == "ewc needs boundaries_train"
    assert rows["continual", "replay"]["why"] == "not in this sweep"
    _, out, _ = said(capsys, output, "--pivot", "setting,method", "--json")
    found = {(row["setting"], row["method"]): row for row in json.loads(out)}
    assert found[CLASS, "ewc"]["seeds"] == 3
    assert found["continual", "ewc"]["average_accuracy"] is None


def test_intransigence_is_found_beside_joint_training(output: Path, capsys: Any) -> None:
    _, out, _ = said(capsys, output, "--pivot", "method,setting", "--metric", "intransigence_joint", "--csv")
    rows = {(row["method"], row["setting"]): row for row in csv.DictReader(StringIO(out))}
    # joint's last row less the diagonal 0.9, 0.4 of seed 0; the other seeds have no joint cell beside them
    assert float(rows["ewc", CLASS]["intransigence_joint"]) == pytest.approx((0.05 + 0.55) / 2)
    assert rows["ewc", CLASS]["seeds"] == "1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pivot", "method,colour"), "no axis colour; choose two of benchmark, hardware"),
        (("--pivot", "method"), "two axes with a comma between"),
        (("--pivot", "method,method"), "two different axes"),
        (("--pivot", "method,setting", "--metric", "average_acuracy"), "did you mean average_accuracy"),
    ],
)
def test_what_cannot_be_shown_is_refused(words: tuple[str, ...], message: str, output: Path, capsys: Any) -> None:
    status, _, err = said(capsys, output, *words)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_the_heat_map_is_a_picture_of_cells_with_contexts_only(tmp_path: Path) -> None:
    path = tmp_path / "R.png"
    assert not heat_map(make_record(), path)
    assert not heat_map(make_record(evaluations=evaluations([[0.5]])), path)
    assert not path.exists()
    assert heat_map(make_record(evaluations=matrix(0.5)), path)
    with Image.open(path) as picture:
        assert picture.size[0] > 100
        assert len(set(picture.convert("RGB").resize((60, 60)).getdata())) > 20


def test_a_metric_alone_is_shown_over_method_and_setting(output: Path, capsys: Any) -> None:
    status, out, _ = said(capsys, output, "--metric", "forgetting_max")
    assert status == 0
    assert out.startswith("forgetting max, digits, cpu")
    status, _, err = said(capsys, output, "--metric", "forgeting_max")
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert "they have" in err
    assert "average_accuracy" in err
    assert "forgetting_max" in err
    status, _, err = said(capsys, output, "--metric", "cl_score_diaz")
    assert (status, "measure.flops=on" in err) == (2, True)


def test_costs_count_beside_the_largest_of_the_sweep(tmp_path: Path, capsys: Any) -> None:
    made = []
    for method, seconds in (("ewc", 30.0), ("replay", 60.0)):
        record = make_record(setting=CLASS, method=method, evaluations=matrix(0.6))
        record.measurements["seconds"]["learn"] = seconds
        for entry in record.evaluations:
            entry["classes"] = [[entry["context"], 60, 100]]
        made.append(record)
    write_sweep(tmp_path, made)
    for record in made:
        looks = {"monitor.process.memory": np.full(3, 1e9), "monitor.process.disk": np.zeros(3)}
        record.write(tmp_path / "cells" / record.cell, {**make_series(), **looks})
    _, out, _ = said(capsys, tmp_path, "--metric", "cl_score_clvision2020", "--json")
    found = {row["method"]: row["cl_score_clvision2020"] for row in json.loads(out)}
    accuracy = 0.3 * 0.6 + 0.1 * (0.9 + 0.2 + 0.6 + 0.6) / 4
    assert found["ewc"] == pytest.approx(accuracy + 0.15 * 0.5 + 0.125 + 0.075)  # RAM is the largest in both: 0
    assert found["replay"] == pytest.approx(accuracy + 0.125 + 0.075)
    _, out, _ = said(capsys, tmp_path, "--metric", "class_accuracy_1", "--json")
    assert [row["class_accuracy_1"] for row in json.loads(out)] == [0.6, 0.6]


def test_stability_is_one_number_of_all_seeds(tmp_path: Path, capsys: Any) -> None:
    made = []
    for method, seed, last in (("ewc", 0, 0.5), ("ewc", 1, 0.7), ("replay", 0, 0.6)):
        record = make_record(setting=CLASS, method=method, seed=seed, evaluations=matrix(last))
        record.measurements |= {
            "held": [{"after": after, "parameters": 400, "samples": 10} for after in (0, 1, 2)],
            "data": {"bytes": 100, "units": [40.0, 40.0]},
            "flops": {"model": 5.0, "executed": 5.0, "alike": True},
        }
        made.append(record)
    write_sweep(tmp_path, made)
    for record in made:
        work = {"context": np.array([0, 0, 1, 1]), "step_units": np.full(4, 40.0)}
        record.write(tmp_path / "cells" / record.cell, {**make_series(4), **work})
    status, out, err = said(capsys, tmp_path, "--metric", "cl_stability_diaz", "--json")
    assert status == 0, err
    rows = [row for row in json.loads(out) if row["cl_stability_diaz"] is not None]
    # R = [[.9, .2], [last, last]]: ACC = (.9 + 2 last) / 3, REM = 1 - (.9 - last), the other five alike
    apart = 0.2 / 2**0.5
    assert [(row["method"], row["cl_stability_diaz"], row["seeds"]) for row in rows] == [
        ("ewc", pytest.approx(1 - (apart * 2 / 3 + apart) / 7), 1)
    ]
    write_sweep(tmp_path / "one", made[2:])
    status, _, err = said(capsys, tmp_path / "one", "--metric", "cl_stability_diaz")
    assert (status, "of two seeds or more" in err) == (2, True)
