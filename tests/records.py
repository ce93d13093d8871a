"""Records made by hand, for tests of what reads them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.record import Record

START = 1_700_000_000.0
UNITS = {"llama": "tokens", "matmul": "FLOP"}
HASH = "0123456789ab"


def make_record(
    benchmark: str = "digits",
    hardware: str = "cpu",
    setting: str = "traditional",
    method: str = "finetune",
    seed: int = 0,
    rule: str = "backprop",
    **fields: Any,
) -> Record:
    """A finished cell; any field of the record can be given."""
    axes = {
        "benchmark": benchmark,
        "hardware": hardware,
        "setting": setting,
        "method": method,
        "rule": rule,
        "seed": seed,
    }
    config: dict[str, Any] = {
        "seed": seed,
        "size": "default",
        "batch": "default",
        "benchmark": {"name": benchmark, "recipe": {"full": {"batch": 128}, "smoke": {"batch": 32}}, "data": None},
        "hardware": {"name": hardware, "devices": 1, "launcher": {"gres": None}},
        "setting": {"name": setting, "class_order": list(range(10))},
        "method": {"name": method, "rule": {"name": rule}},
    }
    defaults: dict[str, Any] = {
        "cell": f"{benchmark}-{hardware}-{setting}-{method}-seed{seed}-{HASH}",
        "axes": axes,
        "config": config,
        "overrides": [f"{axis}={value}" for axis, value in axes.items() if axis != "rule"],
        "state": "done",
        "started": START + seed * 100,
        "ended": START + seed * 100 + 60,
        "recipe": {
            "scale": "smoke",
            "size": None,
            "batch": 32,
            "precision": "fp32",
            "until": {"rule": "steps", "steps": 200},
        },
        "environment": {"host": "here", "git": {"commit": "c0ffee" * 6 + "c0ff", "dirty": False}},
        "measurements": {
            "unit": UNITS.get(benchmark, "images"),
            "steps": 200,
            "units": 6400.0,
            "parameters": 1000,
            "stopped_by": "steps",
            "seconds": {"setup": 1.0, "learn": 2.5, "evaluate": 0.5, "first_step": 0.3},
            "cpu_seconds": 3.5,
            "memory": {"allocated_peak": None, "device_peak": None, "host_peak": 512 * 2**20},
        },
    }
    return Record(**{**defaults, **fields})


def make_series(steps: int = 200, seconds: float = 0.01, units: float = 32.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Steps with a slow first one and a falling loss."""
    generator = np.random.default_rng(seed)
    step_seconds = seconds * (1 + 0.05 * generator.standard_normal(steps).clip(-3, 3))
    step_seconds[0] = 30 * seconds
    loss = 2.3 * np.exp(-np.arange(steps) / 50) + 0.1 + 0.01 * generator.standard_normal(steps)
    return {
        "step_seconds": step_seconds,
        "step_units": np.full(steps, units),
        "loss": loss,
        "context": np.zeros(steps, dtype=np.int32),
    }


def evaluations(rows: list[list[float | None]], metric: str = "accuracy", first: int = 0) -> list[dict[str, Any]]:
    """Of an accuracy matrix whose first row was taken after ``first`` contexts; None where not evaluated."""
    return [
        {"after": after, "context": j, "metric": metric, "value": value, "samples": 100, "masked": None}
        for after, row in enumerate(rows, start=first)
        for j, value in enumerate(row)
        if value is not None
    ]


def write_cell(output_dir: Path, record: Record, series: dict[str, np.ndarray] | None = None) -> Path:
    """The cell's folder, with its record, series and log."""
    folder = output_dir / "cells" / record.cell
    record.write(folder, make_series(seed=int(record.axes["seed"])) if series is None else series)
    (folder / "cell.log").write_text(f"{record.cell}: {record.state}\n")
    return folder


def write_sweep(
    output_dir: Path,
    records: list[Record],
    name: str = "2026-01-01_00-00-00-000000",
    refused: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The manifest of a sweep of these cells, written with them; returns its content."""
    for record in records:
        write_cell(output_dir, record)
    cells = [
        {
            "index": index,
            "cell": record.cell,
            "folder": f"cells/{record.cell}",
            "overrides": record.overrides,
            "state": record.state,
            "job": None,
        }
        for index, record in enumerate(records)
    ]
    sweep: dict[str, Any] = {
        "schema": 1,
        "id": name,
        "command": ["run.py", "-m", "benchmark=digits"],
        "started": START - 5,
        "ended": max((record.ended or 0 for record in records), default=START) + 5,
        "cells": cells,
        "refused": refused or [],
    }
    folder = output_dir / "sweeps" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps(sweep))
    return sweep


def folders(output_dir: Path, sweep: dict[str, Any]) -> list[Path]:
    """The folders of a sweep's cells."""
    return [output_dir / cell["folder"] for cell in sweep["cells"]]
