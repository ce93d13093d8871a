"""Who runs a cell: a lock on a file in its folder, held by the very process that runs it.

The operating system frees the lock when that process ends, however it ends: no expiry, no clock and no process number
decides whether a holder is alive. The file's content names the holder, for people to read. A lock is seen across
machines wherever the file system passes locks on: NFS 4, NFS 3 with its lock service, Lustre mounted with ``flock``.
Where locks stay on one machine, a holder of another machine that names a Slurm job is asked for at Slurm. On a file
system without any, cells run without a lease, and say so.
"""

import errno
import fcntl
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from fourfold.errors import INTERRUPTED
from fourfold.launch.ending import Elsewhere, readable, signature
from fourfold.launch.progress import warn

LEASE_FILE = ".lease"
PATIENCE = 1.0  # seconds of trying to take a lease: one who looks whether it is held holds it for a moment
RANK_PATIENCE = 60.0  # seconds that the other ranks wait for the first one to take it
WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class Holder:
    """A process that runs a cell or a sweep; ``job`` is its Slurm job, ``since`` seconds since the epoch."""

    host: str = "an unknown machine"
    pid: int = 0
    job: str | None = None
    since: float = 0.0

    def __str__(self) -> str:
        return f"{self.host}, {f'Slurm job {self.job}' if self.job and '-' not in self.job else f'process {self.pid}'}"


class Lease:
    """A lock that this process holds until it ends or ``release``s it; without a file where there are no locks."""

    def __init__(self, descriptor: int | None) -> None:
        self.descriptor = descriptor

    def release(self) -> None:
        if self.descriptor is not None:
            with suppress(OSError):
                os.ftruncate(self.descriptor, 0)
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)  # also for processes that were forked meanwhile
            os.close(self.descriptor)
            self.descriptor = None


def take(folder: Path, patience: float = PATIENCE) -> Lease | Holder:
    """The lease of a folder, or who holds it. Raises OSError if the folder cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LEASE_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _lock(descriptor, patience):
            return _close(descriptor, _named(folder))
        before = _named(folder)
        again = before.job == rank_group()  # queued again by Slurm, perhaps elsewhere
        if before.job and before.host != _here().host and not again and job_is_alive(before.job):
            # a lock that stays on one machine
            return _close(descriptor, before)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(_here())).encode(), 0)
        return Lease(descriptor)
    except OSError as error:
        os.close(descriptor)
        if error.errno not in WITHOUT_LOCKS:
            raise
        _say_without(str(folder.parent))
        return Lease(None)


def holder(folder: Path) -> Holder | None:
    """Who holds the lease of a folder at this moment."""
    try:
        descriptor = os.open(folder / LEASE_FILE, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _named(folder)
    except OSError:
        return None
    finally:
        os.close(descriptor)


@contextmanager
def alone(folder: Path, before: tuple[int, int] | None, first: bool = True) -> Iterator[Elsewhere | None]:
    """Within the block this process runs the cell of a folder, unless Elsewhere says that another does or has done.

    ``before`` is the signature of the record when the cell was planned: a record that came since, of a run that was
    not interrupted, is taken as it is. Of several ranks only the ``first`` holds the lease; the others follow it.
    """
    if not first:
        yield _follow(folder, before)
        return
    found = take(folder)
    if isinstance(found, Holder):
        yield Elsewhere(f"running elsewhere ({found})")
        return
    try:
        yield ended_since(folder, before)
    finally:
        found.release()


def ended_since(folder: Path, before: tuple[int, int] | None) -> Elsewhere | None:
    """Whether a run of the cell has ended since its record had that signature."""
    if signature(folder) == before:
        return None
    found = readable(folder)
    if found is None or found.ended is None or found.state == INTERRUPTED:
        return None
    return Elsewhere("run elsewhere")


def _follow(folder: Path, before: tuple[int, int] | None) -> Elsewhere | None:
    """What the first rank of this job, on whatever machine, has found."""
    mine = rank_group()
    end = time.monotonic() + RANK_PATIENCE
    while time.monotonic() < end:
        if (found := ended_since(folder, before)) is not None:
            return found
        if _named(folder).job == mine:
            return None
        time.sleep(0.05)
    return Elsewhere(f"running elsewhere ({_named(folder)})")


def rank_group() -> str | None:
    """What the ranks of one cell have in common: their Slurm job, or here the job of submitit."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID")


def job_is_alive(job: str) -> bool:
    """Whether Slurm still has a job that is to run or runs; False where there is no Slurm."""
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and bool(answer.stdout.strip())


def _lock(descriptor: int, patience: float) -> bool:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)


def _close(descriptor: int, found: Holder) -> Holder:
    os.close(descriptor)
    return found


def _here() -> Holder:
    return Holder(socket.gethostname(), os.getpid(), rank_group(), time.time())


def _named(folder: Path) -> Holder:
    try:
        return Holder(**json.loads((folder / LEASE_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return Holder()


@lru_cache(maxsize=8)
def _say_without(folder: str) -> None:
    warn(f"{folder}: a file system without locks; do not start what shares cells at the same time")
