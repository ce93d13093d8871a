"""The table of a suite in Milabench's columns: processes, precisions and devices as they really were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold.__main__ import main
from fourfold.record import Record
from records import make_record, write_cell


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
