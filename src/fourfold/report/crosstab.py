"""A figure as a table of two axes, e.g. method x setting; where there is no number, why."""

import csv
import json
from dataclasses import dataclass, field
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from fourfold import errors
from fourfold.errors import Refused, nearest
from fourfold.metrics.statistics import Summary, summarise
from fourfold.report.across import NEEDED, with_comparisons
from fourfold.report.groups import AXES, variant
from fourfold.report.labels import PROJECTED, PROJECTED_MARK, hardware_label
from fourfold.report.read import Cell, Sweep

NOT_RUN = "not in this sweep"
ORACLE_MARK = "†"


@dataclass
class Entry:
    """One place of the table: the values of its finished cells, and why others have none."""

    values: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    projected: bool = False

    @property
    def summary(self) -> Summary | None:
        return summarise(self.values)


@dataclass
class Pivot:
    """One table. ``fixed``: the axes that are not in it, with what they are; entries: (row, column) -> Entry."""

    fixed: str
    rows: list[str]
    columns: list[str]
    entries: dict[tuple[str, str], Entry]


def pivots(sweep: Sweep, axes: tuple[str, str], metric: str) -> list[Pivot]:
    """A table for each combination of the axes that are not asked for, bounds below the other rows.

    Raises Refused for an axis or a metric that there is not.
    """
    for axis in axes:
        if axis not in AXES:
            raise Refused(f"--pivot {','.join(axes)}: no axis {axis}; choose two of {', '.join(AXES)}")
    if axes[0] == axes[1]:
        raise Refused(f"--pivot {','.join(axes)}: two different axes, of {', '.join(AXES)}")
    cells = with_comparisons(sweep.cells)
    known = list(dict.fromkeys(name for cell in cells for name in cell.numbers))
    if metric not in known:
        choices = ", ".join(known) or "none, as no cell is done"
        why = f"these cells do not have it ({NEEDED[metric]})" if metric in NEEDED else "these cells do not have it"
        raise Refused(f"--metric {metric}: {why}; they have {choices}{nearest(metric, known)}")
    tables: dict[str, Pivot] = {}
    for cell in cells:
        if cell.record is not None:
            _enter(tables, cell, axes, metric)
    for words, why in sweep.refused:
        _enter_refused(tables, words, why, axes)
    for table in tables.values():
        table.rows.sort(key=lambda row: row.endswith(ORACLE_MARK))
    return [table for table in tables.values() if any(entry.values for entry in table.entries.values())]


def _enter(tables: dict[str, Pivot], cell: Cell, axes: tuple[str, str], metric: str) -> None:
    assert cell.record is not None
    named = {axis: str(cell.record.axes.get(axis) or "none") for axis in AXES}
    named["hardware"] = hardware_label(cell.record)
    if cell.record.oracle:
        named["method"] += f" {ORACLE_MARK}"
    others = [named[axis] for axis in AXES if axis not in axes and (axis != "rule" or named[axis] != "backprop")]
    fixed = ", ".join([*others, *([words] if (words := variant(cell.record)) else [])])
    table = tables.setdefault(fixed, Pivot(fixed, [], [], {}))
    row, column = (named[axis] for axis in axes)
    table.rows += [row] if row not in table.rows else []
    table.columns += [column] if column not in table.columns else []
    entry = table.entries.setdefault((row, column), Entry())
    if cell.state == errors.DONE and metric in cell.numbers:
        entry.values.append(cell.numbers[metric])
        entry.projected |= cell.record.evidence == PROJECTED
    else:
        entry.reasons.append("not defined" if cell.state == errors.DONE else f"{cell.state}: {_first(cell.message)}")


def _enter_refused(tables: dict[str, Pivot], words: str, why: str, axes: tuple[str, str]) -> None:
    """A combination that was refused before the sweep belongs into every table: nothing of it ran."""
    chosen = dict(word.lstrip("+").split("=", 1) for word in words.split() if "=" in word)
    row, column = (chosen.get(axis) for axis in axes)
    for table in tables.values():
        known = next((name for name in table.rows if name.removesuffix(f" {ORACLE_MARK}") == row), row)
        if known is None or column is None:
            continue
        table.rows += [known] if known not in table.rows else []
        table.columns += [column] if column not in table.columns else []
        table.entries.setdefault((known, column), Entry()).reasons.append(_first(why))


def _first(message: str | None) -> str:
    lines = (message or "no message").strip().splitlines()
    return lines[0] if lines else "no message"


# ---------------------------------------------------------------------------------------------- forms


def pivot_text(sweep: Sweep, axes: tuple[str, str], metric: str, width: int, color: bool = False) -> str:
    """The tables for a person: mean ± half of the 95 % interval over seeds, notes below for what has no number."""
    stream = StringIO()
    console = Console(file=stream, width=width, force_terminal=color, no_color=not color, highlight=False)
    for number, table in enumerate(pivots(sweep, axes, metric)):
        if number:
            console.print()
        console.print(f"{metric.replace('_', ' ')}{f', {table.fixed}' if table.fixed else ''}", style="bold")
        notes: dict[str, int] = {}
        console.print(_rich(table, axes, notes))
        if any((entry.summary or Summary(0, None, None, None, 0)).count > 1 for entry in table.entries.values()):
            console.print("±: half of the 95 % interval over seeds; in brackets how many, where not all have as many")
        if any(row.endswith(ORACLE_MARK) for row in table.rows):
            console.print(f"{ORACLE_MARK} a bound: it is given what others are not")
        if any(entry.projected for entry in table.entries.values()):
            console.print(f"{PROJECTED_MARK} projected, not measured")
        for reason, mark in notes.items():
            console.print(f"n/a {mark}: {reason}")
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _rich(table: Pivot, axes: tuple[str, str], notes: dict[str, int]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    shown.add_column(axes[0], no_wrap=True)
    for column in table.columns:
        shown.add_column(column, justify="right", overflow="fold")
    most = max((len(entry.values) for entry in table.entries.values()), default=0)
    for index, row in enumerate(table.rows):
        if index and row.endswith(ORACLE_MARK) and not table.rows[index - 1].endswith(ORACLE_MARK):
            shown.add_section()
        shown.add_row(row, *(_shown(table.entries.get((row, column)), most, notes) for column in table.columns))
    return shown


def _shown(entry: Entry | None, most: int, notes: dict[str, int]) -> str:
    if entry is None:
        return "n/a " + str(notes.setdefault(NOT_RUN, len(notes) + 1))
    found = entry.summary
    if found is None:
        reason = "; ".join(dict.fromkeys(entry.reasons))
        return "n/a " + str(notes.setdefault(reason, len(notes) + 1))
    mean = f"{found.mean:.3f}" if 0.001 <= abs(found.mean) < 10 else f"{found.mean:.4g}"
    interval = "" if found.half_width is None else f" ±{found.half_width:.2g}"
    mean = PROJECTED_MARK + mean if entry.projected else mean
    return mean + interval + (f" ({found.count})" if found.count < most else "")


def pivot_csv(sweep: Sweep, axes: tuple[str, str], metric: str) -> str:
    """A line a place: the fixed axes, both axes, mean, standard error, ends of the 95 % interval, count, reasons."""
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["fixed", *axes, metric, "standard_error", "interval_low", "interval_high", "seeds", "why"])
    for table in pivots(sweep, axes, metric):
        for row in table.rows:
            for column in table.columns:
                entry = table.entries.get((row, column), Entry(reasons=[NOT_RUN]))
                found = entry.summary or Summary(float("nan"), None, None, None, 0)
                mean = found.mean if found.count else None
                why = "; ".join(dict.fromkeys(entry.reasons))
                line = [mean, found.standard_error, found.low, found.high, found.count, why]
                writer.writerow([table.fixed, row, column, *line])
    return stream.getvalue().rstrip("\n")


def pivot_json(sweep: Sweep, axes: tuple[str, str], metric: str) -> str:
    """The same as data."""
    lines = list(csv.DictReader(StringIO(pivot_csv(sweep, axes, metric))))
    numbers = (metric, "standard_error", "interval_low", "interval_high")
    for line in lines:
        line.update({name: float(line[name]) if line[name] else None for name in numbers})
        line["seeds"] = int(line["seeds"])
    return json.dumps(lines, indent=1, ensure_ascii=False)
