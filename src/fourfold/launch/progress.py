"""What a sweep tells while it runs: a line for each cell that ends, a summary at the end."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.errors import DONE

if TYPE_CHECKING:  # records bring numpy, which --help and a refusal do without
    from fourfold.record import Record

WIDTH = max(len(state) for state in ("unavailable", "interrupted", "failed", "done"))


def say(line: str) -> None:
    """Prints a line at once; a reader that went away (| head) does not end the sweep."""
    try:
        print(line, flush=True)
    except (OSError, ValueError):
        stop_printing()


def warn(line: str) -> None:
    """One line on stderr."""
    with contextlib.suppress(OSError, ValueError):
        print(f"warning: {' '.join(line.split())}", file=sys.stderr, flush=True)


def began_line(cell: str, job: str | None) -> str:
    """When a cell is started here, or handed to a scheduler as a job."""
    return f"started {cell}" if job is None else f"submitted {cell} (job {job})"


def ended_line(found: "Record", number: int, total: int) -> str:
    """``[ 3/12] done         digits-cpu-...-seed0-abc  0.931  1.2k images/s``"""
    width = len(str(total))
    note = key_figure(found) if found.state == DONE else first_line(found.message)
    return f"[{number:>{width}}/{total}] {found.state:<{WIDTH}}  {found.cell}  {note}".rstrip()


def summary(cells: "Sequence[tuple[Record, Path]]") -> str:
    """Every cell with its state and key figures."""
    from fourfold.report import summary as table

    return table(list(cells))


def key_figure(found: "Record") -> str:
    """One or two figures that tell whether a cell went well."""
    parts = []
    if found.evaluations:
        last = max(entry["after"] for entry in found.evaluations)
        values = [
            entry["value"] for entry in found.evaluations if entry["after"] == last and entry["value"] is not None
        ]
        if values:
            parts.append(f"{found.evaluations[0]['metric']} {sum(values) / len(values):.3g}")
    if found.ended is not None:
        parts.append(f"{found.ended - found.started:.1f} s")
    return "  ".join(parts)


def first_line(message: str | None) -> str:
    return (message or "").strip().split("\n")[0]


def stop_printing() -> None:
    """Sends what is still to be printed nowhere, so that Python's own flush at exit does not fail."""
    with contextlib.suppress(OSError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (lives as long as the process)
