"""Figures of a cell that compare it with others of its sweep, or that are too many for every table."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from fourfold import errors
from fourfold.metrics import continual, efficiency
from fourfold.report.groups import group
from fourfold.report.read import Cell

_FLOPS = "it needs measure.flops=on, one process, and several contexts learned one by one"
# What a cell must have been run with, or beside, for figures that not all have.
NEEDED = {
    "intransigence": "it compares with method=cumulative in the same sweep",
    "intransigence_joint": "it compares with method=joint in the same sweep",
    "cl_score_clvision2020": "it needs measure.period= a number, and accuracies of several contexts",
    "cl_score_diaz": _FLOPS,
    "cl_stability_diaz": f"{_FLOPS}, of two seeds or more",
    "compute_efficiency": _FLOPS,
}


def with_comparisons(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, with ``intransigence``, ``intransigence_joint``, ``cl_score_clvision2020``, ``cl_stability_diaz`` and
    ``class_accuracy_LABEL`` where there are any."""
    found = _beside_bound(cells, "cumulative", "intransigence", continual.intransigence)
    found = _beside_bound(found, "joint", "intransigence_joint", continual.intransigence_joint)
    return _with_stability(_with_clvision([_with_classes(cell) for cell in found]))


def _with_stability(cells: Sequence[Cell]) -> list[Cell]:
    """``cl_stability_diaz`` is one number of all seeds of a row: their first cell has it, so that it counts once."""
    found: dict[int, float] = {}
    for row in group(cells):
        whole = [cell for cell in row.cells if cell.state == errors.DONE and "cl_score_diaz" in cell.numbers]
        criteria = [{name: cell.numbers[figure] for name, figure in efficiency.DIAZ.items()} for cell in whole]
        stability = efficiency.cl_stability_diaz(criteria)
        if stability is not None:
            found[id(whole[0])] = stability
    return [
        replace(cell, numbers={**cell.numbers, "cl_stability_diaz": found[id(cell)]}) if id(cell) in found else cell
        for cell in cells
    ]


def _with_classes(cell: Cell) -> Cell:
    if cell.record is None or cell.state != errors.DONE:
        return cell
    return replace(cell, numbers={**cell.numbers, **efficiency.class_figures(cell.record)})


def _with_clvision(cells: Sequence[Cell]) -> list[Cell]:
    """A cost counts beside the largest one of all cells of the same contexts, whatever their method and seed."""
    values = {
        index: found
        for index, cell in enumerate(cells)
        if cell.record is not None and cell.state == errors.DONE
        if (found := efficiency.clvision_values(cell.record, cell.numbers)) is not None
    }
    made = list(cells)
    for index, own in values.items():
        alike = [other for at, other in values.items() if _problem_of(cells[at]) == _problem_of(cells[index])]
        largest = [max(costs) for costs in zip(*(other[2:] for other in alike), strict=True)]
        score = efficiency.cl_score_clvision2020(own, largest)
        made[index] = replace(cells[index], numbers={**cells[index].numbers, "cl_score_clvision2020": score})
    return made


def _problem_of(cell: Cell) -> tuple[str, ...]:
    assert cell.record is not None
    return tuple(str(cell.record.axes.get(axis)) for axis in ("benchmark", "setting", "hardware"))


def _beside_bound(
    cells: Sequence[Cell], bound: str, name: str, figure: Callable[[continual.Matrix, continual.Matrix], float | None]
) -> list[Cell]:
    """The figure, under its name, for cells beside which a bound ran on the same contexts."""
    bounds = {
        _contexts_of(cell): continual.accuracy_matrix(cell.record.evaluations)
        for cell in cells
        if cell.record is not None and cell.state == errors.DONE and cell.record.axes.get("method") == bound
    }
    found = []
    for cell in cells:
        reference = None if cell.record is None or cell.record.oracle else bounds.get(_contexts_of(cell))
        if reference is not None and cell.record is not None and cell.state == errors.DONE:
            value = figure(continual.accuracy_matrix(cell.record.evaluations), reference)
            cell = cell if value is None else replace(cell, numbers={**cell.numbers, name: value})
        found.append(cell)
    return found


def _contexts_of(cell: Cell) -> str:
    """What two cells must share so that their contexts are the same: benchmark, setting, seed and sizes."""
    record = cell.record
    if record is None:
        return ""
    recipe = {key: record.recipe.get(key) for key in ("scale", "size", "model", "data", "until")}
    parts = [record.axes.get(axis) for axis in ("benchmark", "setting", "seed")]
    return json.dumps([parts, record.config.get("setting"), recipe], sort_keys=True, default=str)
