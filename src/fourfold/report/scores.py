"""The table of a suite, row by row, in Milabench's columns and in ours, with the scores below it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fourfold import errors
from fourfold.errors import Refused
from fourfold.metrics.comparison import Estimate, estimate
from fourfold.metrics.score import MISSING, MilabenchRow, Row, Score, by_domain, milabench_total, score
from fourfold.record import Record
from fourfold.report import milabench
from fourfold.report.compare import rate_estimate
from fourfold.report.groups import Group, group
from fourfold.report.labels import PROJECTED, PROJECTED_MARK, bytes_text, projected_mark, rate_text
from fourfold.report.read import Cell, Sweep
from fourfold.report.select import Selection

Rows = dict[str, tuple[float, list[Cell]]]  # name of the row -> (weight, its cells)
KINDS = ("ratio", "milabench", "milabench+1")


@dataclass(frozen=True)
class Line:
    """One row: its group of cells, what Milabench would say of it, and what we do."""

    row: Row
    group: Group | None
    milabench: MilabenchRow | None

    @property
    def projected(self) -> bool:
        """Whether its rate was computed, not measured."""
        return self.group is not None and self.group.evidence == PROJECTED

    @property
    def mark(self) -> str:
        """What stands before its rate."""
        bound = self.figures.get("upper_bound")
        return projected_mark(bound.mean if bound else None) if self.projected else ""

    @property
    def record(self) -> Record | None:
        """Of its first cell that has one."""
        return next((cell.record for cell in self.group.cells if cell.record), None) if self.group else None

    @property
    def figures(self) -> Mapping[str, Any]:
        return self.group.figures if self.group else {}


def lines(selection: Selection, reference: Selection | None = None, projected: bool = False) -> list[Line]:
    """A line for each row: of a suite under the row's name, else under the benchmark's and what was asked besides.

    A row that only the reference has is missing. ``projected``: rows that were not measured count by their projections.
    Raises Refused where these would be compared with measured ones without being asked for.
    """
    own, theirs = _rows(selection, projected), _rows(reference, projected) if reference else {}
    if reference and not projected:
        _check_evidence(selection, reference, own, theirs)
    known = {name: rate_estimate_of(cells) for name, (_, cells) in theirs.items()}
    found = []
    for name, (weight, cells) in own.items():
        groups = group(cells)
        state = _state(cells)
        rate = rate_estimate_of(cells) if state == errors.DONE else None
        row = Row(name, state, weight, _domain(cells), rate, known.get(name))
        found.append(Line(row, groups[0] if groups else None, milabench.of_cells(cells)))
    names = {line.row.name for line in found}
    weights = {name: weight for name, (weight, _) in theirs.items()}
    missing = [name for name, rate in known.items() if rate and name not in names]
    return found + [Line(Row(name, MISSING, weights[name], reference=known[name]), None, None) for name in missing]


def score_text(selection: Selection, reference: Selection | None, kind: str, projected: bool = False) -> str:
    """The table and the scores below it. ``kind`` is one of KINDS; "ratio" needs a reference."""
    found = lines(selection, reference, projected)
    table = [milabench.HEAD if kind != "ratio" else _our_head(reference)]
    table += [(_milabench_line(line) if kind != "ratio" else _our_line(line)) for line in found]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    texts = [
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    return "\n".join(
        [*texts, "", *(_totals(found, kind) if kind == "ratio" else _milabench_totals(found, kind)), *_mixed(found)]
    )


def of_sweep(sweep: Sweep) -> list[str]:
    """By the score that the sweep's suite has, and how to set it beside another machine; nothing where there is none,
    or nothing was measured.
    """
    if sweep.score is None or not any(cell.rates for cell in sweep.cells):
        return []
    beside = f"beside another machine: python -m fourfold report {sweep.id} --score ratio --reference CELLS"
    return ["\n".join([score_text(Selection(sweep.id, sweep.cells), None, sweep.score), beside])]


def score_json(selection: Selection, reference: Selection | None, projected: bool = False) -> str:
    """Rows and all scores, for programs."""
    found = lines(selection, reference, projected)
    rows = [line.row for line in found]
    content = {
        "rows": [
            {
                **asdict(line.row),
                "projected": line.projected,
                "ratio": line.row.ratio,
                "milabench": line.milabench and asdict(line.milabench),
            }
            for line in found
        ],
        "score": _plain(score(rows), found),
        "domains": {name: _plain(one, found) for name, one in by_domain(rows).items()},
        "milabench": milabench_of(found, plus_one=False),
        "milabench+1": milabench_of(found, plus_one=True),
    }
    return json.dumps(content, indent=1)


def _plain(one: Score, found: Iterable[Line]) -> dict[str, Any]:
    """Without an interval where a row is projected: of a ratio of projections no error is known."""
    return asdict(one) | (dict.fromkeys(("low", "high")) if any(line.projected for line in found) else {})


def milabench_of(found: Iterable[Line], plus_one: bool) -> float | None:
    """Milabench's total of these rows; one that gave no rate counts as 0, as there."""
    rows = [line for line in found if line.row.state != errors.NOT_APPLICABLE]
    scores = [line.milabench.score if line.milabench else 0.0 for line in rows]
    return milabench_total(scores, [line.row.weight for line in rows], plus_one)


def rate_estimate_of(cells: list[Cell]) -> Estimate | None:
    """Of a row's cells: their mean; of processes that each had a device of its own, their sum."""
    done = [cell for cell in cells if cell.state == errors.DONE and cell.record]
    if not done or not milabench.apart(done):
        groups = group(cells)
        return rate_estimate(groups[0]) if groups else None
    rates = [cell.numbers["units_per_second"] for cell in done if "units_per_second" in cell.numbers]
    if not rates:
        return None
    spread = estimate(rates)
    return replace(spread, mean=sum(rates))


# ------------------------------------------------------------------------------------------ parts


def of_one_evidence(cells: Sequence[Cell]) -> list[Cell]:
    """All cells but the projected ones, which no score mixes with others; those alone, if there are no others."""
    others = [cell for cell in cells if not _is_projected(cell)]
    return others if any(cell.record for cell in others) else list(cells)


def _is_projected(cell: Cell) -> bool:
    return cell.record is not None and cell.record.evidence == PROJECTED


def _check_evidence(selection: Selection, reference: Selection, own: Rows, theirs: Rows) -> None:
    computed = [any(_is_projected(cell) for _, cells in rows.values() for cell in cells) for rows in (own, theirs)]
    if own and theirs and computed[0] != computed[1]:
        which, other = (selection, reference) if computed[0] else (reference, selection)
        raise Refused(
            f"--score ratio: {which.name} is projected and {other.name} measured; --with-projected compares them"
        )


def _rows(selection: Selection, projected: bool) -> Rows:
    """The rows of one evidence; with projected ones, those for what was not measured."""
    if not projected:
        return _named(of_one_evidence(selection.cells))
    return {
        name: (weight, of_one_evidence(cells) if _state(of_one_evidence(cells)) == errors.DONE else cells)
        for name, (weight, cells) in _named(selection.cells).items()
    }


def _named(cells: Iterable[Cell]) -> Rows:
    found: Rows = {}
    for cell in cells:
        if cell.rows:  # a cell that several rows asked for counts for each of them
            for row, asked in cell.rows:
                found.setdefault(row, (asked, []))[1].append(cell)
            continue
        label = (cell.record.config.get("suite") or {}) if cell.record else {}
        name, weight = label.get("row"), label.get("weight")
        if name is None and cell.record is None:
            name, weight = cell.name, 1.0
        elif name is None:
            (own,) = group([cell])
            words = [own.benchmark, own.setting if own.setting != "traditional" else "", own.method, own.variant]
            usual = ("finetune", "execute", "milabench")
            name, weight = " ".join(word for word in words if word and word not in usual), 1.0
            weight = float((cell.record.config.get("milabench") or {}).get("weight", 1.0)) if cell.record else 1.0
        found.setdefault(str(name), (1.0 if weight is None else float(weight), []))[1].append(cell)
    return found


def _state(cells: list[Cell]) -> str:
    """done if any process was; else not applicable, missing, or failed."""
    states = {cell.state for cell in cells}
    if errors.DONE in states:
        return errors.DONE
    if states == {errors.NOT_APPLICABLE}:
        return errors.NOT_APPLICABLE
    return MISSING if states <= {"no record", errors.INTERRUPTED} else errors.FAILED


def _domain(cells: list[Cell]) -> str:
    """What the benchmark says, else the family that its class is of."""
    node = next((cell.record.config.get("benchmark") or {} for cell in cells if cell.record), {})
    module = str(node.get("_target_") or "").split(".")
    return str(node.get("domain") or (module[-2] if len(module) > 1 else "")).replace("_", " ")


def _milabench_line(line: Line) -> list[str]:
    cells = line.group.cells if line.group else []
    return milabench.texts(line.row.name, line.row.weight, cells, line.figures, line.milabench)


def _our_head(reference: Selection | None) -> list[str]:
    against = f"x {reference.name}" if reference else "ratio"
    return ["row", "state", "rate", "±", "unit/s", against, "batch", "precision", "MFU", "J/unit", "memory", "weight"]


def _our_line(line: Line) -> list[str]:
    rate, figures = line.row.rate, line.figures
    record = line.record
    recipe = record.recipe if record else {}
    half, mark = _half_width(rate), line.mark
    memory = figures.get("allocated_peak_bytes") or figures.get("host_peak_bytes")
    tuned = "" if recipe.get("batch_from") in (None, "default") else f" ({recipe['batch_from']})"
    return [
        line.row.name,
        line.row.state,
        "" if rate is None else mark + rate_text(rate.mean),
        "" if half is None else f"{100 * half:.2g}%",
        (line.group.unit or "") if line.group else "",
        "" if line.row.ratio is None else f"{mark}{line.row.ratio:.3f}",
        f"{recipe['batch']}{tuned}" if recipe.get("batch") else "",
        milabench.precision_text(line.row.name, record),
        f"{100 * figures['mfu'].mean:.1f}%" if "mfu" in figures else "",
        f"{figures['joules_per_unit'].mean:.3g}" if "joules_per_unit" in figures else "",
        "" if memory is None else bytes_text(memory.mean),
        f"{line.row.weight:g}",
    ]


def _half_width(rate: Estimate | None) -> float | None:
    """Half of the 95 % interval, as a share."""
    from fourfold.metrics.statistics import student_quantile

    return None if rate is None or rate.error is None else student_quantile(rate.freedom) * rate.error


def _totals(found: list[Line], kind: str) -> list[str]:
    rows = [line.row for line in found]
    domains = by_domain(row for row in rows if row.domain)
    known = not any(line.projected for line in found)  # of a ratio of projections no error is known
    texts = [
        f"{name}: {_score(one, known)}" for name, one in domains.items() if len(domains) > 1 and one.value is not None
    ]
    total = score(rows)
    counts = ", ".join(f"{count} {state}" for state, count in total.counts.items())
    incomplete = "" if total.complete else "; incomplete: the score is of the rows that both machines have"
    return [*texts, f"score: {_score(total, known)}", f"rows with weight: {counts}{incomplete}"]


def _score(one: Score, known: bool) -> str:
    """With its interval where that is ``known``."""
    if one.mean is None:
        return "none" if one.value is None else f"{one.value:.3g}, nothing was done"
    text = f"{one.mean:.4g} (95 % interval {one.low:.4g} to {one.high:.4g})" if known else f"~{one.mean:.4g}"
    return text if one.coverage == 1 else f"{one.value:.4g} = {text} x {one.coverage:.3f} done"


def _milabench_totals(found: list[Line], kind: str) -> list[str]:
    total = milabench_of(found, plus_one=kind == "milabench+1")
    failed, count = milabench.processes(cell for line in found if line.group for cell in line.group.cells)
    rate = f"{100 * failed / count:.2f}%" if count else "none"
    return [f"Failure rate: {rate}", f"Score: {'none' if total is None else f'{total:.2f}'}"]


def _mixed(found: list[Line]) -> list[str]:
    """A table that mixes default and other batch sizes says so, and one that holds what was not measured, or not as
    its row is named.
    """
    from_ = {
        cell.record.recipe.get("batch_from", "default")
        for line in found
        if line.group
        for cell in line.group.cells
        if cell.record and cell.record.recipe.get("batch")
    }
    said = [f"batch sizes of more than one kind: {', '.join(sorted(map(str, from_)))}"] if len(from_) > 1 else []
    unlike = sum(milabench.unlike_its_name(line.row.name, line.record) for line in found)
    if unlike:
        said.append(
            f"{milabench.UNLIKE_MARK} {unlike} of {len(found)} rows are named for another precision, or for more"
            " devices, than they ran with"
        )
    computed = [line for line in found if line.projected]
    if computed:
        said.append(f"{PROJECTED_MARK} {len(computed)} of {len(found)} rows are projected, not measured")
    return said
