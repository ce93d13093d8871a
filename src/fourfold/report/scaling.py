"""How the rate of a workload grows with its devices: cells that differ in nothing but how many there are.

With rate R(n) of n devices, n0 the fewest:   speed-up = R(n) / R(n0)   efficiency = (n0 / n) R(n) / R(n0)

weak: each device has the same batch (Gustafson 1988). strong: all devices together have the same batch (Amdahl 1967).
"""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from typing import Any

from fourfold import errors
from fourfold.errors import Refused
from fourfold.metrics.comparison import Estimate, Ratio, ratio
from fourfold.report.compare import rate_estimate
from fourfold.report.groups import group
from fourfold.report.labels import hardware_label, rate_text
from fourfold.report.read import Cell, Sweep

WEAK, STRONG = "weak", "strong"
PROJECTED = "projected"
# What a scaling series varies; all else of a cell's words is what it is a series of.
VARIED = ("hardware.devices", "hardware.nodes", "batch", "strategy")


@dataclass(frozen=True)
class Point:
    """One number of devices. ``batch`` is that of all of them together; efficiency has the 95 % interval of a ratio."""

    devices: int
    batch: int
    unit: str
    rate: Estimate
    speedup: float
    efficiency: Ratio


@dataclass(frozen=True)
class Series:
    """The points of one workload on one kind of device, the fewest devices first. ``kind``: weak or strong."""

    workload: str
    hardware: str
    kind: str
    strategy: str
    evidence: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class _Measured:
    """One row of cells that differ in their seeds alone."""

    family: tuple[str, ...]
    strategy: str
    evidence: str
    devices: int
    batch: int
    unit: str
    rate: Estimate


def scaling(cells: Iterable[Cell]) -> list[Series]:
    """All weak and strong series of at least two numbers of devices that the finished cells make.

    Projected cells make series of their own, as do those of stand-in devices. Raises Refused if there is no series.
    """
    known = [one for row in group(cells) if (one := _measured(row)) is not None]
    found = []
    for family in dict.fromkeys(one.family for one in known):
        own = [one for one in known if one.family == family]
        strategies = dict.fromkeys(one.strategy for one in own if one.devices > 1)
        for strategy in strategies:  # of one device, all strategies are the same
            mine = [one for one in own if one.strategy == strategy or one.devices == 1]
            found += _series(mine, strategy)
    if not found:
        raise Refused(
            "--scaling: no cells that differ only in how many devices they have; suite=scaling runs some: "
            "python run.py -m suite=scaling"
        )
    return found


def _measured(row: Any) -> _Measured | None:
    """None unless it is done, has a rate, and says its batch."""
    done = [cell for cell in row.cells if cell.state == errors.DONE and cell.record]
    rate = rate_estimate(row)
    if not done or rate is None or not done[0].record.recipe.get("batch"):
        return None
    record = done[0].record
    hardware = record.config["hardware"]
    devices = int(hardware["devices"]) * int(hardware.get("nodes", 1))
    asked = str(record.config.get("strategy", "auto"))
    strategy = "ddp" if asked == "auto" else asked
    batch = int(record.recipe["batch"]) * (1 if strategy == "tensor" else devices)
    words = " ".join(word for word in row.variant.split() if word.lstrip("+~").split("=", 1)[0] not in VARIED)
    family = (row.benchmark, hardware_label(record), row.setting, row.method, row.rule, words)
    return _Measured(family, strategy, record.evidence, devices, batch, row.unit or "units", rate)


def _series(rows: list[_Measured], strategy: str) -> list[Series]:
    """For each row of the fewest devices: those with its batch on each device, and those with its batch in all."""
    fewest = min(row.devices for row in rows)
    found = []
    for base in sorted((row for row in rows if row.devices == fewest), key=lambda row: row.batch):
        same = {
            WEAK: [row for row in rows if row.batch * base.devices == base.batch * row.devices],
            STRONG: [row for row in rows if row.batch == base.batch],
        }
        for kind, members in same.items():
            ordered = sorted(members, key=lambda row: row.devices)
            if len({row.devices for row in ordered}) > 1:
                points = tuple(_point(base, row) for row in ordered)
                benchmark, hardware, setting, method, rule, words = base.family
                usual = ("traditional", "finetune", "backprop", "none", "execute", "")
                named = [benchmark, *(word for word in (setting, method, rule, words) if word not in usual)]
                found.append(Series(" ".join(named), hardware, kind, strategy, base.evidence, points))
    return found


def _point(base: _Measured, row: _Measured) -> Point:
    share = base.devices / row.devices
    against = ratio(base.rate, row.rate) if row is not base else Ratio(1.0)
    low, high = (None if end is None else end * share for end in (against.low, against.high))
    return Point(row.devices, row.batch, row.unit, row.rate, against.value, Ratio(against.value * share, low, high))


# ---------------------------------------------------------------------------------------------- forms


def scaling_text(sweep: Sweep) -> str:
    """A table for each series."""
    blocks = []
    for series in scaling(sweep.cells):
        head = (
            f"{series.workload} on {series.hardware}, {series.strategy}, {series.kind} scaling ({MEANING[series.kind]})"
        )
        lines = [["devices", "batch", f"{series.points[0].unit}/s", "speed-up", "efficiency", "95 %"]]
        lines += [_line(point, series.evidence) for point in series.points]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        rows = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
        blocks.append("\n".join([head, *(f"  {row}".rstrip() for row in rows)]))
    return "\n\n".join(blocks)


MEANING = {WEAK: "each device the same batch", STRONG: "the same batch, shared"}


def _line(point: Point, evidence: str) -> list[str]:
    mark = "~" if evidence == PROJECTED else ""
    found = point.efficiency
    interval = "" if found.low is None or found.high is None else f"{100 * found.low:.0f} to {100 * found.high:.0f} %"
    return [
        str(point.devices), str(point.batch), mark + rate_text(point.rate.mean), f"{mark}{point.speedup:.2f}",
        f"{mark}{100 * found.value:.0f} %", interval,
    ]  # fmt: skip


def scaling_json(sweep: Sweep) -> str:
    """Everything, for programs."""
    return json.dumps([_plain(series) for series in scaling(sweep.cells)], indent=1)


def scaling_csv(sweep: Sweep) -> str:
    """A line a point."""
    stream = StringIO()
    rows = [
        {**{key: value for key, value in series.items() if key != "points"}, **point}
        for series in map(_plain, scaling(sweep.cells))
        for point in series["points"]
    ]
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().rstrip("\n")


def _plain(series: Series) -> dict[str, Any]:
    points = [
        {
            "devices": point.devices,
            "batch": point.batch,
            "unit": point.unit,
            "units_per_second": point.rate.mean,
            "speedup": point.speedup,
            "efficiency": point.efficiency.value,
            "efficiency_low": point.efficiency.low,
            "efficiency_high": point.efficiency.high,
        }
        for point in series.points
    ]
    own = ("workload", "hardware", "kind", "strategy", "evidence")
    return {**{key: getattr(series, key) for key in own}, "points": points}
