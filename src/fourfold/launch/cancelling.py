"""Cells that a user cancelled from another shell: their end is an interruption, whatever it looks like."""

from pathlib import Path

from fourfold.launch.ending import Ending, interrupted

FOLDER = ".cancelled"  # in the sweep's folder, an empty file for each cell


def mark(sweep: Path, cell: str) -> None:
    """Notes that the user cancelled a cell, for the launcher of its sweep. Raises OSError if that cannot be written."""
    (sweep / FOLDER).mkdir(exist_ok=True)
    (sweep / FOLDER / cell).touch()


def judged(sweep: Path, cell: str, ending: Ending) -> Ending:
    """The ending of a cell as it came, but that a cancelled one was interrupted."""
    if ending.returned or not (sweep / FOLDER / cell).exists():
        return ending
    return interrupted(ending.job, "cancelled by the user")
