"""Cells that a user cancelled from another shell: their end is an interruption, whatever it looks like."""

import time
from pathlib import Path

from fourfold.launch.ending import Ending, interrupted
from fourfold.launch.stop import Stop

FOLDER = ".cancelled"  # in the sweep's folder, an empty file for each cell
POLL = 1.0  # seconds between two looks at it


def mark(sweep: Path, cell: str) -> None:
    """Notes that the user cancelled a cell, for the launcher of its sweep. Raises OSError if that cannot be written."""
    (sweep / FOLDER).mkdir(exist_ok=True)
    (sweep / FOLDER / cell).touch()


def judged(sweep: Path, cell: str, ending: Ending) -> Ending:
    """The ending of a cell as it came, but that a cancelled one was interrupted."""
    if ending.returned or not (sweep / FOLDER / cell).exists():
        return ending
    return interrupted(ending.job, "cancelled by the user")


class Cancellation(Stop):
    """Whether the user cancels one cell: asked to end at its mark, ended when that is renewed."""

    def __init__(self, sweep: Path, cell: str) -> None:
        super().__init__()
        self.path = sweep / FOLDER / cell
        self._looked = 0.0
        self._seen: int | None = None  # when the mark was made, ns

    def __bool__(self) -> bool:
        if time.monotonic() - self._looked >= POLL:
            self._looked = time.monotonic()
            try:
                made = self.path.stat().st_mtime_ns
            except OSError:
                made = self._seen or 0
            if made and made != self._seen:
                self._seen, self.requests = made, self.requests + 1
        return self.requests > 0
