"""Several short cells in one allocation, one after the other, each a process of its own as on this machine.

What a cell leaves in submitit's folder lies under the allocation's job with a number behind it (7_3.0, 7_3.1, ...): its
log, and how it ended. An allocation that starts once more, because Slurm took its node, goes on with the first cell
that has no ending.
"""

import json
import os
import pickle
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from fourfold.launch import forkserver, leases
from fourfold.launch.cancelling import Cancellation
from fourfold.launch.ending import Ending, interrupted, readable, signature
from fourfold.launch.jobs import FrozenJob, Job
from fourfold.launch.local import modules_of, schedule
from fourfold.launch.processes import Process, Request, Warm, start_cold
from fourfold.launch.requeue import another_time, queue_again, restarts, wait_for_the_end
from fourfold.stopping import DEFERRED, PREEMPTED

ENDING_FILE, BEGUN_FILE = "ending.pkl", "begun.json"


@dataclass(frozen=True)
class Member:
    """One cell of a pack: what its process there needs. ``requeues``: how often Slurm may take the node from it."""

    frozen: FrozenJob
    timeout: float | None
    requeues: int
    modules: tuple[str, ...]


def identity_of(job: str, number: int) -> str:
    """What a pack's cell is called among jobs."""
    return f"{job}.{number}"


def read_ending(folder: Path) -> Ending | None:
    """How a cell of a pack ended; None while it has not. ``folder`` is submitit's."""
    try:
        found = pickle.loads((folder / ENDING_FILE).read_bytes())
    except (OSError, EOFError):
        return None
    assert isinstance(found, Ending)
    return found


def has_begun(folder: Path) -> bool:
    return (folder / BEGUN_FILE).exists()


@dataclass
class Pack:
    """What is pickled for an allocation of several cells. ``folder`` is submitit's, with %j for the job."""

    members: list[Member]
    folder: str

    def __call__(self) -> None:
        """Runs the cells that have not ended. Where Slurm gives notice, the rest is queued again with all."""
        notice = Notice()
        jobs = [Job(member.frozen, modules=member.modules) for member in self.members]
        log = Path(self.folder.replace("%j", f"{leases.rank_group()}.forkserver.log"))
        warm = Warm(modules_of(jobs), log) if forkserver.possible() else None
        try:
            for number in range(len(self.members)):
                if not notice.heard and read_ending(self.place(number)) is None:
                    self.run(number, notice, warm)
        finally:
            if warm is not None:
                warm.close()
        if any(read_ending(self.place(number)) is None for number in range(len(self.members))):
            refused = queue_again()
            if refused is not None:
                raise RuntimeError(f"Slurm takes the node back, and does not queue the rest again ({refused})")
            wait_for_the_end()

    def place(self, number: int) -> Path:
        return Path(self.folder.replace("%j", identity_of(str(leases.rank_group()), number)))

    def run(self, number: int, notice: "Notice", warm: Warm | None) -> None:
        """One cell. It has no ending after that if Slurm takes the node from it, and may be queued again."""
        member, place = self.members[number], self.place(number)
        folder = member.frozen.folder
        assert folder is not None
        place.mkdir(parents=True, exist_ok=True)
        asked = Cancellation(Path(member.frozen.config.hydra.sweep.dir), folder.name)
        if asked:
            self.end(number, interrupted(place.name, "cancelled by the user"))
            return
        before, restarted = signature(folder), _begin(place)
        job = Job(member.frozen, timeout=member.timeout, identity=place.name)
        schedule([job], self.folder, asked, notice.passed_on_to(warm.start if warm else start_cold))
        found = readable(folder) if signature(folder) != before else None
        if found is not None and found.reason == PREEMPTED:
            notice.heard = True  # on some clusters only the cell hears it
            if another_time(found, folder, restarts() - restarted, member.requeues):
                return
        self.end(number, job.ending or interrupted(place.name))

    def end(self, number: int, ending: Ending) -> None:
        """Leaves a cell's ending for the launcher."""
        path = self.place(number) / ENDING_FILE
        aside = path.with_suffix(".aside")
        aside.write_bytes(cloudpickle.dumps(ending))
        os.replace(aside, path)


def _begin(place: Path) -> int:
    """How often the allocation had been started again when this cell first began in it."""
    path = place / BEGUN_FILE
    with suppress(OSError, ValueError):
        return int(json.loads(path.read_text()))
    path.write_text(json.dumps(restarts()))
    return restarts()


class Notice:
    """Hears Slurm for the whole allocation, and passes on what it says: many clusters signal the first process only.

    A thread waits for the signals, which are blocked everywhere else; what is started meanwhile begins with them
    blocked, too, and lets them through when it is ready (``stopping.listening``).
    """

    def __init__(self) -> None:
        self.heard = False  # that the node is taken back
        self.processes: list[Process] = []
        signal.pthread_sigmask(signal.SIG_BLOCK, DEFERRED)
        signal.signal(signal.SIGINT, lambda *_: None)  # a person who means a cell asks by its mark
        threading.Thread(target=self._hear, daemon=True, name="notice").start()

    def _hear(self) -> None:
        while True:
            number = signal.sigwait(DEFERRED)
            self.heard = self.heard or number == signal.SIGUSR2
            for process in list(self.processes):
                process.signal(number)

    def passed_on_to(self, start: Any) -> Any:
        """The same way of starting a process, of which the signals reach the latest one."""

        def started(request: Request) -> Process:
            process: Process = start(request)
            self.processes = [process]
            if self.heard:
                process.signal(signal.SIGUSR2)
            return process

        return started


def pack(jobs: Sequence[Job], folder: str) -> Pack:
    """The allocation of these jobs."""
    members = [Member(job.frozen, job.timeout, job.requeues, tuple(job.modules)) for job in jobs]
    return Pack(members, folder)
