"""Milabench's run folders as records: one record for each process, so that old results can be compared with new ones.

A run is a folder of files BENCH.PROCESS.data, an event a line: {"event": ..., "data": {...}, "pipe": ...}. Used are:
config (name, plan, weight, batch size, devices), meta (the machine), start and end (times, return code), error, stop,
and data: rate with its units, loss, early_stop, gpudata (memory in MiB, load, temperature, power).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fourfold import errors
from fourfold.errors import Refused
from fourfold.launch.manifest import MANIFEST_FILE
from fourfold.metrics.verification import fingerprint
from fourfold.record import Record

MEBIBYTE = 2**20
SETTING, METHOD = "traditional", "milabench"


def import_run(folder: Path, output_dir: Path) -> tuple[str, list[Record]]:
    """Writes the records of a run and a sweep that lists them; (the sweep's id, the records).

    Raises Refused if the folder holds no such run, or a file of it cannot be understood.
    """
    files = sorted(folder.glob("*.data"))
    if not files:
        raise Refused(
            f"{folder}: no BENCH.PROCESS.data there; name one run's folder, e.g. runs/NAME.2024-11-19_12_00_00"
        )
    identity = _slug(folder.name)
    records = []
    counts: dict[str, int] = {}
    for file in files:
        name = file.name.split(".")[0]
        record, series = read_process(file, counts.get(name, 0))
        counts[name] = counts.get(name, 0) + 1
        record.cell = f"{_slug(record.axes['benchmark'])}-{identity}-{_slug(file.name.split('.', 1)[1])}"
        record.write(output_dir / "cells" / record.cell, series)
        records.append(record)
    _write_sweep(output_dir, identity, folder, records)
    return identity, records


def read_process(file: Path, number: int) -> tuple[Record, dict[str, np.ndarray]]:
    """One process: its record, and its observations as a series of steps of one batch each (of 1 where none is told).

    It succeeded, as Milabench says, if it was stopped early at its count, or ended with 0, a rate and no nan loss, or
    is one that does not report (a rank besides the first, a server), which Milabench tags "nolog".
    """
    events = list(_events(file))
    config: dict[str, Any] = next((data for event, data in events if event == "config"), {})
    meta: dict[str, Any] = next((data for event, data in events if event == "meta"), {})
    told = [data for event, data in events if event == "data"]
    rates = [float(data["rate"]) for data in told if data.get("task", "train") == "train" and _number(data.get("rate"))]
    losses = [float("nan") if data["loss"] is None else float(data["loss"]) for data in told if "loss" in data]
    units = next((str(data["units"]) for data in told if "rate" in data and data.get("units")), "items/s")
    name = str(config.get("name") or file.name.split(".")[0])
    hardware = hardware_name(meta, config, file)
    record = Record(
        cell="",
        axes={
            "benchmark": name,
            "hardware": hardware,
            "setting": SETTING,
            "method": METHOD,
            "rule": None,
            "seed": number,
        },
        config=_configuration(config, name),
        overrides=[],
        started=_time(events, "start") or file.stat().st_mtime,
        recipe={"batch": _batch(config), "batch_from": "milabench"} if _batch(config) else {},
        device={"name": hardware},
        environment={"host": (meta.get("cpu") or {}).get("hostname"), "milabench": meta.get("milabench")},
    )
    record.ended = _time(events, "end") or record.started
    record.state, record.reason, record.message = _outcome(config, events, rates, losses)
    batch = float(_batch(config) or 1)
    rate = np.asarray(rates, dtype=np.float64)
    series = {"step_units": np.full(len(rate), batch), "step_seconds": batch / rate, "loss": np.asarray(losses)}
    memory = [each["memory"][0] for data in told for each in (data.get("gpudata") or {}).values() if "memory" in each]
    record.measurements = {
        "unit": units.removesuffix("/s"),
        "steps": len(rates),
        "units": batch * len(rates),
        "stopped_by": "milabench",
        "memory": {"device_peak": int(max(memory) * MEBIBYTE) if memory else None},
        "fingerprint": fingerprint(losses),
    }
    return record, series


def hardware_name(meta: Mapping[str, Any], config: Mapping[str, Any], file: Path) -> str:
    """The device's name as Milabench noted it, in our manner of writing; else its architecture."""
    devices = (meta.get("accelerators") or {}).get("gpus") or {}
    name = next((each.get("product") for each in devices.values() if each.get("product")), None)
    return _slug(str(name or config.get("arch") or "unknown")).lower()


def _configuration(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    weight = float(config.get("weight") or 0.0)
    devices = config.get("devices") or [config.get("device") or 0]
    plan = (config.get("plan") or {}).get("method")
    return {
        "benchmark": {"name": name, "domain": config.get("group")},
        "hardware": {"devices": len(devices), "nodes": int(config.get("num_machines") or 1)},
        "suite": {"name": "milabench", "row": name, "weight": weight, "score": "milabench"},
        "milabench": {"plan": plan, "weight": weight, "tags": config.get("tags")},
    }


def _outcome(
    config: Mapping[str, Any], events: Iterable[tuple[str, Any]], rates: list[float], losses: list[float]
) -> tuple[str, str | None, str | None]:
    """(state, reason, message)."""
    stopped = any(
        event == "stop" or (event == "data" and data.get("task") == "early_stop" and _reached(data.get("progress")))
        for event, data in events
    )
    error = next((data for event, data in events if event == "error"), None)
    end: dict[str, Any] = next((data for event, data in events if event == "end"), {})
    if stopped or "nolog" in (config.get("tag") or ()):
        return errors.DONE, None, None
    if error is not None:
        return errors.FAILED, str(error.get("type") or "error"), str(error.get("message") or "")
    if "return_code" not in end:
        return errors.FAILED, "no end", "the process has no end in its file: it was killed, or the run was cut off"
    if end["return_code"] != 0:
        return errors.FAILED, "return code", f"ended with {end['return_code']}"
    if not rates:
        return errors.FAILED, "no rate", "no rate was observed"
    if losses and np.isnan(losses).any():
        return errors.FAILED, "nan", "the loss became nan"
    return errors.DONE, None, None


def _reached(progress: Any) -> bool:
    return isinstance(progress, list) and len(progress) == 2 and progress[0] >= progress[1]


def _events(file: Path) -> Iterator[tuple[str, Any]]:
    """(event, data) of each line; a last line that was cut off is left out."""
    lines = file.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            yield content["event"], content.get("data") or {}
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                return
            raise Refused(f"{file}: line {number} is not one of Milabench's events ({type(error).__name__})") from error


def _batch(config: Mapping[str, Any]) -> int | None:
    value = next(
        (
            value
            for key, value in (config.get("argv") or {}).items()
            if key.strip("-").replace("_", "-") in ("batch-size", "b")
        ),
        None,
    )
    return int(value) if isinstance(value, int | float) or (isinstance(value, str) and value.isdigit()) else None


def _time(events: Iterable[tuple[str, Any]], name: str) -> float | None:
    return next((float(data["time"]) for event, data in events if event == name and _number(data.get("time"))), None)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and np.isfinite(value) and value > 0


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")


def _write_sweep(output_dir: Path, identity: str, folder: Path, records: list[Record]) -> None:
    content = {
        "schema": 1,
        "id": identity,
        "command": ["python -m fourfold import milabench", folder.name],
        "started": min(record.started for record in records),
        "ended": max(record.ended or record.started for record in records),
        "cells": [
            {
                "index": i,
                "cell": r.cell,
                "folder": f"cells/{r.cell}",
                "overrides": [],
                "state": r.state,
                "job": None,
                "rows": [r.config["suite"]],
            }
            for i, r in enumerate(records)
        ],
        "refused": [],
    }
    path = output_dir / "sweeps" / identity
    path.mkdir(parents=True, exist_ok=True)
    (path / MANIFEST_FILE).write_text(json.dumps(content, indent=1))
