"""What Slurm is asked and told by its own commands, with accounting or without."""

import subprocess
import time
from collections.abc import Iterable, Sequence

PATIENCE = 60.0  # seconds that a controller may take to answer
CANCELLED_AT_ONCE = 200  # jobs that one scancel names

# Of these a job may still come to run, or runs.
ALIVE = (
    "PENDING",
    "RUNNING",
    "SUSPENDED",
    "COMPLETING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "RESIZING",
    "STOPPED",
    "SIGNALING",
    "STAGE_OUT",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
)


def array_of(identity: str) -> str:
    """The array (or the job itself) that an element belongs to."""
    return identity.split("_")[0]


def is_alive(state: str) -> bool:
    return state.split(" ")[0] in ALIVE


def job_states(ids: Iterable[str]) -> dict[str, str] | None:
    """State of each job (and array element) that Slurm remembers, ended ones included; None if it does not answer."""
    arrays = ",".join(sorted({array_of(identity) for identity in ids}))
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--jobs={arrays}"]
    answer = _run(command)
    if answer is None:
        return None
    if answer.returncode != 0:
        return {} if "Invalid job id" in answer.stderr else None
    return dict(line.strip().split("|", 1) for line in answer.stdout.splitlines() if "|" in line)


def accounted_state(identity: str) -> str | None:
    """The state of one job in the accounting database; None where there is none, or no such job in it."""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=State", f"--jobs={identity}"]
    answer = _run(command)
    if answer is None or answer.returncode != 0:
        return None
    return answer.stdout.split("\n")[0].strip() or None


def requeue(identity: str) -> bool:
    """Whether Slurm queues this job, which has ended, again."""
    answer = _run(["scontrol", "requeue", identity])
    return answer is not None and answer.returncode == 0


def withdraw(ids: Sequence[str]) -> None:
    """Cancels these jobs and no others."""
    for at in range(0, len(ids), CANCELLED_AT_ONCE):
        _run(["scancel", *ids[at : at + CANCELLED_AT_ONCE]])


def cancel(ids: Sequence[str], patience: float = 20.0) -> None:
    """Cancels these jobs and no others; waits until they are gone, so that they write nothing later."""
    if not ids:
        return
    withdraw(ids)
    end = time.monotonic() + patience
    while time.monotonic() < end:
        states = job_states(ids) or {}
        if not any(is_alive(states.get(identity, "")) for identity in ids):
            return
        time.sleep(0.5)


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str] | None":
    """What a command answers; None where it cannot be run, or does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
