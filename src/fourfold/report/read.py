"""From folders to cells and sweeps; what cannot be read is shown as that, never left out."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fourfold.errors import NOT_APPLICABLE, FourfoldError, Refused, nearest
from fourfold.metrics import copies_of, figures
from fourfold.metrics.online import adaptation_curve
from fourfold.record import Record, read, read_series

MANIFEST_FILE = "sweep.json"
NO_RECORD, UNREADABLE = "no record", "unreadable"


@dataclass(frozen=True)
class Cell:
    """A cell's record and its numbers; without a readable record only ``name``, ``state`` and ``message``."""

    name: str
    state: str
    message: str | None = None
    record: Record | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    rates: tuple[tuple[float, ...], ...] = field(
        default=(), compare=False, repr=False
    )  # of each copy's steps, a second
    adaptation: tuple[float, ...] = field(default=(), compare=False, repr=False)  # score by steps since a switch
    rows: tuple[tuple[str, float], ...] = ()  # of suites that asked for it, with their weights


@dataclass(frozen=True)
class Sweep:
    """A sweep's cells in their order, and what was refused before it started: (overrides, why).

    ``score``: by which its suites, all of them, are scored without a reference.
    """

    id: str
    cells: list[Cell]
    refused: list[tuple[str, str]]
    command: str = ""
    running: bool = False
    score: str | None = None


def read_cells(cells: Iterable[Path | Record | tuple[Record, Path]]) -> list[Cell]:
    """From folders of cells, or from records in hand (then without what only the series can tell)."""
    return [_read_cell(cell) for cell in cells]


def read_sweep(output_dir: Path, name: str | None = None) -> Sweep:
    """A sweep by its id or the beginning of it; the latest one without a name.

    Raises Refused if there is no such sweep, or its manifest cannot be read.
    """
    manifest = find_manifest(output_dir, name)
    try:
        content = json.loads(manifest.read_text())
        cells = [_manifest_cell(output_dir, cell) for cell in content["cells"]]
        cells += [_not_applicable(entry) for entry in content.get("not_applicable") or []]
        refused = [
            (_words(entry.get("overrides")), str(entry.get("why", ""))) for entry in content.get("refused") or []
        ]
        running = content.get("ended") is None
        asked = [row for entry in _entries(content) for row in entry.get("rows") or [{}]]
        scores = {row.get("score") for row in asked}
        score = scores.pop() if len(scores) == 1 else None
        return Sweep(str(content["id"]), cells, refused, _words(content.get("command")), running, score)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{manifest}: not a readable manifest ({type(error).__name__})") from error


def read_all(output_dir: Path) -> Sweep:
    """Every cell on disk, as if it were one sweep. Raises Refused if there is none."""
    folders = [path for path in sorted((output_dir / "cells").glob("*")) if path.is_dir()]
    if not folders:
        raise Refused(f"no cells in {output_dir / 'cells'} yet; run one: python run.py benchmark=digits")
    return Sweep("all cells", read_cells(folders), [])


def sweeps(output_dir: Path) -> list[Path]:
    """The manifests on disk, oldest first."""
    found = (output_dir / "sweeps").glob(f"*/{MANIFEST_FILE}")
    return sorted(found, key=lambda path: (_started(path), path.parent.name))


def load_manifest(sweep: Path) -> dict[str, Any]:
    """The content of the manifest in a sweep's folder. Raises Refused if it cannot be read."""
    try:
        content = json.loads((sweep / MANIFEST_FILE).read_text())
        content["id"], content["started"], content["cells"]
        return content
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{sweep / MANIFEST_FILE}: not a readable manifest ({type(error).__name__})") from error


def find_manifest(output_dir: Path, name: str | None) -> Path:
    """The manifest of a sweep by its id or the beginning of it, the latest without. Raises Refused if there is none."""
    found = sweeps(output_dir)
    if not found:
        raise Refused(f"no sweep in {output_dir / 'sweeps'} yet; run one: python run.py -m benchmark=digits seed=0,1")
    if name is None:
        return found[-1]
    matching = [path for path in found if path.parent.name == name] or [
        path for path in found if path.parent.name.startswith(name)
    ]
    if len(matching) == 1:
        return matching[0]
    names = [path.parent.name for path in matching or found]
    latest = ", ".join(names[-3:])
    if matching:
        raise Refused(f"sweep {name}: {len(matching)} begin like that; the latest: {latest}")
    raise Refused(f"sweep {name}: no such sweep in {output_dir / 'sweeps'}{nearest(name, names)}; the latest: {latest}")


def _started(manifest: Path) -> str:
    """By when it started, or by its name (which begins with the time) where that cannot be read."""
    try:
        started = json.loads(manifest.read_text())["started"]
        return f"{float(started):020.6f}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{manifest.stat().st_mtime:020.6f}"


def _entries(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [*content["cells"], *(content.get("not_applicable") or [])]


def _manifest_cell(output_dir: Path, entry: dict[str, Any]) -> Cell:
    folder = output_dir / entry["folder"]
    cell = _read_cell(folder)
    if cell.state == NO_RECORD and entry.get("state"):
        cell = Cell(str(entry["cell"]), str(entry["state"]), "left no record")
    return replace(cell, rows=_rows_of(entry))


def _not_applicable(entry: dict[str, Any]) -> Cell:
    """A suite's row that was not run: it is neither a pass nor a failure."""
    rows = _rows_of(entry)
    name = ", ".join(name for name, _ in rows) or _words(entry.get("overrides"))
    return Cell(name, NOT_APPLICABLE, str(entry.get("why", "")), rows=rows)


def _rows_of(entry: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    return tuple((str(row.get("row")), float(row.get("weight", 1.0))) for row in entry.get("rows") or [])


def _read_cell(cell: Path | Record | Sequence[Any]) -> Cell:
    if isinstance(cell, Record):
        return _with_numbers(cell, {})
    folder = Path(cell if isinstance(cell, Path | str) else cell[1])
    try:
        record = read(folder)
    except FourfoldError as error:
        absent = isinstance(error.__cause__, FileNotFoundError)
        return Cell(folder.name, NO_RECORD if absent else UNREADABLE, "not run yet" if absent else str(error))
    try:
        return _with_numbers(record, read_series(folder))
    except FourfoldError as error:
        found = _with_numbers(record, {})
        return Cell(found.name, found.state, found.message or str(error), record, found.numbers)


def _with_numbers(record: Record, series: Any) -> Cell:
    return Cell(
        record.cell, record.state, record.message, record, figures(record, series), _rates(series), _adaptation(series)
    )


def _adaptation(series: Any) -> tuple[float, ...]:
    """Of a stream whose contexts switch: the mean score at each number of steps since a switch."""
    if "score" not in series or "since_switch" not in series:
        return ()
    return tuple(float(value) for value in adaptation_curve(series["score"], series["since_switch"]))


def _rates(series: Any) -> tuple[tuple[float, ...], ...]:
    """Units a second of each step that did any, of each copy of the cell."""
    if "step_seconds" not in series or "step_units" not in series:
        return ()
    found = []
    for copy in copies_of(series):
        pairs = zip(series[f"{copy}step_units"], series[f"{copy}step_seconds"], strict=True)
        found.append(tuple(float(units / seconds) for units, seconds in pairs if units > 0 and seconds > 0))
    return tuple(found)


def _words(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(map(str, value or []))
