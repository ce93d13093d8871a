"""How a cell's process ended, and the record of a cell that could not leave one."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold import compatibility, record
from fourfold.errors import FAILED, INTERRUPTED, UNAVAILABLE, FourfoldError
from fourfold.launch.progress import warn
from fourfold.record import Record

BUG, LOST, OUT_OF_MEMORY, TIMEOUT = "bug", "lost node", "out of memory", "timeout"
OWN_FAULT = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
MEMORY_WORDS = (
    "out of memory",
    "outofmemory",
    "memoryerror",
    "std::bad_alloc",
    "oom-kill",
    "oom_kill",
    "cannot allocate",
)
LOG_LINES, LOG_LINES_KEPT = 15, 40  # of a message, and of a record


@dataclass(frozen=True)
class Elsewhere:
    """What a job returns that did not run its cell: another one runs it, or has ended it since this was planned."""

    why: str


@dataclass
class Ending:
    """``result`` is what the job returned; else ``state`` and ``reason`` say why there is none.

    reason: timeout | lost node | out of memory | nan | bug | interrupted | unavailable. ``log`` is the end of what it
    printed, ``rank`` which of its processes failed first: the first one's record may tell of a consequence only.
    """

    job: str | None
    result: Any = None
    state: str | None = None
    reason: str | None = None
    message: str | None = None
    traceback: str | None = None
    log: str = ""
    rank: int = 0

    @property
    def returned(self) -> bool:
        return self.state is None


def died(job: str | None, reason: str, what: str, log: str = "") -> Ending:
    """The ending of a job that left no result: one line, then the last lines of its log."""
    text = "\n".join([what, *last_lines(log)])
    return Ending(job, state=FAILED, reason=reason, message=text, log=log)


def interrupted(job: str | None, what: str = "interrupted") -> Ending:
    return Ending(job, state=INTERRUPTED, reason="interrupted", message=what)


def refused(what: str) -> Ending:
    """The scheduler, or this machine, does not take the job."""
    return Ending(None, state=UNAVAILABLE, reason="unavailable", message=what)


def last_lines(log: str, count: int = LOG_LINES) -> list[str]:
    return [line.rstrip() for line in log.splitlines() if line.strip()][-count:]


def read_log(*paths: Path, limit: int = 20_000) -> str:
    """The end (``limit`` bytes) of the first of these files that holds anything."""
    for path in paths:
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - limit))
                text = file.read().decode(errors="replace")
        except OSError:
            continue
        if text.strip():
            return text
    return ""


def reason_of_exit(status: int, log: str, out_of_memory: bool = False) -> tuple[str, str]:
    """(reason, one line) for a process that ended without a result.

    ``status`` is as Python has it: the negative of a signal's number, or the exit status.
    """
    number = -status if status < 0 else status - 128 if status > 128 else 0
    said = any(word in log.lower() for word in MEMORY_WORDS)
    if number in set(signal.Signals):
        name = signal.Signals(number).name
        what = f"the process was ended by {name}"
        if out_of_memory or said:
            return OUT_OF_MEMORY, f"{what}: out of memory"
        return (BUG, what) if number in OWN_FAULT else (LOST, f"{what}, from outside")
    what = f"the process ended with status {status} and left no result"
    return (OUT_OF_MEMORY if said else BUG), what


def blank_record(cell: Mapping[str, Any], name: str, overrides: Sequence[str]) -> Record:
    """A record of a cell of which nothing is known but its configuration."""
    rule = (cell["method"].get("rule") or {}).get("name")
    axes = {axis: cell[axis]["name"] for axis in compatibility.AXES}
    return Record(
        cell=name,
        axes={**axes, "rule": rule, "seed": cell["seed"]},
        config=dict(cell),
        overrides=list(overrides),
        evidence="simulated" if cell["hardware"].get("stand_in") else "measured",
        oracle=bool(cell["method"].get("oracle", False)),
    )


def signature(folder: Path) -> tuple[int, int] | None:
    """What changes when a record is replaced; None where there is none."""
    try:
        with (folder / record.RECORD_FILE).open("rb") as file:  # opened, so that a network file system looks again
            found = os.fstat(file.fileno())
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def readable(folder: Path) -> Record | None:
    """The record in a folder, or None where there is none that can be read."""
    try:
        return record.read(folder)
    except FourfoldError:
        return None


def set_aside_if_broken(folder: Path) -> bool:
    """Gives a record that cannot be read another name, with one line about it; whether there was one."""
    path = folder / record.RECORD_FILE
    try:
        record.read(folder)
        return False
    except FourfoldError as error:
        if not path.is_file():
            return False
        aside = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
        try:
            path.rename(aside)
        except OSError as problem:
            warn(f"{path}: cannot be set aside: {problem.strerror}")
            return False
        warn(f"{error}; set aside as {aside.name}, and the cell is run again")
        return True


def settle(
    cell: Mapping[str, Any], folder: Path, overrides: Sequence[str], before: tuple[int, int] | None, ending: Ending
) -> Record:
    """The record of a cell whose job has ended, written here if the cell left none or an unfinished one.

    ``before`` is the signature of the record that an earlier run had left. A folder that cannot be
    written costs the file, not the sweep.
    """
    fresh = readable(folder) if signature(folder) != before else None
    if fresh is not None and (fresh.ended is not None or fresh.state != INTERRUPTED):
        return fresh if isinstance(ending.result, Elsewhere) else _completed(fresh, folder, ending)
    if ending.returned:
        ending = died(ending.job, BUG, "the cell ended without a record")
    found = fresh or blank_record(cell, folder.name, overrides)
    found.state, found.reason, found.message = ending.state or FAILED, ending.reason, ending.message
    found.traceback, found.log = ending.traceback, last_lines(ending.log, LOG_LINES_KEPT)
    found.ended = time.time()
    if ending.job is not None:
        found.environment = {**found.environment, "job": {**found.environment.get("job", {}), "id": ending.job}}
    write_if_possible(found, folder, keep_series=fresh is not None)
    return found


def write_if_possible(found: Record, folder: Path, keep_series: bool = False) -> None:
    """Writes a record; an older run's series does not stay beside it."""
    try:
        if not keep_series:
            (folder / record.SERIES_FILE).unlink(missing_ok=True)
        found.write(folder)
    except OSError as error:
        warn(f"{folder}: the record cannot be written: {error.strerror}")


def _completed(found: Record, folder: Path, ending: Ending) -> Record:
    """What a cell that failed could not know itself: the end of its log, and which rank it was that failed first."""
    if found.state != FAILED:
        return found
    log = last_lines(ending.log, LOG_LINES_KEPT)
    if ending.rank and not ending.returned:
        found.reason, found.message, found.traceback = ending.reason, ending.message, ending.traceback
    elif "not requeued because: timed-out" in (found.message or "") and found.reason != TIMEOUT:
        found.reason = TIMEOUT  # submitit raises an error of its own inside a job that reaches Slurm's time limit
    elif not log:
        return found
    found.log = log
    write_if_possible(found, folder, keep_series=True)
    return found
