"""What a cell does when Slurm takes its node back: it is queued again, and goes on from the checkpoint that it wrote.

Of the three who could do that, only this one does: submitit's own handler is replaced while a cell runs
(``stopping.listening``), and Lightning's belongs to its Trainer, which is not used. Where Slurm itself queues the job
again (a node that failed, a preemption without notice), nothing has to be done here: the same job starts once more.
"""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.errors import FAILED
from fourfold.launch.jobs import number_of_rank
from fourfold.launch.progress import warn
from fourfold.stopping import PREEMPTED, TIMEOUT

if TYPE_CHECKING:
    from fourfold.record import Record

KILL_GRACE = 120.0  # seconds in which Slurm ends a job that it has queued again
OUT_OF_TIME = 90.0  # seconds before a job's end from which its notice is one of the time limit


def requeue_if_preempted(found: "Record", folder: Path, limit: int) -> None:
    """Queues this process's Slurm job again if its cell was preempted, and does not return; else returns.

    ``limit`` is how often that may happen. After that the record stays: interrupted, or failed if its time was up.
    """
    if found.reason != PREEMPTED or "SLURM_JOB_ID" not in os.environ:
        return
    times = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    first = number_of_rank() == 0
    if times >= limit:
        if first:
            _give_up(found, folder, limit)
        return
    if first:
        found.message = f"{found.message}; queued again ({times + 1} of {limit})"
        _write(found, folder)
        refused = _requeue()
        if refused is not None:
            found.message = f"{found.message}, which Slurm did not take ({refused})"
            _write(found, folder)
            return
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a second notice would be submitit's to act on
    time.sleep(KILL_GRACE)
    raise SystemExit(1)


def _give_up(found: "Record", folder: Path, limit: int) -> None:
    """Says what became of a cell that may not be queued again."""
    found.message = f"{found.message}; not queued again, after max_requeue={limit} times"
    end = float(os.environ.get("SLURM_JOB_END_TIME") or 0)
    if end and end - time.time() < OUT_OF_TIME:
        found.state, found.reason = FAILED, TIMEOUT
    _write(found, folder)


def _requeue() -> str | None:
    """Asks Slurm to queue this job again; returns why it did not."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        answer = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}"
    return None if answer.returncode == 0 else " ".join(answer.stderr.split())


def _write(found: "Record", folder: Path) -> None:
    try:
        found.write(folder)
    except OSError as error:
        warn(f"{folder}: the record cannot be written: {error.strerror}")
