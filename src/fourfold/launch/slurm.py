"""Jobs on a Slurm cluster: one array for each kind of request, watched by result file and by Slurm's own states."""

import contextlib
import io
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from fourfold.errors import Unavailable
from fourfold.launch.ending import (
    BUG,
    LOST,
    OUT_OF_MEMORY,
    TIMEOUT,
    Ending,
    died,
    interrupted,
    read_log,
    reason_of_exit,
    refused,
)
from fourfold.launch.jobs import Job
from fourfold.launch.local import outcome
from fourfold.launch.partitions import offered
from fourfold.launch.requeue import deaf_python
from fourfold.launch.stop import Stop

ARRAY_LIMIT = 1000  # Slurm's default MaxArraySize is 1001, and submitit does not look
RESULT_POLL = 0.25  # seconds between two looks for result files
STATE_POLL = 3.0  # seconds between two questions to Slurm, growing to STATE_POLL_MOST
STATE_POLL_MOST = 15.0
FILE_GRACE = 5.0  # seconds that a result may take to appear through a shared file system after the job has died
COMPLETED_GRACE = 60.0  # the same after Slurm says that all went well: then there is a result somewhere
UNSEEN_GRACE = 30.0  # seconds that a submitted job may be unknown to squeue

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
REASONS = {
    "OUT_OF_MEMORY": OUT_OF_MEMORY,
    "TIMEOUT": TIMEOUT,
    "DEADLINE": TIMEOUT,
    "NODE_FAIL": LOST,
    "BOOT_FAIL": LOST,
    "PREEMPTED": LOST,
    "REVOKED": LOST,
    "CANCELLED": LOST,
}


@dataclass
class _Submitted:
    job: Job
    handle: "submitit.Job[Any]"
    state: str = "PENDING"
    requeued: int = 0  # how often it was queued again from here
    gone_since: float | None = None  # when it was first seen to have ended without a result


def run_slurm(jobs: Sequence[Job], site: dict[str, Any], stop: Stop) -> None:
    """Submits the jobs, one array for each kind of request, and waits until all have ended or the user wants to stop.

    ``site`` is the launcher's own configuration. A request that Slurm does not take ends its own jobs as
    unavailable and no others. Raises Unavailable, before anything is submitted, where there is no Slurm.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise Unavailable(
            "hydra/launcher=submitit_slurm: there is no Slurm here (no sbatch); hydra/launcher=submitit_local runs here"
        )
    submitted: list[_Submitted] = []
    try:
        for group in grouped(jobs, lambda job: parameters_of(job, site)):
            if not stop:
                submitted += _submit(group, site)
        _watch(submitted, stop)
    finally:
        _cancel([one for one in submitted if one.job.ending is None])
    for one in submitted:
        if one.job.ending is None:
            one.job.end(interrupted(one.handle.job_id, "interrupted; its Slurm job was cancelled"))


def grouped(jobs: Iterable[Job], key: Callable[[Job], Any]) -> list[list[Job]]:
    """Jobs of equal request together, in the order in which the requests first appear."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(repr(key(job)), []).append(job)
    return [group[at : at + ARRAY_LIMIT] for group in groups.values() for at in range(0, len(group), ARRAY_LIMIT)]


def parameters_of(job: Job, site: dict[str, Any]) -> dict[str, Any]:
    return slurm_parameters(job.request, site, job.timeout, requeue=job.requeues > 0)


def slurm_parameters(
    request: dict[str, Any], site: dict[str, Any], timeout: float | None = None, requeue: bool = True
) -> dict[str, Any]:
    """submitit's parameters for a cell's request; where it names none, the site's partition, account, qos, constraint.

    ``timeout`` (seconds) shortens the request's time limit, never lengthens it: the cell ends itself at its
    timeout, so Slurm's limit, and the signal that comes before it, lie beyond that. ``requeue``: whether Slurm may
    queue the job again, whatever the site's default is.
    """
    minutes = request.get("timeout_min", 60)
    delay = site.get("signal_delay_s", 60)
    if timeout is not None:
        minutes = min(minutes, -(-int(timeout + delay) // 60) + 1)
    cores = request.get("cpus_per_task")
    srun = list(site.get("srun_args") or [])
    if cores:  # from Slurm 22.05 on, srun does not take sbatch's word for it
        srun.append(f"--cpus-per-task={cores}")
    if request.get("nodes", 1) * request.get("tasks_per_node", 1) > 1:  # else the other ranks wait for a dead one
        srun.append("--kill-on-bad-exit=1")
    parameters = {
        "name": site.get("name", "fourfold"),
        "nodes": request.get("nodes", 1),
        "tasks_per_node": request.get("tasks_per_node", 1),
        "cpus_per_task": cores,
        "mem_gb": request.get("mem_gb"),
        "timeout_min": minutes,
        "slurm_gres": request.get("gres"),
        "slurm_setup": [*(site.get("setup") or []), *(request.get("setup") or [])] or None,
        "slurm_array_parallelism": site.get("array_parallelism", 256),
        "slurm_signal_delay_s": delay,
        "slurm_additional_parameters": {
            "requeue" if requeue else "no-requeue": True,
            **(site.get("additional_parameters") or {}),
        },
        "slurm_srun_args": srun or None,
    }
    for name in ("partition", "account", "qos", "constraint"):
        parameters[f"slurm_{name}"] = request.get(name) or site.get(name)
    return {key: value for key, value in parameters.items() if value is not None}


def _submit(group: Sequence[Job], site: dict[str, Any]) -> list[_Submitted]:
    request = parameters_of(group[0], site)
    executor = submitit.AutoExecutor(site["submitit_folder"], cluster="slurm", slurm_python=deaf_python())
    executor.update_parameters(**request)
    try:
        with _outside_of_a_job(), contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it then raises
            handles = executor.submit_array([job.frozen for job in group])
    except (FailedJobError, FailedSubmissionError) as error:
        said = " ".join(str(error).split()) or "sbatch failed"
        asked = {
            key.removeprefix("slurm_"): value
            for key, value in request.items()
            if key in ("slurm_gres", "slurm_constraint", "slurm_partition", "nodes", "mem_gb")
        }
        shown = ", ".join(f"{key}={value}" for key, value in asked.items())
        there = offered()
        what = f"Slurm does not take this request ({shown}): {said}{f'; there is {there}' if there else ''}"
        for job in group:
            job.end(refused(what))
        return []
    for job, handle in zip(group, handles, strict=True):
        job.on_start(handle.job_id)
    return [_Submitted(job, handle) for job, handle in zip(group, handles, strict=True)]


class _outside_of_a_job:
    """sbatch takes SLURM_* and SBATCH_* of a surrounding job for wishes of the new one; these are hidden from it."""

    HIDDEN = (
        "SLURM_JOB",
        "SLURM_NTASKS",
        "SLURM_NPROCS",
        "SLURM_CPUS",
        "SLURM_MEM",
        "SLURM_GPUS",
        "SLURM_TRES",
        "SLURM_NNODES",
        "SLURM_ARRAY",
    )

    def __enter__(self) -> None:
        self.kept = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith(self.HIDDEN)}

    def __exit__(self, *_: Any) -> None:
        os.environ.update(self.kept)


def _watch(submitted: Sequence[_Submitted], stop: Stop) -> None:
    interval, asked, begun = STATE_POLL, time.monotonic(), time.monotonic()
    waiting = list(submitted)
    while waiting and not stop:
        for one in list(waiting):
            ending = _result(one)
            if ending is not None:
                waiting.remove(one)
                one.job.end(ending)
        if waiting and time.monotonic() - asked >= interval:
            _look(waiting, begun)
            asked, interval = time.monotonic(), min(interval * 1.2, STATE_POLL_MOST)
        time.sleep(RESULT_POLL)


def _result(one: _Submitted) -> Ending | None:
    """The ending of a job whose result files are there, or that has been gone for long enough without."""
    handles = [one.handle.task(number) for number in range(one.handle.num_tasks)]
    there = [handle for handle in handles if handle.paths.result_pickle.exists()]
    if len(there) == len(handles):
        endings = [outcome(one.handle.job_id, handle.paths) for handle in handles]
        return next((ending for ending in endings if not ending.returned), endings[0])
    if one.gone_since is None:
        return None
    with contextlib.suppress(OSError):  # makes a network file system look again, as submitit does
        folder = handles[0].paths.folder
        folder.chmod(folder.stat().st_mode)
    if time.monotonic() - one.gone_since < (COMPLETED_GRACE if one.state == "COMPLETED" else FILE_GRACE):
        return None
    missing = next(handle for handle in handles if handle not in there)
    return _death(one, read_log(missing.paths.stderr, missing.paths.stdout, handles[0].paths.stderr))


def _death(one: _Submitted, log: str) -> Ending:
    state = one.state.split(" ")[0]
    if state in REASONS:
        return died(one.handle.job_id, REASONS[state], f"Slurm job {one.handle.job_id} ended as {state}", log)
    if state == "VANISHED":
        return died(one.handle.job_id, LOST, f"Slurm no longer knows job {one.handle.job_id}", log)
    reason, _ = reason_of_exit(1, log)
    killed = reason == BUG and "Killed" in log
    return died(
        one.handle.job_id,
        LOST if killed else reason,
        f"Slurm job {one.handle.job_id} ended as {state} without a result",
        log,
    )


def _look(waiting: Sequence[_Submitted], begun: float) -> None:
    """Asks Slurm for the state of the jobs, and notes when one was first seen to have ended."""
    states = job_states({one.handle.job_id.split("_")[0] for one in waiting})
    if states is None:
        return
    now = time.monotonic()
    for one in waiting:
        state = states.get(one.handle.job_id)
        if state is None:
            if now - begun < UNSEEN_GRACE:
                continue
            state = accounted_state(one.handle.job_id) or "VANISHED"
        if state == "PREEMPTED" and one.requeued < one.job.requeues and requeue(one.handle.job_id):
            one.requeued, state = one.requeued + 1, "PENDING"  # a partition that cancels what it preempts
        one.state = state
        ended = state.split(" ")[0] not in ALIVE
        one.gone_since = (one.gone_since or now) if ended else None


def job_states(ids: Iterable[str]) -> dict[str, str] | None:
    """State of each job (and array element) that Slurm remembers, ended ones included; None if it does not answer.

    It works without accounting.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", "--jobs=" + ",".join(sorted(ids))]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode != 0:
        return {} if "Invalid job id" in answer.stderr else None
    return dict(line.strip().split("|", 1) for line in answer.stdout.splitlines() if "|" in line)


def accounted_state(identity: str) -> str | None:
    """The state of one job in the accounting database; None where there is none, or no such job in it."""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=State", f"--jobs={identity}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.split("\n") if answer.returncode == 0 else [""]
    return lines[0].strip() or None


def requeue(identity: str) -> bool:
    """Whether Slurm queues this job, which has ended, again."""
    try:
        command = ["scontrol", "requeue", identity]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _cancel(submitted: Sequence[_Submitted]) -> None:
    """Cancels these jobs and no others; waits until they are gone, so that they write nothing later."""
    ids = [one.handle.job_id for one in submitted]
    if not ids:
        return
    for at in range(0, len(ids), 200):
        subprocess.run(["scancel", *ids[at : at + 200]], capture_output=True, check=False, timeout=60)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        states = job_states({identity.split("_")[0] for identity in ids}) or {}
        if not any(states.get(identity, "").split(" ")[0] in ALIVE for identity in ids):
            return
        time.sleep(0.5)
