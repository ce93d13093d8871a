"""What MLflow is told of a cell or a sweep: plain data, made from records alone."""

import getpass
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from fourfold import errors
from fourfold.metrics import Series, alignment, figures
from fourfold.metrics.continual import accuracy_matrix
from fourfold.record import DIAGNOSED_STEP, Record
from fourfold.report.labels import hardware_label, projected_text, run_name

# MLflow's limits; longer values would be cut silently, or refused.
PARAM_LENGTH, TAG_LENGTH, KEY_LENGTH = 6000, 5000, 250
# Points of one curve: more than a screen is wide says nothing more.
MOST_POINTS = 1000
# Not as parameters: both scales' recipes and all sizes (what ran is in recipe.*), ranges, facts of members, plumbing.
NOT_PARAMETERS = {"benchmark.recipe", "hardware.launcher", "hardware.match", "tracking", "suite", "hydra"}
NOT_PARAMETERS_ANYWHERE = {"limits", "sizes", "_target_", "offers", "needs", "uses", "grants"}

STATUS = {
    errors.DONE: "FINISHED",
    errors.NOT_APPLICABLE: "FINISHED",
    errors.FAILED: "FAILED",
    errors.UNAVAILABLE: "FAILED",
    errors.REFUSED: "FAILED",
    errors.INTERRUPTED: "KILLED",
}


# A monitor's field -> MLflow's unit of it, and what one is of ours; and what MLflow calls the host's.
SYSTEM_METRICS = {
    "power": ("power_usage_watts", 1.0),
    "utilisation": ("utilization_percentage", 100.0),
    "memory": ("memory_usage_megabytes", 1e-6),
    "clock": ("clock_megahertz", 1e-6),
    "temperature": ("temperature_celsius", 1.0),
}
HOST_NAMES = {"utilisation": "cpu", "memory": "system"}


@dataclass(frozen=True)
class Point:
    """One value of a metric; ``time`` in seconds since the epoch."""

    key: str
    value: float
    time: float
    step: int = 0


@dataclass(frozen=True)
class Run:
    """A run as MLflow knows it; times in seconds since the epoch, ``ended`` None while it goes on."""

    name: str
    tags: dict[str, str]
    started: float
    ended: float | None
    status: str
    params: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)


def cell_run(record: Record, series: Series, sweep: str | None) -> Run:
    """The run of one cell: axes, state and provenance as tags, configuration as params, figures and curves."""
    ended = record.ended if record.ended is not None else record.started
    numbers = figures(record, series)
    note = {"mlflow.note.content": record.message or projected_text(record, numbers)}
    return Run(
        name=run_name(record),
        tags=_texts({**cell_tags(record, sweep), **note}, TAG_LENGTH),
        started=record.started,
        ended=ended,
        status=STATUS.get(record.state, "FAILED"),
        params=_texts(parameters(record), PARAM_LENGTH),
        points=[
            *(Point(key, value, ended) for key, value in numbers.items()),
            *curves(record, series),
            *system_points(record, series),
            *evaluation_points(record, ended),
            *diagnostic_points(record, series),
        ],
    )


def sweep_run(sweep: Mapping[str, Any], records: Iterable[Record]) -> Run:
    """The parent run: the command, the state of the code, and how many cells ended how."""
    records = list(records)
    cells = [
        *sweep.get("cells", []),
        *({"state": errors.REFUSED} for _ in sweep.get("refused", [])),
        *({"state": errors.NOT_APPLICABLE} for _ in sweep.get("not_applicable", [])),
    ]
    states = [str(cell.get("state")) for cell in cells if cell.get("state")]
    counts = {state: states.count(state) for state in errors.STATES if state in states}
    started = seconds_of(sweep.get("started")) or min((r.started for r in records), default=0.0)
    tags = {
        "kind": "sweep",
        "sweep": sweep["id"],
        "command": " ".join(map(str, sweep.get("command") or [])),
        "states": ", ".join(f"{count} {state}" for state, count in counts.items()),
        **(git_tags(records[0]) if records else {}),
        "mlflow.user": _user(),
        "mlflow.source.name": "run.py",
        "mlflow.source.type": "LOCAL",
    }
    ended = seconds_of(sweep.get("ended"))
    return Run(
        name=f"sweep {sweep['id']}",
        tags=_texts(tags, TAG_LENGTH),
        started=started,
        ended=ended,
        status="RUNNING" if ended is None else "KILLED" if sweep.get("killed") else sweep_status(states),
    )


def sweep_status(states: list[str]) -> str:
    """As the exit code of the command: interrupted, failed, or fine."""
    return {130: "KILLED", 1: "FAILED", 2: "FAILED"}.get(errors.exit_code(states), "FINISHED")


def cell_tags(record: Record, sweep: str | None) -> dict[str, Any]:
    """What runs are found, grouped and told apart by."""
    return {
        "kind": "cell",
        **axes(record),
        "state": record.state,
        "reason": record.reason,
        "message": record.message,
        "evidence": record.evidence,
        "oracle": "yes" if record.oracle else None,
        "scale": record.recipe.get("scale"),
        "unit": record.measurements.get("unit"),
        "sweep": sweep,
        **suite_tags(record),
        "cell": record.cell,
        "host": record.environment.get("host"),
        **git_tags(record),
        "mlflow.user": _user(),
        "mlflow.source.name": "run.py",
        "mlflow.source.type": "LOCAL",
    }


def axes(record: Record) -> dict[str, Any]:
    """The four axes, the rule and the seed; hardware that only stood in is named as that."""
    return {**record.axes, "hardware": hardware_label(record)}


def suite_tags(record: Record) -> dict[str, Any]:
    """The suite and its row that asked for the cell, and the row's weight; nothing where none did."""
    suite = record.config.get("suite") or {}
    return {"suite": suite.get("name"), "row": suite.get("row"), "weight": suite.get("weight")}


def git_tags(record: Record) -> dict[str, Any]:
    """The commit that the cell ran on, and whether the code differed from it."""
    git = record.environment.get("git") or {}
    commit = git.get("commit")
    return {"git_commit": commit, "git_dirty": git.get("dirty"), "mlflow.source.git.commit": commit}


def parameters(record: Record) -> dict[str, Any]:
    """The flattened configuration, the resolved recipe under ``recipe``, and the axes in one word each."""
    flat = {
        key: value
        for key, value in flatten(record.config)
        if ".".join(key.split(".")[:2]) not in NOT_PARAMETERS
        and key.split(".")[0] not in NOT_PARAMETERS
        and NOT_PARAMETERS_ANYWHERE.isdisjoint(key.split("."))
    }
    flat |= {f"recipe.{key}": value for key, value in flatten(record.recipe)}
    named = {f"{axis}.name" for axis in ("benchmark", "hardware", "setting", "method", "method.rule")}
    return {**{key: value for key, value in flat.items() if key not in named}, **axes(record)}


def flatten(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted key, value) of every leaf; lists are leaves."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def curves(record: Record, series: Series) -> list[Point]:
    """Loss and rate over the steps, at most 1000 points each: means over equal spans, at the span's last step."""
    seconds = np.asarray(series.get("step_seconds", ()), dtype=np.float64)
    if not seconds.size:
        return []
    begin = record.started + float((record.measurements.get("seconds") or {}).get("setup") or 0.0)
    times = begin + np.cumsum(np.nan_to_num(seconds))
    units = np.asarray(series.get("step_units", np.zeros_like(seconds)), dtype=np.float64)
    loss = np.asarray(series.get("loss", np.full_like(seconds, np.nan)), dtype=np.float64)
    points = []
    edges = np.linspace(0, len(seconds), min(len(seconds), MOST_POINTS) + 1).astype(int)
    for low, high in pairwise(edges):
        finite = loss[low:high][np.isfinite(loss[low:high])]
        spent = seconds[low:high].sum()
        if finite.size:
            points.append(Point("learning/loss", float(finite.mean()), float(times[high - 1]), int(high)))
        if spent > 0 and units[low:high].sum() > 0:
            value = float(units[low:high].sum() / spent)
            points.append(Point("learning/units_per_second", value, float(times[high - 1]), int(high)))
    return points


def system_points(record: Record, series: Series) -> list[Point]:
    """What the monitor read, as MLflow's system metrics: its names, where it has one, and its units."""
    looks = np.asarray(series.get("monitor.seconds", ()), dtype=np.float64)
    zero = (record.measurements.get("monitor") or {}).get("started") or record.started
    every = max(1, -(-len(looks) // MOST_POINTS))
    points = []
    for name, column in series.items():
        source, _, field = name.removeprefix("monitor.").rpartition(".")
        if not name.startswith("monitor.") or field not in SYSTEM_METRICS:
            continue
        unit, scale = SYSTEM_METRICS[field]
        device = HOST_NAMES.get(field, source) if source == "host" else source
        values = np.asarray(column, dtype=np.float64)
        points += [
            Point(f"system/{device}_{unit}", float(values[at] * scale), float(zero + looks[at]), at)
            for at in range(0, len(looks), every)
            if np.isfinite(values[at])
        ]
    return points


def evaluation_points(record: Record, time: float) -> list[Point]:
    """Each context's value over the number of contexts learned, and the mean over the contexts seen."""
    points = []
    for metric in dict.fromkeys(entry["metric"] for entry in record.evaluations):
        matrix = accuracy_matrix(record.evaluations, metric)
        width = len(str(max(matrix.shape[1] - 1, 0)))
        for after, row in enumerate(matrix):
            named = {f"{metric}/context_{j:0{width}d}": value for j, value in enumerate(row)}
            seen = row[:after]
            if seen.size and not np.isnan(seen).any():
                named[f"{metric}/mean_of_seen"] = seen.mean()
            points += [Point(key, float(value), time, after) for key, value in named.items() if np.isfinite(value)]
    return points


def diagnostic_points(record: Record, series: Series) -> list[Point]:
    """The looks at a rule: angles, norm ratios and feedback losses over the steps."""
    steps = np.asarray(series.get(DIAGNOSED_STEP, ()), dtype=np.int64)
    curves = alignment.curves(series)
    return [
        Point(name, float(value), record.started, int(step))
        for name, values in curves.items()
        for step, value in zip(steps, values, strict=True)
        if np.isfinite(value)
    ]


def legal_key(key: str) -> str:
    """MLflow's keys: letters, digits, and _ - . / : and space; anything else becomes an underscore."""
    return re.sub(r"[^\w\-. /:]", "_", key, flags=re.ASCII)[:KEY_LENGTH]


def _texts(values: Mapping[str, Any], longest: int) -> dict[str, str]:
    """Keys and values as MLflow takes them; absent values are left out, cut ones end in an ellipsis."""
    found = {}
    for key, value in values.items():
        if value is None or value == "":
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        found[legal_key(key)] = text if len(text) <= longest else text[: longest - 1] + "…"
    return found


def seconds_of(value: Any) -> float | None:
    """A time of a manifest: seconds since the epoch, or ISO 8601."""
    if value is None or isinstance(value, int | float):
        return value
    from datetime import datetime

    return datetime.fromisoformat(str(value)).timestamp()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
