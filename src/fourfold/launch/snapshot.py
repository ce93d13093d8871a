"""How far a sweep is, from its manifest and its cells' folders: the same for the launcher and for any other shell."""

import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourfold import errors, pulse
from fourfold.launch import leases
from fourfold.launch.ending import readable
from fourfold.report.read import find_manifest, load_manifest

RUNNING, STARTING, QUEUED, WAITING = "running", "starting", "queued", "waiting"
NOT_RUN = "not run"  # the launcher is gone


@dataclass(frozen=True)
class Running:
    """A cell at work; ``beat`` is None before its first second is over."""

    cell: str
    holder: leases.Holder
    beat: pulse.Beat | None


@dataclass
class Snapshot:
    """A sweep at one moment. Times in seconds; ``launcher`` runs it, None if none does (any more)."""

    id: str
    command: str
    total: int
    started: float
    ended: float | None
    launcher: leases.Holder | None
    counts: Counter[str] = field(default_factory=Counter)
    running: list[Running] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    time: float = field(default_factory=time.time)

    @property
    def settled(self) -> int:
        return sum(self.counts[state] for state in errors.STATES)

    @property
    def left(self) -> float | None:
        """Seconds to expect, by the pace of the cells that have ended since the start."""
        fresh = self.settled - self.counts[errors.NOT_APPLICABLE]
        if self.ended is not None or not fresh or self.launcher is None:
            return None
        open_ones = self.total - self.settled
        return (self.time - self.started) / fresh * open_ones


def of_sweep(output_dir: Path, name: str | None) -> Snapshot:
    """A sweep by its id or the beginning of it, the latest without. Raises Refused if it is not there, or broken."""
    folder = find_manifest(output_dir, name).parent
    return snapshot(load_manifest(folder), output_dir, leases.holder(folder))


def snapshot(content: Mapping[str, Any], output_dir: Path, launcher: leases.Holder | None) -> Snapshot:
    """From a manifest's content; only cells without an end are looked at on disk."""
    words = content.get("command") or []
    found = Snapshot(
        id=str(content["id"]),
        command=words if isinstance(words, str) else " ".join(map(str, words)),
        total=len(content["cells"]) + len(content.get("not_applicable") or []),
        started=content["started"],
        ended=content.get("ended"),
        launcher=launcher,
    )
    found.counts[errors.NOT_APPLICABLE] += len(content.get("not_applicable") or [])
    for entry in list(content["cells"]):
        state = entry.get("state") or _open_state(entry, output_dir / entry["folder"], found)
        found.counts[state] += 1
        if state in (errors.FAILED, errors.UNAVAILABLE):
            found.failures.append((str(entry["cell"]), str(entry.get("why") or state)))
    found.counts += Counter()  # drops zeros
    return found


def _open_state(entry: Mapping[str, Any], folder: Path, found: Snapshot) -> str:
    """What a cell is doing whose end the manifest does not know."""
    holder = leases.holder(folder)
    if holder is not None:
        found.running.append(Running(str(entry["cell"]), holder, pulse.read(folder)))
        return RUNNING
    if found.launcher is None:  # it cannot write down what became of the cell
        record = readable(folder)
        if record is not None and record.started >= found.started:
            return record.state
        if found.ended is not None:
            return errors.INTERRUPTED
        return QUEUED if slurm_job(entry) else NOT_RUN
    if not entry.get("begun"):
        return WAITING
    return QUEUED if slurm_job(entry) else STARTING


def slurm_job(entry: Mapping[str, Any]) -> str | None:
    """The Slurm job of a cell, of 123_4.5 the job that it shares; None for one of this machine, whose job is 123-4."""
    found = re.fullmatch(r"(\d+(_\d+)?)(\.\d+)?", str(entry.get("job") or ""))
    return found[1] if found else None


def is_packed(entry: Mapping[str, Any]) -> bool:
    """Whether a cell shares its Slurm job with others."""
    return slurm_job(entry) not in (None, str(entry.get("job")))
