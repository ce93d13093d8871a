"""Tables from records, and from nothing else.

summary(cells)          every cell of a run: state and key figures
report(output_dir)      the comparison table of a sweep, over seeds
pivot(output_dir, ...)  one figure as a table of two axes
scaling_report(...)     how rates grow with the devices
adaptation(output_dir, picture)  how soon learners adapt after a switch, as a picture and a table
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fourfold.record import Record


def summary(cells: "Iterable[Path | Record | tuple[Record, Path]]") -> str:
    """The text at the end of a run: a line a cell, what went wrong, and the counts.

    ``cells``: folders of cells (one that cannot be read is shown as such), or records in hand.
    """
    from fourfold.report.read import read_cells
    from fourfold.report.text import cells_text, terminal_width

    return cells_text(read_cells(cells), terminal_width(), sys.stdout.isatty())


def report(output_dir: Path, sweep: str | None = None, form: str = "text", everything: bool = False) -> str:
    """The comparison of a sweep (None: the latest; ``everything``: all cells on disk) as text, json or csv.

    The text of a suite that has a score ends with the table of that score. Raises Refused if there is no such sweep.
    """
    from fourfold.report import export, read, scores, text

    found = read.read_all(output_dir) if everything else read.read_sweep(output_dir, sweep)
    if form == "json":
        return export.sweep_json(found)
    if form == "csv":
        return export.sweep_csv(found)
    table = text.sweep_text(found, text.terminal_width(), sys.stdout.isatty())
    return "\n\n".join([table, *scores.of_sweep(found)])


def pivot(
    output_dir: Path,
    axes: tuple[str, str],
    metric: str,
    sweep: str | None = None,
    form: str = "text",
    everything: bool = False,
) -> str:
    """One figure of a sweep's cells as a table of two axes, as text, json or csv.

    Raises Refused if there is no such sweep, axis or figure.
    """
    from fourfold.report import crosstab, read, text

    found = read.read_all(output_dir) if everything else read.read_sweep(output_dir, sweep)
    if form == "json":
        return crosstab.pivot_json(found, axes, metric)
    if form == "csv":
        return crosstab.pivot_csv(found, axes, metric)
    return crosstab.pivot_text(found, axes, metric, text.terminal_width(), sys.stdout.isatty())


def scaling_report(output_dir: Path, sweep: str | None = None, form: str = "text", everything: bool = False) -> str:
    """Weak and strong scaling of a sweep's cells, as text, json or csv. Raises Refused if they make no series."""
    from fourfold.report import read
    from fourfold.report.scaling import scaling_csv, scaling_json, scaling_text

    found = read.read_all(output_dir) if everything else read.read_sweep(output_dir, sweep)
    return {"text": scaling_text, "json": scaling_json, "csv": scaling_csv}[form](found)


def adaptation(
    output_dir: Path, picture: Path, sweep: str | None = None, form: str = "text", everything: bool = False
) -> str:
    """Draws the adaptation curves of a sweep's cells; returns the figures beside them as text, json or csv.

    Raises Refused if there is no such sweep, if it has no such cell, or for a picture that cannot be written.
    """
    from fourfold.report import curves, read, text

    found = read.read_all(output_dir) if everything else read.read_sweep(output_dir, sweep)
    panels = curves.panels(found.cells)
    curves.adaptation_picture(panels, picture)
    if form == "json":
        return curves.adaptation_json(panels)
    if form == "csv":
        return curves.adaptation_csv(panels)
    return curves.adaptation_text(panels, text.terminal_width(), sys.stdout.isatty())
