"""What a cell does when Slurm takes its node back: it is queued again, and goes on from the checkpoint that it wrote.

Of the three who could do that, only this one does: Slurm's notice is blocked from a job's first moment (``DEAF``) until
the cell itself listens (``stopping.listening``), so that neither Python nor submitit's handler acts on it; Lightning's
belongs to its Trainer, which is not used. Where Slurm itself queues the job again (a node that failed, a preemption
whose grace was too short), nothing has to be done here: the same job starts once more.
"""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fourfold.errors import FAILED
from fourfold.launch.jobs import number_of_rank
from fourfold.launch.progress import warn
from fourfold.stopping import DEFERRED, PREEMPTED, TIMEOUT

if TYPE_CHECKING:
    from fourfold.record import Record

KILL_GRACE = 120.0  # seconds in which Slurm ends a job that it has queued again
OUT_OF_TIME = 90.0  # seconds before a job's end from which its notice is one of the time limit
TRIES, PAUSE = 3, 2.0  # of asking a controller that does not answer; seconds between two
# An interpreter that starts another one, to which Slurm's notice is not deadly before it knows what to do about it.
DEAF = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, %s); os.execv(sys.argv[1], sys.argv[1:])"


def deaf_python() -> str:
    """The words of a shell that start this interpreter with Slurm's signals blocked."""
    return shlex.join([sys.executable, "-ISc", DEAF % sorted(map(int, DEFERRED)), sys.executable])


def requeue_if_preempted(found: "Record", folder: Path, limit: int) -> None:
    """Queues this process's Slurm job again if its cell was preempted, and does not return; else returns.

    ``limit`` is how often that may happen. After that the record stays: interrupted, or failed if its time was up.
    A cell of a pack leaves that to the pack.
    """
    if found.reason != PREEMPTED or os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return
    if number_of_rank() != 0:
        if restarts() >= limit:
            return
        wait_for_the_end()
    if another_time(found, folder, restarts(), limit):
        refused = queue_again()
        if refused is None:
            wait_for_the_end()
        found.message = f"{found.message}, which Slurm did not take ({refused})"
        write(found, folder)


def restarts() -> int:
    """How often Slurm has queued this job again so far."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def another_time(found: "Record", folder: Path, times: int, limit: int) -> bool:
    """Whether a preempted cell, queued again ``times`` times, may be so once more; its record says which."""
    if times < limit:
        found.message = f"{found.message}; queued again ({times + 1} of {limit})"
    else:
        found.message = f"{found.message}; not queued again, after max_requeue={limit} times"
        end = float(os.environ.get("SLURM_JOB_END_TIME") or 0)
        if end and end - time.time() < OUT_OF_TIME:
            found.state, found.reason = FAILED, TIMEOUT
    write(found, folder)
    return times < limit


def wait_for_the_end() -> NoReturn:
    """Slurm ends a job that it has queued again."""
    time.sleep(KILL_GRACE)
    raise SystemExit(1)


def queue_again() -> str | None:
    """Asks Slurm to queue this job again; returns why it did not. None, too, where Slurm was quicker."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    why = ""
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE)
        status, why = _ask("scontrol", "requeue", job)
        if status == 0:
            return None
        status, state = _ask("squeue", "--noheader", "--format=%T", f"--jobs={job}")
        if status == 0 and state not in ("RUNNING", ""):  # COMPLETING: its grace is over, and Slurm is at it
            return None
    return why


def _ask(*command: str) -> tuple[int, str]:
    """(exit status, what was said in one line)."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, type(error).__name__
    return answer.returncode, " ".join((answer.stdout or answer.stderr).split())


def write(found: "Record", folder: Path) -> None:
    try:
        found.write(folder)
    except OSError as error:
        warn(f"{folder}: the record cannot be written: {error.strerror}")
