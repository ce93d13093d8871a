"""Which cells a word means: a sweep, a folder, or a value that cells have in common."""

from dataclasses import dataclass, field
from pathlib import Path

from fourfold.errors import Refused
from fourfold.record import RECORD_FILE
from fourfold.report.groups import AXES
from fourfold.report.read import MANIFEST_FILE, Cell, read_all, read_cells, read_sweep


@dataclass(frozen=True)
class Selection:
    """Cells, and the key of the value by which they were chosen: it does not count where two selections are matched."""

    name: str
    cells: list[Cell] = field(repr=False)
    key: str | None = None


def select(word: str, output_dir: Path) -> Selection:
    """The cells that a word names:

    KEY=VALUE (hardware=a100, method=ewc, seed=0, commit=c0ffee, batch=64): of all cells in output_dir, those that have
    it; a folder: of a cell, of a sweep, of many cells, or an output folder; else a sweep of output_dir, by its id or
    the beginning of it.

    Raises Refused, saying what there is, if nothing is found.
    """
    path = Path(word)
    if "=" in word and not path.exists():
        return _by_value(word, output_dir)
    if path.is_dir():
        return Selection(word, _of_folder(path))
    return Selection(word, read_sweep(output_dir, word).cells)


def _by_value(word: str, output_dir: Path) -> Selection:
    key, value = word.split("=", 1)
    everything = read_all(output_dir).cells
    cells = [cell for cell in everything if cell.record and _has(cell, key, value)]
    if not cells:
        instead = _has_instead(everything, key)
        raise Refused(f"{word}: none of the {len(everything)} cells in {output_dir / 'cells'} has it{instead}")
    return Selection(word, cells, key)


def _has(cell: Cell, key: str, value: str) -> bool:
    assert cell.record is not None
    if key == "commit":
        return str((cell.record.environment.get("git") or {}).get("commit") or "").startswith(value)
    if key in cell.record.axes:
        return str(cell.record.axes[key]) == value
    return f"{key}={value}" in [str(word).lstrip("+") for word in cell.record.overrides]


def _has_instead(cells: list[Cell], key: str) -> str:
    have = sorted({str(cell.record.axes.get(key)) for cell in cells if cell.record}) if key in (*AXES, "seed") else []
    return f"; {key} is one of {', '.join(have)}" if have else ""


def _of_folder(path: Path) -> list[Cell]:
    if (path / RECORD_FILE).is_file():
        return read_cells([path])
    if (path / MANIFEST_FILE).is_file():
        return read_sweep(path.parent.parent, path.name).cells
    inside = path / "cells" if (path / "cells").is_dir() else path
    folders = [folder for folder in sorted(inside.glob("*")) if (folder / RECORD_FILE).is_file()]
    if not folders:
        raise Refused(f"{path}: no records there, nor in {inside}/*")
    return read_cells(folders)
