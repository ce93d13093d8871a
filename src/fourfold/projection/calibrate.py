"""Fits the efficiencies of the device model to cells whose rate is known, and says how far off it is on others.

    python -m fourfold calibrate --figures docs/results/a100_published.csv --name a100
    python -m fourfold calibrate --name ours                       from the records on disk

The error is that of each row under a fit to all rows but those of its benchmark, so that what a row's sisters teach is
not counted as knowledge of it.
"""

import csv
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from fourfold.composition import compose, plain
from fourfold.errors import DONE, FourfoldError, Refused, Unavailable
from fourfold.projection.cell import facts_of, sizes_of
from fourfold.projection.model import Efficiency, Table, project
from fourfold.projection.trace import Facts
from fourfold.recipe import resolve
from fourfold.record import Record

NAMES = tuple(Efficiency.__dataclass_fields__)
# Where the search starts, and its bounds: shares of a peak, and the seconds of a launch.
START = {
    "matmul": 0.7,
    "convolution": 0.5,
    "depthwise": 0.2,
    "attention": 0.5,
    "memory": 0.7,
    "reduction": 0.5,
    "launch": 5e-6,
}
BOUNDS = dict.fromkeys(NAMES, (0.02, 1.0)) | {
    "launch": (2e-6, 1e-4)
}  # no launch of any runtime takes less than 2 microseconds
LEAST_ROWS = 8  # for seven numbers


@dataclass(frozen=True)
class Row:
    """A cell with a known rate. ``group`` holds rows that teach about each other: those of one benchmark."""

    name: str
    group: str
    facts: Facts
    hardware: Mapping[str, Any]
    precision: str
    strategy: str
    rate: float

    @cached_property
    def table(self) -> Table:
        return Table(self.facts.operators, self.hardware, self.precision)

    def projected(self, calibration: Mapping[str, Any]) -> float:
        """Its rate by the model."""
        found = project(self.table, sizes_of(self.facts), self.hardware, self.strategy, calibration)
        return float(found["units_per_second"])


@dataclass(frozen=True)
class Fit:
    """Efficiencies, and for each row the logarithm of projected over known rate when its group was left out."""

    calibration: dict[str, Any]
    errors: dict[str, float]

    @property
    def median_error(self) -> float:
        """The middle row's error as a factor less one: 0.25 is 25 %."""
        return math.exp(median(abs(error) for error in self.errors.values())) - 1


def calibrate(figures: Path | None, output_dir: Path, name: str, write: Path | None) -> str:
    """Fits, tells each row's error, and writes the YAML if asked.

    Raises Refused for an unreadable table and for too few rows.
    """
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)  # noqa: E731
    rows = rows_of_figures(figures, say) if figures else rows_of_records(output_dir, say)
    source = figures.stem if figures else "records"
    found = fit(rows, name, source)
    if write:
        command = (
            f"python -m fourfold calibrate{f' --figures {figures}' if figures else ''} --name {name} --write {write}"
        )
        write.write_text(yaml_text(found, command))
    return f"{text(found, rows)}\n\n{yaml_text(found, 'this command')}" if not write else text(found, rows)


def fit(rows: Sequence[Row], name: str, source: str) -> Fit:
    """The fit of all rows, and the error of each when the rows of its benchmark are left out.

    Raises Refused for too few rows.
    """
    if len(rows) < LEAST_ROWS or len({row.group for row in rows}) < 2:
        raise Refused(f"calibrate: {len(rows)} usable rows; it takes {LEAST_ROWS} or more, of several benchmarks")
    errors = {}
    for group in dict.fromkeys(row.group for row in rows):
        others = _least_squares([row for row in rows if row.group != group])
        for row in rows:
            if row.group == group:
                errors[row.name] = math.log(row.projected({**others, "spread": None}) / row.rate)
    spread = float(np.sqrt(np.mean(np.square(list(errors.values())))))
    calibration = {"name": name, **_least_squares(rows), "spread": spread, "rows": len(rows), "source": source}
    return Fit(calibration, errors)


def _least_squares(rows: Sequence[Row]) -> dict[str, float]:
    """Efficiencies of least squared logarithmic error, outliers counting less (Huber's loss)."""
    from scipy.optimize import least_squares

    def residuals(logarithms: np.ndarray) -> np.ndarray:
        values = dict(zip(NAMES, np.exp(logarithms), strict=True)) | {"spread": None}
        return np.array([math.log(row.projected(values) / row.rate) for row in rows])

    low, high = (np.log([BOUNDS[name][end] for name in NAMES]) for end in (0, 1))
    start = np.log([START[name] for name in NAMES])
    found = least_squares(residuals, start, bounds=(low, high), loss="huber", f_scale=0.2, diff_step=1e-3)
    return {name: float(f"{value:.4g}") for name, value in zip(NAMES, np.exp(found.x), strict=True)}


# ------------------------------------------------------------------------------------------------- rows


def rows_of_figures(path: Path, say: Callable[[str], None]) -> list[Row]:
    """The rows of a table of known rates: columns name, overrides, units_per_second, use; use says why not, if not.

    Raises Refused, with the line, for a file that is not such a table.
    """
    try:
        lines = list(csv.DictReader(path.read_text().splitlines()))
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {error.strerror}") from error
    if not lines or not {"name", "overrides", "units_per_second", "use"} <= set(lines[0]):
        raise Refused(f"{path}: needs the columns name, overrides, units_per_second and use")
    found = []
    for number, line in enumerate(lines, 2):
        if line["use"] == "yes":
            rate = _rate(line["units_per_second"], f"{path}, line {number}")
            try:
                cell = plain(compose([*(line["overrides"] or "").split(), "mode=projected"]))
            except Refused as error:
                raise Refused(f"{path}, line {number}: {error}") from error
            found.append(_row(line["name"], cell, rate))
            say(f"traced {line['name']}")
        else:
            say(f"left out {line['name']}: {line['use']}")
    return found


def _rate(written: str | None, where: str) -> float:
    try:
        rate = float(written or "")
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise Refused(f"{where}: units_per_second={written}: must be a number above 0")
    return rate


def rows_of_records(output_dir: Path, say: Callable[[str], None]) -> list[Row]:
    """The measured cells on disk, on devices whose rates the catalogue states."""
    from fourfold.metrics import figures
    from fourfold.record import read, read_series

    found = []
    for path in sorted(output_dir.glob("cells/*/record.json")):
        try:
            record = read(path.parent)
            rate = figures(record, read_series(path.parent)).get("units_per_second")
            if record.state != DONE or record.evidence != "measured" or not rate:
                continue
            cell = {**record.config, "hardware": hardware_of(record), "mode": "projected"}
            cell["batch"] = record.recipe.get("batch") or cell["batch"]  # what the trials of batch=auto found
            found.append(_row(record.cell, cell, rate))
            say(f"traced {record.cell}")
        except (FourfoldError, KeyError) as error:
            say(f"left out {path.parent.name}: {error}")
    return found


def hardware_of(record: Record) -> dict[str, Any]:
    """The hardware of a measured cell with the rates that its datasheet states: of one that hardware=auto found, those
    of the target that the record's device is known as.

    Raises Unavailable for a device that the catalogue does not know.
    """
    hardware, target = record.config["hardware"], record.device.get("target")
    if hardware["bandwidth"]:
        return dict(hardware)
    if not target:
        raise Unavailable(f"device {record.device.get('name')}: the catalogue states no rates of it")
    stated = plain(compose([f"hardware={target}"]))["hardware"]
    return {**stated, **{key: hardware[key] for key in ("devices", "nodes", "launcher")}}


def _row(name: str, cell: Mapping[str, Any], rate: float) -> Row:
    recipe = resolve(cell, accelerator=True)
    strategy = "ddp" if cell["strategy"] == "auto" else cell["strategy"]
    group = cell["benchmark"]["name"]
    return Row(name, group, facts_of(cell, recipe), cell["hardware"], recipe.precision, strategy, rate)


def text(found: Fit, rows: Iterable[Row]) -> str:
    """The fit and the error of each row, for a person."""
    lines = [f"{'row':<28} {'known':>12} {'projected':>12}   off (its benchmark left out)"]
    for row in rows:
        error = found.errors[row.name]
        off = math.exp(error)
        lines.append(f"{row.name:<28} {row.rate:>12.4g} {row.rate * off:>12.4g}   {100 * (off - 1):+.0f} %")
    lines.append(f"median error {100 * found.median_error:.0f} %, spread {found.calibration['spread']:.2f}")
    lines += [f"{name}={found.calibration[name]:g} lies on its bound: {_BOUND}" for name in _on_bounds(found)]
    return "\n".join(lines)


def yaml_text(found: Fit, command: str) -> str:
    """The file of conf/calibration that holds the fit."""
    lines = [
        f"# Fitted by: {command}",
        "# Shares of the datasheet's peaks; see docs/hardware.md.   python run.py "
        f"benchmark=llama hardware=a100 mode=projected calibration={found.calibration['name']}",
    ]
    odd = _on_bounds(found)
    lines += [
        f"{key}: {_shown(value)}" + (f"   # on its bound: {_BOUND}" if key in odd else "")
        for key, value in found.calibration.items()
    ]
    return "\n".join(lines) + "\n"


_BOUND = "the rows would have it beyond, so it is no measure of its own"


def _on_bounds(found: Fit) -> list[str]:
    """The efficiencies that the search would have taken further."""
    return [name for name in NAMES if any(math.isclose(found.calibration[name], b, rel_tol=1e-3) for b in BOUNDS[name])]


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) and value > 1e-2 else f"{value}"
