"""The table of a suite in Milabench's columns: processes, precisions and devices as they really were."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold.__main__ import main
from fourfold.record import Record
from records import make_record, write_cell, write_sweep


def constant(units: float, steps: int = 20) -> dict[str, np.ndarray]:
    """A unit of time a step, so that the rate is the units; what begins a copy's names is to be put before."""
    return {"step_seconds": np.ones(steps), "step_units": np.full(steps, units)}


def copies(*rates: float) -> dict[str, np.ndarray]:
    """The series of copies at these rates, side by side."""
    others = [{f"copies.{n}.{k}": v for k, v in constant(rate).items()} for n, rate in enumerate(rates[1:], 1)]
    return constant(rates[0]) | {name: values for other in others for name, values in other.items()}


def replicas(devices: int, seed: int = 0, **fields: Any) -> Record:
    record = make_record("resnet", "h100", seed=seed, **fields)
    record.config |= {"strategy": "replicas", "suite": {"name": "milabench", "row": "resnet50", "weight": 1.0}}
    record.config["hardware"]["devices"] = devices
    return record


def row(capsys: pytest.CaptureFixture[str], output: Path, name: str) -> list[str]:
    capsys.readouterr()
    assert main(["report", "--all", "--score", "milabench", "--output-dir", str(output)]) == 0
    return next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(name))


def test_every_copy_is_a_process_and_the_score_is_their_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cell(tmp_path, replicas(2), copies(10.0, 30.0))
    assert main(["report", "--all", "--score", "milabench", "--output-dir", str(tmp_path)]) == 0
    head = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("bench"))
    found = dict(zip(head, row(capsys, tmp_path, "resnet50"), strict=False))
    assert (found["fail"], found["n"], found["ngpu"], found["perf"]) == ("0", "2", "2", "20.00")
    assert row(capsys, tmp_path, "resnet50").count("40.00") == 1


def test_seeds_of_copies_are_runs_of_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """10 + 30 and 20 + 40: 50 on average. A third that failed is two processes of six: 50 x 4 / 6."""
    write_cell(tmp_path, replicas(2, seed=0), copies(10.0, 30.0))
    write_cell(tmp_path, replicas(2, seed=1), copies(20.0, 40.0))
    assert "50.00" in row(capsys, tmp_path, "resnet50")
    write_cell(tmp_path, replicas(2, seed=2, state="failed", reason="nan", message="nan"), {})
    assert row(capsys, tmp_path, "resnet50")[1:3] == ["2", "6"]
    assert f"{50 * 4 / 6:.2f}" in row(capsys, tmp_path, "resnet50")


def suite(output: Path, named: dict[str, Record], score: str | None = "milabench") -> None:
    """A sweep of these rows, under their names."""
    sweep = write_sweep(output, list(named.values()))
    for entry, (name, record) in zip(sweep["cells"], named.items(), strict=True):
        write_cell(output, record, constant(10.0))
        entry["rows"] = [{"name": "small", "row": name, "weight": 1.0} | ({"score": score} if score else {})]
    (output / "sweeps" / sweep["id"] / "sweep.json").write_text(json.dumps(sweep))


def ran(precision: str, devices: int = 1, nodes: int = 1, seed: int = 0) -> Record:
    record = make_record("bert", seed=seed, recipe={"precision": precision, "batch": 32})
    record.config["hardware"] |= {"devices": devices, "nodes": nodes}
    return record


def test_what_a_row_is_named_for_and_did_not_run_with_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {
        "bert-fp16": ran("fp32"),
        "bert-tf32-fp16": ran("fp16", seed=1),
        "lightning-gpus": ran("fp32", devices=1, seed=2),
        "diffusion-gpus": ran("fp32", devices=8, seed=3),
        "diffusion-nodes": ran("fp32", devices=8, nodes=1, seed=4),
        "vjepa-nodes": ran("fp32", devices=8, nodes=2, seed=5),
    }
    suite(tmp_path, rows)
    assert main(["report", "--score", "milabench", "--output-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    found = {
        words[0]: (words[3], words[-1]) for line in text.splitlines() if (words := line.split()) and words[0] in rows
    }
    assert found == {
        "bert-fp16": ("1", "fp32*"),
        "bert-tf32-fp16": ("1", "fp16"),
        "lightning-gpus": ("1*", "fp32"),
        "diffusion-gpus": ("8", "fp32"),
        "diffusion-nodes": ("8*", "fp32"),
        "vjepa-nodes": ("16", "fp32"),
    }
    assert "* 3 of 6 rows are named for another precision, or for more devices, than they ran with" in text


def test_the_report_of_a_suite_ends_with_its_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite(tmp_path, {"bert-fp32": ran("fp32"), "bert-fp16": ran("fp16", seed=1)})
    assert main(["report", "--output-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.index("bench ") > text.index("2 cells: 2 done")
    assert "Score: 10.00" in text
    assert text.rstrip().endswith("report 2026-01-01_00-00-00-000000 --score ratio --reference CELLS")


def test_a_suite_without_a_score_has_no_such_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite(tmp_path, {"bert-fp32": ran("fp32")}, score=None)
    assert main(["report", "--output-dir", str(tmp_path)]) == 0
    assert "Score" not in capsys.readouterr().out
