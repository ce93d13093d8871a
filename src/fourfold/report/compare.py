"""Two selections of cells, row by row: ratio, interval, verdict; and whether a gate lets the second one pass."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fourfold import errors
from fourfold.errors import Refused
from fourfold.metrics.comparison import Estimate, Ratio, adjusted, chance_below, estimate, ratio
from fourfold.metrics.utilisation import devices_of
from fourfold.metrics.verification import fingerprint_of, same_work
from fourfold.record import Record
from fourfold.report.groups import AXES, Group, group
from fourfold.report.labels import rate_text
from fourfold.report.select import Selection

# The chance of even one wrong verdict among all rows.
LEVEL = 0.05
FASTER, SLOWER, NO_DIFFERENCE, UNKNOWN = "faster", "slower", "no difference", "unknown"
Key = tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """One row. ``chance``: of such a difference between equals, after Holm's correction for all rows.

    states: how the cells of each side ended. notes: what makes the two unlike besides what is compared.
    """

    row: str
    unit: str | None
    one: Estimate | None
    other: Estimate | None
    ratio: Ratio | None
    chance: float | None
    states: tuple[str, str]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """faster, slower, no difference (beyond chance), or unknown: no interval to tell by."""
        if self.ratio is None or self.chance is None:
            return UNKNOWN
        if self.chance >= LEVEL:
            return NO_DIFFERENCE
        return FASTER if self.ratio.value > 1 else SLOWER


def compare(one: Selection, other: Selection) -> list[Compared]:
    """All rows of both, in the order of the first. Rows match by axes and overrides, but for the key by which the
    selections were chosen, and an axis of which each side has one value of its own.

    Raises Refused if no row is on both sides.
    """
    left, right = group(one.cells), group(other.cells)
    dropped = {key for key in (one.key, other.key) if key} | _own_values(left, right)
    sides = [_by_key(rows, dropped) for rows in (left, right)]
    if not sides[0].keys() & sides[1].keys():
        raise Refused(f"{one.name} and {other.name} have no row in common: {_some(sides[0])} / {_some(sides[1])}")
    keys = dict.fromkeys([*sides[0], *sides[1]])
    pairs = [(key, sides[0].get(key), sides[1].get(key)) for key in keys]
    estimates = [(rate_estimate(a), rate_estimate(b)) for _, a, b in pairs]
    ratios = [ratio(a, b) if a and b else None for a, b in estimates]
    chances = adjusted([found.chance if found else None for found in ratios])
    names = _names({key: (a, b) for key, a, b in pairs})
    return [
        Compared(names[key], _unit(a, b), *estimates[i], ratios[i], chances[i], (_states(a), _states(b)), _notes(a, b))
        for i, (key, a, b) in enumerate(pairs)
    ]


def failures(rows: Sequence[Compared], threshold: float) -> list[str]:
    """Why a gate at this ratio stays closed: rows that are slower than it, beyond chance (for all rows together, Holm)
    or with no interval to tell chance by, and rows that the first side did and the second did not. Empty: it opens.
    """
    chances = [chance_below(row.one, row.other, threshold) if row.one and row.other else None for row in rows]
    found = []
    for row, chance in zip(rows, adjusted(chances), strict=True):
        if row.one is not None and row.other is None:
            found.append(f"{row.row}: done before, now {row.states[1]}")
        elif row.ratio is not None and row.ratio.value < threshold and (chance is None or chance < LEVEL):
            doubt = "; no interval tells whether by chance" if chance is None else ""
            found.append(f"{row.row}: {row.ratio.value:.3f} of the rate, below {threshold:g}{doubt}")
    return found


def rate_estimate(row: Group | None) -> Estimate | None:
    """The rate of a group's cells: over seeds if several were done, else by the interval of the one."""
    done = [cell for cell in row.cells if cell.state == errors.DONE] if row else []
    numbers = [cell.numbers for cell in done if cell.numbers.get("units_per_second", 0.0) > 0]
    if not numbers:
        return None
    first = numbers[0]
    return estimate(
        [each["units_per_second"] for each in numbers],
        first.get("units_per_second_low"),
        first.get("units_per_second_high"),
        int(first.get("rate_freedom", 0)),
    )


def compare_text(one: Selection, other: Selection, rows: list[Compared]) -> str:
    """A line a row, aligned; then what was not compared."""
    head = ["row", one.name, other.name, "ratio", "95 % interval", "verdict", "chance"]
    lines = [head, *(_line(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    table = [
        "  ".join(
            text.ljust(width) if column in (0, 5) else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    notes = [f"{row.row}: {note}" for row in rows for note in row.notes]
    compared = [row for row in rows if row.ratio]
    counts = {word: sum(row.verdict == word for row in compared) for word in (FASTER, SLOWER, NO_DIFFERENCE, UNKNOWN)}
    total = f"{len(compared)} rows compared: " + ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    explained = f"ratio: {other.name} over {one.name}; verdicts hold for all rows together at {LEVEL:.0%} (Welch, Holm)"
    return "\n".join([*table, explained, total, *notes])


def compare_json(one: Selection, other: Selection, rows: list[Compared]) -> str:
    """Everything, for programs."""
    content = [{**asdict(row), "verdict": row.verdict} for row in rows]
    return json.dumps({"one": one.name, "other": other.name, "level": LEVEL, "rows": content}, indent=1)


def unlike_work(one: Group, other: Group) -> list[str]:
    """In what the recipes of two groups differ that a rate hangs on: batch, precision, size."""
    records = [next((cell.record for cell in row.cells if cell.record), None) for row in (one, other)]
    if records[0] is None or records[1] is None:
        return []
    a, b = (record.recipe for record in records if record)
    keys = ("batch", "batch_from", "precision", "scale", "size")
    return [f"{key} differs: {a.get(key)} and {b.get(key)}" for key in keys if a.get(key) != b.get(key)]


# ------------------------------------------------------------------------------------------- parts


def _own_values(left: list[Group], right: list[Group]) -> set[str]:
    """Axes of which each side has a single value, and not the same."""
    values = {axis: ({getattr(r, axis) for r in left}, {getattr(r, axis) for r in right}) for axis in AXES}
    return {axis for axis, (a, b) in values.items() if len(a) == len(b) == 1 and a != b}


def _by_key(rows: list[Group], dropped: set[str]) -> dict[Key, Group]:
    found: dict[Key, Group] = {}
    for row in rows:
        words = [word for word in row.variant.split() if word.lstrip("+").split("=", 1)[0] not in dropped]
        axes = [getattr(row, axis) for axis in AXES if axis not in dropped]
        found.setdefault((*axes, *words), row)
    return found


def _names(pairs: Mapping[Key, tuple[Group | None, ...]]) -> dict[Key, str]:
    """A suite's rows by their own names, all that asked for the cell; with what was asked where several are called so.
    Others by what was asked.
    """
    asked = {
        key: ", ".join(dict.fromkeys(row for one in pair if one for row in _suite_rows(one)))
        for key, pair in pairs.items()
    }
    counts = Counter(asked.values())
    return {
        key: name if name and counts[name] == 1 else f"{name} ({_name(key)})" if name else _name(key)
        for key, name in asked.items()
    }


def _suite_rows(row: Group) -> list[str]:
    found = [name for cell in row.cells for name, _ in cell.rows]
    labels = [cell.record.config.get("suite") or {} for cell in row.cells if cell.record and not cell.rows]
    return [*found, *(str(label["row"]) for label in labels if label.get("row"))]


def _name(key: Key) -> str:
    return " ".join(part for part in key if part not in ("none", "backprop", "traditional"))


def _unit(*rows: Group | None) -> str | None:
    return next((row.unit for row in rows if row and row.unit), None)


def _states(row: Group | None) -> str:
    return "missing" if row is None else ", ".join(f"{count} {state}" for state, count in row.states.items())


def _notes(one: Group | None, other: Group | None) -> tuple[str, ...]:
    """Unlike work, units, batch or precision, and what was not measured."""
    if one is None or other is None:
        return ()
    records = [next((cell.record for cell in row.cells if cell.record), None) for row in (one, other)]
    if records[0] is None or records[1] is None:
        return ()
    a, b = records[0], records[1]
    notes = []
    if one.unit != other.unit:
        notes.append(f"unlike units: {one.unit} and {other.unit}")
    if {one.evidence, other.evidence} != {"measured"}:
        notes.append(f"evidence: {one.evidence} and {other.evidence}")
    notes += unlike_work(one, other)
    if _asked(a) == _asked(b) and fingerprint_of(a.measurements):
        found = same_work(a, b)
        notes += [] if found.same else [str(found)]
    return tuple(notes)


def _asked(record: Record) -> dict[str, Any]:
    """What decides a cell's losses on any device, up to rounding."""
    axes = {axis: record.axes.get(axis) for axis in ("benchmark", "setting", "method", "rule", "seed")}
    return {
        **axes,
        **{key: record.recipe.get(key) for key in ("batch", "scale", "size")},
        "devices": devices_of(record),
    }


def _line(row: Compared) -> list[str]:
    texts = [rate_text(side.mean) if side else row.states[i] for i, side in enumerate((row.one, row.other))]
    if row.ratio is None:
        return [row.row, *texts, "", "", "", ""]
    interval = "" if row.ratio.low is None else f"{row.ratio.low:.3f} to {row.ratio.high:.3f}"
    chance = "" if row.chance is None else f"{row.chance:.2g}"
    return [row.row, *texts, f"{row.ratio.value:.3f}", interval, row.verdict, chance]


def _some(rows: dict[Key, Group]) -> str:
    return ", ".join([_name(key) for key in rows][:3]) or "nothing"
