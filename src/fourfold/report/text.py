"""The tables that a person reads: as wide as the terminal, 100 columns when piped."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fourfold import errors
from fourfold.metrics.statistics import Summary
from fourfold.report.beside import first_hardware, ratio_texts
from fourfold.report.groups import AXES, Group, group, problems, rate_of
from fourfold.report.labels import (
    BOUND_MARK,
    PROJECTED,
    PROJECTED_MARK,
    USUAL_RULES,
    bytes_text,
    projected_bytes,
    projected_mark,
    rate_text,
    seconds_text,
)
from fourfold.report.read import Cell, Sweep

WIDTH = 100
ORACLE_MARK, UNSTEADY_MARK = "†", "≈"
MOST_PROBLEMS = 20
ENERGY = "energy a unit"  # of projected cells
# When a table is too wide: axes with one value go above it in this order, then these columns go.
TO_CAPTION = ("setting", "hardware", "method", "benchmark")
TO_DROP = ("J/unit", "MFU", ENERGY, "bound by", "peak memory", "time", "last loss", "variant")
NAMING = ("variant", "seed")
# What a unit of work cost; price and CO2 only where measure.price and measure.carbon ask for them.
COSTS = {"joules_per_unit": "J/unit", "co2_grams_per_unit": "g CO2/unit", "price_per_unit": "price/unit"}
STAYING = ("seed", "state", "cells")
# What the interval of a rate is over, from the widest.
SPANS = {"seeds": "between seeds", "repeats": "between repeats", "steps": "over the steps of the run"}
STATE_STYLES = {errors.DONE: "green", errors.NOT_APPLICABLE: "dim", errors.INTERRUPTED: "yellow"}


@dataclass(frozen=True)
class Column:
    """A header and one text a row."""

    name: str
    texts: list[str]
    right: bool = True
    axis: bool = False

    @property
    def empty(self) -> bool:
        return not any(self.texts)

    @property
    def constant(self) -> bool:
        return len(set(filter(None, self.texts))) == 1


def sweep_text(sweep: Sweep, width: int | None = None, color: bool = False) -> str:
    """The comparison table of a sweep: a row for each group of cells over seeds, then what went wrong."""
    title = f"Sweep {sweep.id}" + (" (has not ended)" if sweep.running else "")
    rows = group(sweep.cells, by_row=True)
    return _document(title, rows, sweep.cells, sweep.refused, width, color, by_seed=False)


def cells_text(cells: list[Cell], width: int | None = None, color: bool = False) -> str:
    """Every cell with its state and key figures, then what went wrong."""
    return _document(None, group(cells, by_seed=True), cells, [], width, color, by_seed=True)


def terminal_width() -> int:
    """Of the terminal; 100 when there is none."""
    return max(60, shutil.get_terminal_size((WIDTH, 24)).columns) if sys.stdout.isatty() else WIDTH


def _document(
    title: str | None,
    rows: list[Group],
    cells: list[Cell],
    refused: list[tuple[str, str]],
    width: int | None,
    color: bool,
    by_seed: bool,
) -> str:
    stream = StringIO()
    console = Console(
        file=stream,
        width=width or WIDTH,
        force_terminal=color,
        no_color=not color,
        highlight=False,
        legacy_windows=False,
    )
    if title:
        console.print(Text(title, style="bold"))
    if rows:
        above, tables, dropped = _tables(_columns(rows, by_seed), rows, console)
        for line in above:
            console.print(Text(line, style="dim"))
        for index, columns in enumerate(tables):
            if index:
                console.print()
            console.print(_table(columns, rows))
        for line in _notes(rows, dropped):
            console.print(Text(line, style="dim"))
    for line, style in _problem_lines(cells, refused, by_seed):
        console.print(Text(line, style=style))
    console.print(Text(_counts(cells, refused)))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


# ------------------------------------------------------------------------------------------ columns


def _columns(rows: Sequence[Group], by_seed: bool) -> list[Column]:
    """All columns that say something, in their order."""
    units = {row.unit for row in rows if "overall_units_per_second" in row.figures or rate_of(row)} - {None}
    unit = units.pop() if len(units) == 1 else None
    in_header = f", {unit}/s" if unit else ""
    steady = any(rate_of(row) for row in rows)
    metrics = dict.fromkeys(name for row in rows for name in row.figures if _is_average(name))
    of_a_suite = any(row.row for row in rows)  # whose names say what was asked
    columns = [
        Column("row", [row.row for row in rows], right=False, axis=True),
        *(_axis_column(axis, rows) for axis in AXES),
        *([] if of_a_suite else [_variant_column(rows)]),
        *([Column("seed", [", ".join(map(str, row.seeds)) for row in rows])] if by_seed else []),
        Column("state" if by_seed else "cells", [_states(row, by_seed) for row in rows], right=False),
        Column(f"rate{in_header}", [_rate(row, unit is None) for row in rows]),
        *([] if steady else [Column(f"rate with warm-up{in_header}", [_overall(row, unit is None) for row in rows])]),
        *_beside_column(rows),
        Column("repeats", [_repeats(row) for row in rows]),
        Column("MFU", [_single(row, "mfu", lambda share: f"{100 * share:.1f}%") for row in rows]),
        *(
            Column(head, [_single(row, name, lambda cost: f"{cost:.3g}") for row in rows])
            for name, head in COSTS.items()
        ),
        *(Column(name.replace("_", " "), [_value(row, name) for row in rows]) for name in metrics),
        Column("forgetting max", [_value(row, "forgetting_max") for row in rows]),
        Column("last loss", [_value(row, "last_loss") for row in rows]),
        Column("time", [_seconds(row) for row in rows]),
        Column("peak memory", [_memory(row) for row in rows]),
        Column("fits", [_fits(row) for row in rows], right=False),
        Column("bound by", [_bound_by(row) for row in rows], right=False),
        Column(ENERGY, [_energy(row) for row in rows]),
    ]
    return [column for column in columns if not column.empty]


def _axis_column(axis: str, rows: Sequence[Group]) -> Column:
    texts = [str(getattr(row, axis)) for row in rows]
    if axis == "method":
        texts = [f"{text} {ORACLE_MARK}" if row.oracle else text for text, row in zip(texts, rows, strict=True)]
    if axis == "rule" and all(text in USUAL_RULES for text in texts if text):
        texts = [""] * len(texts)
    return Column(axis, texts, right=False, axis=True)


def _variant_column(rows: Sequence[Group]) -> Column:
    """Only what differs between the rows."""
    words = [row.variant.split() for row in rows]
    shared = set.intersection(*map(set, words)) if words else set()
    return Column("variant", [" ".join(w for w in row if w not in shared) for row in words], right=False)


def _beside_column(rows: Sequence[Group]) -> list[Column]:
    """How many times the rate of the first hardware of the table."""
    first = first_hardware(rows)
    return [] if first is None else [Column(f"times {_bare(first)}", ratio_texts(rows, first)[0])]


def _bare(hardware: str) -> str:
    """The name without its evidence, which stands in the rows."""
    return hardware.split(" ", 1)[0]


def _is_average(name: str) -> bool:
    if name in ("cumulative_accuracy", "cumulative_squared_error"):
        return True
    return name.startswith("average_") and not name.startswith("average_incremental_") and not name.endswith("_masked")


def _states(row: Group, by_seed: bool) -> str:
    if by_seed:
        return row.cells[0].state
    return ", ".join(f"{count} {state}" for state, count in row.states.items())


def _rate(row: Group, with_unit: bool) -> str:
    found = rate_of(row)
    if found is None:
        return ""
    text = _mark(row) + rate_text(found.mean)
    if row.evidence == PROJECTED and found.high is not None:  # in ratios, so it is not symmetric
        text += f" ({rate_text(found.low or 0)} to {rate_text(found.high)})"
    elif found.high is not None and found.mean > 0:
        text += f" ±{100 * (found.high - found.mean) / found.mean:.2g}%"
    return f"{text} {row.unit}/s" if with_unit and row.unit else text


def _repeats(row: Group) -> str:
    """How many, the spread between them, and the error that one has from its own steps."""
    count, between, within = (row.figures.get(name) for name in ("repeats", "between_repeats", "within_repeats"))
    if count is None or between is None:
        return ""
    return f"{count.mean:g}: {100 * between.mean:.2g}%" + ("" if within is None else f" / {100 * within.mean:.2g}%")


def _mark(row: Group) -> str:
    """What a rate is less than a measured, steady one."""
    if row.evidence == PROJECTED:
        bound = row.figures.get("upper_bound")
        return projected_mark(bound.mean if bound else None)
    return "" if _is_steady(row) else UNSTEADY_MARK


def _overall(row: Group, with_unit: bool) -> str:
    """The rate over all of the learning: what is left to show where the steps are not at hand."""
    found = row.figures.get("overall_units_per_second")
    if found is None:
        return ""
    return f"{rate_text(found.mean)} {row.unit}/s" if with_unit and row.unit else rate_text(found.mean)


def _is_steady(row: Group) -> bool:
    steady = row.figures.get("steady")
    return steady is None or steady.mean == 1.0


def _value(row: Group, name: str) -> str:
    found = row.figures.get(name)
    return "" if found is None else number_text(found)


def number_text(found: Summary) -> str:
    """A mean, with half of its 95 % interval where there is one."""
    mean = f"{found.mean:.3f}" if 0.001 <= abs(found.mean) < 10 else f"{found.mean:.4g}"
    return mean if found.half_width is None else f"{mean} ±{found.half_width:.2g}"


def _single(row: Group, name: str, show: Callable[[float], str]) -> str:
    found = row.figures.get(name)
    return "" if found is None else show(found.mean)


def _fits(row: Group) -> str:
    """Whether a projected cell's memory is there (perhaps: within its error), else the largest batch that fits."""
    fits, surely, largest = (row.figures.get(name) for name in ("fits", "fits_surely", "largest_batch"))
    if fits is None:
        return ""
    if fits.mean:
        return "yes" if surely is None or surely.mean else "perhaps"
    return f"batch ≤ {largest.mean:.0f}" if largest is not None and largest.mean else "no"


def _bound_by(row: Group) -> str:
    shares = {name: found.mean for name, found in row.figures.items() if name.startswith("bound_by_")}
    if not shares:
        return ""
    most = max(shares, key=lambda name: shares[name])
    return f"{most.removeprefix('bound_by_')} {100 * shares[most]:.0f}%"


def _energy(row: Group) -> str:
    """Of a projected cell at the board's limit, with its interval where something was fitted."""
    energy, low, high = (row.figures.get(f"joules_per_unit_at_limit{end}") for end in ("", "_low", "_high"))
    if energy is None:
        return ""
    interval = "" if low is None or high is None else f" ({low.mean:.3g} to {high.mean:.3g})"
    return f"{PROJECTED_MARK}{energy.mean:.3g}{interval} J"


def _seconds(row: Group) -> str:
    """How long the cells took; of projected ones that is no fact of the device."""
    return "" if row.evidence == PROJECTED else _single(row, "total_seconds", seconds_text)


def _memory(row: Group) -> str:
    if row.evidence == PROJECTED:
        needed, high = row.figures.get("projected_memory_bytes"), row.figures.get("projected_memory_bytes_high")
        return "" if needed is None else projected_bytes(needed.mean, None if high is None else high.mean)
    name = "allocated_peak_bytes" if "allocated_peak_bytes" in row.figures else "host_peak_bytes"
    return _single(row, name, bytes_text)


# -------------------------------------------------------------------------------------------- table


def _tables(
    columns: list[Column], rows: Sequence[Group], console: Console
) -> tuple[list[str], list[list[Column]], list[str]]:
    """(lines for above, columns of each table, names of those left out): what is too wide for one table goes into
    another below it, beside the names of the rows again.
    """
    above, fitting, over = _fit(columns, rows, console)
    tables = [fitting]
    while over:
        names = [column for column in columns if column.name == "row"]  # which tells all rows apart, else:
        names = names or [column for column in fitting if column.axis or column.name in NAMING]
        left = [column for column in columns if column in over]
        more, part, rest = _fit([*names, *left], rows, console)
        if len(rest) == len(over):
            break
        above, over = above + more, rest
        tables.append(part)
    return ([", ".join(above)] if above else []), tables, [column.name for column in over]


def _fit(
    columns: list[Column], rows: Sequence[Group], console: Console
) -> tuple[list[str], list[Column], list[Column]]:
    """(words for above the table, columns, those left over) so that the table is no wider than the console."""
    above, over = [], []
    others = [
        column.name for column in reversed(columns) if not column.axis and column.name not in (*TO_DROP, *STAYING)
    ]
    steps = [*(("caption", name) for name in TO_CAPTION), *(("drop", name) for name in [*TO_DROP, *others[:-1]])]
    for step, name in steps:
        if _natural_width(_table(columns, rows), console) <= console.width:
            break
        column = next((column for column in columns if column.name == name), None)
        if column is None or (step == "caption" and not (column.constant and len(rows) > 1)):
            continue
        columns = [other for other in columns if other is not column]
        if step == "caption":
            above.append(f"{name} {next(filter(None, column.texts))}")
        else:
            over.append(column)
    return above, columns, over


def _natural_width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _table(columns: list[Column], rows: Sequence[Group]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for column in columns:
        head = "\n".join(column.name.rsplit(" ", 1))
        # Names stay whole as long as possible; evidence may go below the hardware's name.
        whole = column.axis and column.name != "hardware"
        table.add_column(head, justify="right" if column.right else "left", overflow="fold", no_wrap=whole)
    for index, row in enumerate(rows):
        apart = row.oracle and (index == 0 or not rows[index - 1].oracle)
        if apart and index:
            table.add_section()
        table.add_row(*(_styled(column, column.texts[index], row) for column in columns))
    return table


def _styled(column: Column, text: str, row: Group) -> Text:
    style = ""
    if column.name in ("state", "cells"):
        worst = next((state for state in reversed(row.states)), errors.DONE)
        style = STATE_STYLES.get(worst, "red")
    elif column.name == "hardware" and row.evidence not in ("measured", ""):
        style = "yellow"
    elif row.evidence == PROJECTED and column.right:
        style = "italic"
    return Text(text, style=style)


def _notes(rows: Sequence[Group], dropped: list[str]) -> list[str]:
    notes = []
    measured = [row for row in rows if row.evidence != PROJECTED]  # projections have intervals of their own
    over = {found.over for row in measured if (found := rate_of(row)) and found.over}
    several = any(summary.count > 1 for row in rows for summary in row.figures.values())
    if over or several:
        spans = [words for kind, words in SPANS.items() if kind in over or (kind == "seeds" and several)]
        notes.append(f"±: half of the 95 % interval {'; else '.join(spans)}")
    if any("repeats" in row.figures for row in rows):
        notes.append("repeats: how many; standard deviation between them / standard error within one; of the mean")
    if not all(_is_steady(row) for row in rows):
        notes.append(f"{UNSTEADY_MARK} warming up for half of the steps, or drifting to the end: the rate may be off")
    batches = {cell.record.recipe.get("batch_from") or "default" for row in rows for cell in row.cells if cell.record}
    if len(batches) > 1:
        notes.append(f"batch sizes of more than one kind: {', '.join(sorted(batches))}")
    if any(row.oracle for row in rows):
        notes.append(f"{ORACLE_MARK} a bound: it is given what others are not")
    unmeasured = sorted({row.evidence for row in rows} - {"measured", ""})
    if unmeasured:
        notes.append(f"({' / '.join(unmeasured)}): not measured on that device")
    if PROJECTED in unmeasured:
        notes.append(
            f"{PROJECTED_MARK} by a fitted model, with its 95 % interval; {BOUND_MARK} at most: nothing was fitted"
        )
        if any("joules_per_unit_at_limit" in row.figures for row in rows):
            notes.append(f"{ENERGY}: if the board draws its limit all the time; it may draw less")
    first = first_hardware(rows)
    unlike = ratio_texts(rows, first)[1] if first else []
    notes += [f"times {_bare(first or '')}: {note}" for note in unlike[:MOST_PROBLEMS]]
    if dropped:
        notes.append(f"left out for want of width: {', '.join(dropped)} (--json and --csv have everything)")
    return notes


# ------------------------------------------------------------------------------------------ problems


def _problem_lines(cells: list[Cell], refused: list[tuple[str, str]], by_seed: bool) -> list[tuple[str, str]]:
    found = problems(cells)
    lines = []
    for state, message, group_ in found[:MOST_PROBLEMS]:
        names = group_[0].name + (f" and {len(group_) - 1} more" if len(group_) > 1 else "")
        lines.append((f"{state}: {names}: {_first_line(message)}", STATE_STYLES.get(state, "red")))
    if len(found) > MOST_PROBLEMS:
        lines.append((f"and {len(found) - MOST_PROBLEMS} other problems", "red"))
    reasons = Counter(why for _, why in refused)
    for why, count in reasons.most_common(MOST_PROBLEMS):
        example = next(overrides for overrides, reason in refused if reason == why)
        lines.append((f"refused: {example}{f' and {count - 1} more' if count > 1 else ''}: {_first_line(why)}", "red"))
    return lines


def _first_line(message: str) -> str:
    return message.strip().splitlines()[0] if message.strip() else message


def _counts(cells: list[Cell], refused: list[tuple[str, str]]) -> str:
    counts = Counter(cell.state for cell in cells)
    counts[errors.REFUSED] += len(refused)
    order = [*errors.STATES, *counts]
    parts = [f"{counts[state]} {state}" for state in dict.fromkeys(order) if counts[state]]
    total = len(cells) + len(refused)
    return f"{total} cell{'' if total == 1 else 's'}: {', '.join(parts) or 'none'}"
