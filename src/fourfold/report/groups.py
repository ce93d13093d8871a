"""Cells that differ in nothing but the seed, as one row: plain data that text, JSON and CSV are made from."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from fourfold import errors
from fourfold.metrics.statistics import Summary, summarise
from fourfold.record import Record
from fourfold.report.labels import hardware_label
from fourfold.report.read import Cell

AXES = ("benchmark", "hardware", "setting", "method", "rule")
# Overrides that have columns of their own, and groups of keys that do not change a result.
IN_COLUMNS = ("benchmark", "hardware", "setting", "method", "method/rule", "seed")
PLUMBING = (
    "data_dir",
    "output_dir",
    "rerun",
    "invalid",
    "slots",
    "timeout",
    "progress",
    "tracking",
    "measure",
    "hydra",
    "hardware.launcher",
)


@dataclass
class Group:
    """One row. ``hardware`` says the evidence beside the name unless it was measured on that device.

    variant: the other overrides of these cells, e.g. "batch=64".
    figures: over the finished cells, by name; row: the suite's row that asked for it, where rows are told apart.
    """

    benchmark: str
    hardware: str
    setting: str
    method: str
    rule: str
    variant: str
    evidence: str
    oracle: bool
    unit: str | None = None
    cells: list[Cell] = field(default_factory=list)
    figures: dict[str, Summary] = field(default_factory=dict)
    row: str = ""

    @property
    def seeds(self) -> list[int]:
        """Of all its cells, in order."""
        return sorted(int(cell.record.axes.get("seed", 0)) for cell in self.cells if cell.record)

    @property
    def states(self) -> dict[str, int]:
        """How many cells ended how, in the order of ``errors.STATES``."""
        counts = Counter(cell.state for cell in self.cells)
        order = [*errors.STATES, *counts]
        return {state: counts[state] for state in dict.fromkeys(order) if counts[state]}


@dataclass(frozen=True)
class RateSummary:
    """Units a second. ``over`` says what the 95 % interval is over: seeds, repeats, steps, or None without interval."""

    mean: float
    low: float | None
    high: float | None
    over: str | None


def group(cells: Iterable[Cell], by_seed: bool = False, by_row: bool = False) -> list[Group]:
    """Rows in the order in which they first appear, bounds (oracle methods) last.

    ``by_seed``: a row for every cell. ``by_row``: a row for each of a suite's that asked for a cell, also for those
    that did not run. Other cells without a readable record belong to no row.
    """
    rows: dict[tuple[object, ...], Group] = {}
    for cell in cells:
        asked = [name for name, _ in cell.rows] if by_row else []
        if cell.record is None and not asked:
            continue
        for name in asked or [""]:
            row = _row_without_record(name) if cell.record is None else _empty_row(cell.record, name)
            key = (name, *(getattr(row, axis) for axis in AXES), row.variant, cell.name if by_seed else None)
            rows.setdefault(key, row)
            rows[key].cells.append(cell)
    for row in rows.values():
        _summarise(row)
    return sorted(rows.values(), key=lambda row: row.oracle)


def variant(record: Record) -> str:
    """What was asked for besides axes and seed, e.g. "batch=64 scale=full"."""
    words = [word for word in map(str, record.overrides) if not _is_plumbing(word.lstrip("+~").split("=", 1)[0])]
    return " ".join(sorted(words))


def rate_of(row: Group) -> RateSummary | None:
    """The steady rate: its mean over seeds and the interval between them; of one seed the interval over its repeats,
    or steps.

    None where it is not known: the cell recorded no steps, or its series is not at hand.
    """
    steady = row.figures.get("units_per_second")
    if steady is None:
        return None
    if steady.count > 1:
        return RateSummary(steady.mean, steady.low, steady.high, "seeds")
    low, high = row.figures.get("units_per_second_low"), row.figures.get("units_per_second_high")
    if low is None or high is None:
        return RateSummary(steady.mean, None, None, None)
    return RateSummary(steady.mean, low.mean, high.mean, "repeats" if "repeats" in row.figures else "steps")


def problems(cells: Iterable[Cell]) -> list[tuple[str, str, list[Cell]]]:
    """(state, message, cells) of everything that is not done, equal ones together."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.state != errors.DONE:
            reason = cell.record.reason if cell.record else None
            said = cell.message or "no message"
            if reason and reason != cell.state and not said.startswith(reason):
                said = f"{reason}: {said}"
            found.setdefault((cell.state, said), []).append(cell)
    return [(state, message, group) for (state, message), group in found.items()]


def _row_without_record(name: str) -> Group:
    return Group("", "", "", "", "", variant="", evidence="", oracle=False, row=name)


def _empty_row(record: Record, name: str) -> Group:
    axes = record.axes
    return Group(
        benchmark=str(axes.get("benchmark")),
        hardware=hardware_label(record),
        setting=str(axes.get("setting")),
        method=str(axes.get("method")),
        rule=str(axes.get("rule") or "none"),
        variant=variant(record),
        evidence=record.evidence,
        oracle=record.oracle,
        row=name,
    )


def _summarise(row: Group) -> None:
    done = [cell for cell in row.cells if cell.state == errors.DONE]
    units = {cell.record.measurements.get("unit") for cell in row.cells if cell.record} - {None}
    row.unit = units.pop() if len(units) == 1 else None
    names = dict.fromkeys(name for cell in done for name in cell.numbers)
    for name in names:
        summary = summarise(cell.numbers.get(name) for cell in done)
        if summary is not None:
            row.figures[name] = summary


def _is_plumbing(key: str) -> bool:
    return key in IN_COLUMNS or any(key == name or key.startswith((name + ".", name + "/")) for name in PLUMBING)
