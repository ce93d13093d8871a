"""Scaling, on records whose efficiencies are known."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from fourfold.__main__ import main
from fourfold.report.read import read_all
from fourfold.report.scaling import STRONG, WEAK, scaling
from records import make_record, make_series, write_cell


def cell(output: Path, devices: int, batch: int, efficiency: float, strategy: str = "auto", **fields: Any) -> None:
    """A cell that does 3,200 images a second on each device, times its efficiency."""
    nodes = fields.pop("nodes", 1)
    record = make_record("resnet", fields.pop("hardware", "a100"), **fields)
    record.cell = f"{record.cell}-{record.evidence}-{devices}-{nodes}-{batch}-{strategy}"
    record.config["hardware"] |= {"devices": devices, "nodes": nodes}
    record.config["strategy"] = strategy
    record.recipe["batch"] = batch
    record.overrides += [f"hardware.devices={devices}", f"hardware.nodes={nodes}", f"batch={batch}"]
    record.overrides += [f"strategy={strategy}"] if strategy != "auto" else []
    units = batch * (1 if strategy == "tensor" else devices * nodes)
    series = make_series(400, seconds=units / (3200 * devices * nodes * efficiency), units=units)
    write_cell(output, record, series)


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    cell(tmp_path, 1, 64, 1.0)
    for devices, weak, strong in ((2, 0.98, 0.9), (4, 0.95, 0.7), (8, 0.9, 0.5)):
        cell(tmp_path, devices, 64, weak)
        cell(tmp_path, devices, 64 // devices, strong)
    cell(tmp_path, 8, 64, 0.8, nodes=2)
    return tmp_path


def test_efficiencies_of_weak_and_strong_scaling(measured: Path) -> None:
    weak, strong = scaling(read_all(measured).cells)
    assert (weak.kind, strong.kind, weak.strategy) == (WEAK, STRONG, "ddp")
    assert [(point.devices, point.batch) for point in weak.points] == [
        (1, 64), (2, 128), (4, 256), (8, 512), (16, 1024),
    ]  # fmt: skip
    assert [(point.devices, point.batch) for point in strong.points] == [(1, 64), (2, 64), (4, 64), (8, 64)]
    for series, known in ((weak, (1, 0.98, 0.95, 0.9, 0.8)), (strong, (1, 0.9, 0.7, 0.5))):
        for point, efficiency in zip(series.points, known, strict=True):
            assert point.efficiency.value == pytest.approx(efficiency, rel=0.01)
            assert point.speedup == pytest.approx(efficiency * point.devices, rel=0.01)
            if point.devices > 1:
                assert point.efficiency.low < point.efficiency.value < point.efficiency.high
                assert point.efficiency.low < efficiency < point.efficiency.high


def test_strategies_evidence_and_other_words_make_series_of_their_own(measured: Path) -> None:
    cell(measured, 2, 64, 0.6, "fsdp")
    cell(measured, 2, 64, 0.7, "tensor")  # its devices share one batch of 64
    cell(measured, 2, 64, 1.0, "replicas")
    cell(measured, 1, 64, 2.0, evidence="projected")
    cell(measured, 2, 64, 2.0, evidence="projected")
    found = {(one.strategy, one.kind, one.evidence): one for one in scaling(read_all(measured).cells)}
    assert found["fsdp", WEAK, "measured"].points[1].efficiency.value == pytest.approx(0.6, rel=0.01)
    assert found["tensor", STRONG, "measured"].points[1].efficiency.value == pytest.approx(0.7, rel=0.01)
    assert ("tensor", WEAK, "measured") not in found
    assert found["replicas", WEAK, "measured"].points[1].speedup == pytest.approx(2.0, rel=0.01)
    assert found["ddp", WEAK, "projected"].points[1].efficiency.value == pytest.approx(1.0, rel=0.01)
    assert found["ddp", WEAK, "projected"].hardware == "a100 (projected)"


def test_the_report_on_the_command_line(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", "--scaling", "--all", "--output-dir", str(measured)]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "resnet on a100, ddp, weak scaling (each device the same batch)" in text
    assert "50 %" in text
    assert main([*words, "--json"]) == 0
    assert [one["kind"] for one in json.loads(capsys.readouterr().out)] == [WEAK, STRONG]
    assert main([*words, "--csv"]) == 0
    assert len(list(csv.DictReader(capsys.readouterr().out.splitlines()))) == 9


def test_cells_that_make_no_series_are_refused_with_what_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell(tmp_path, 1, 64, 1.0)
    cell(tmp_path, 2, 64, 1.0, hardware="h100")
    assert main(["report", "--scaling", "--all", "--output-dir", str(tmp_path)]) == 2
    assert "suite=scaling runs some" in capsys.readouterr().err
    assert main(["report", "--scaling", "--score", "milabench", "--output-dir", str(tmp_path)]) == 2
    assert "choose one" in capsys.readouterr().err
