"""Jobs on a Slurm cluster: one array for each kind of request, watched by result file and by Slurm's own states."""

import contextlib
import io
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from fourfold.errors import Unavailable
from fourfold.launch import packs, partitions, scheduler
from fourfold.launch.arrays import arrays, cells_together, grouped, packed, parameters_of
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
from fourfold.launch.requeue import deaf_python
from fourfold.launch.stop import Stop

RESULT_POLL = 0.25  # seconds between two looks for result files
STATE_POLL = 3.0  # seconds between two questions to Slurm, growing to STATE_POLL_MOST
STATE_POLL_MOST = 15.0
FILE_GRACE = 5.0  # seconds that a result may take to appear through a shared file system after the job has died
COMPLETED_GRACE = 60.0  # the same after Slurm says that all went well: then there is a result somewhere
UNSEEN_GRACE = 30.0  # seconds that a submitted job may be unknown to squeue

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
# What sbatch says when it is not heard.
UNREACHED = re.compile(
    "unable to contact slurm controller|socket timed out|zero bytes were transmitted|connection (refused|failure)|"
    "could not establish a configuration source|transport endpoint|slurm backup controller in standby",
    re.IGNORECASE,
)
# sbatch options with which a site may ask for something that its partitions do not tell.
OWN_WORDS = ("partition", "gres", "constraint", "reservation", "clusters", "nodelist", "gpus", "mem")


@dataclass
class _Submitted:
    """A Slurm job and its cells: one, or those of a pack. ``folder`` is submitit's, with %j for the job."""

    jobs: list[Job]
    handle: "submitit.Job[Any]"
    folder: str
    state: str = "PENDING"
    requeued: int = 0  # how often it was queued again from here
    gone_since: float | None = None  # when it was first seen to have ended without a result

    def open_jobs(self) -> list[tuple[int, Job]]:
        return [(number, job) for number, job in enumerate(self.jobs) if job.ending is None]

    def identity(self, number: int) -> str:
        """What one of its cells is called among jobs."""
        whole: str = self.handle.job_id
        return whole if len(self.jobs) == 1 else packs.identity_of(whole, number)

    def place(self, number: int) -> Path:
        return Path(self.folder.replace("%j", self.identity(number)))


def run_slurm(jobs: Sequence[Job], site: dict[str, Any], stop: Stop) -> None:
    """Submits the jobs, one array for each kind of request, and waits until all have ended or the user wants to stop.

    ``site`` is the launcher's own configuration. A request that no partition offers, or that Slurm does not take, ends
    its own jobs as unavailable and no others. Before anything is submitted it raises Unavailable where there is no
    Slurm, Refused where a time limit makes no sense.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise Unavailable(
            "hydra/launcher=submitit_slurm: there is no Slurm here (no sbatch); hydra/launcher=submitit_local runs here"
        )
    there = partitions.kinds()
    groups = grouped(jobs, lambda job: parameters_of(job, site))
    submitted: list[_Submitted] = []
    try:
        for group in groups:
            why = not_offered(group[0], site, there)
            for job in group if why is not None else ():
                job.end(refused(str(why)))
        for group in groups:
            if group[0].ending is None:
                many = cells_together(group[0], site, partitions.longest(_asked(group[0], site), there))
                for array in arrays(packed(group, many)):
                    submitted += [] if stop else _submit(array, site)
        _watch(submitted, stop)
    finally:
        left = [one for one in submitted if one.open_jobs()]
        scheduler.cancel([one.handle.job_id for one in left])
    for one in left:
        for number, job in one.open_jobs():
            job.end(interrupted(one.identity(number), "interrupted; its Slurm job was cancelled"))


def not_offered(job: Job, site: Mapping[str, Any], there: Sequence[partitions.Kind]) -> str | None:
    """Why no partition takes the job's request, in one line; None if one does, or if that is for Slurm to say."""
    if any(key.replace("-", "_") in OWN_WORDS for key in site.get("additional_parameters") or {}):
        return None
    asked = _asked(job, site)
    names = {key: f"{'hardware' if job.request.get(key) else 'hydra'}.launcher.{key}" for key in asked}
    return partitions.lacking(asked, there, names)


def _asked(job: Job, site: Mapping[str, Any]) -> dict[str, Any]:
    """What decides which nodes can take a job."""
    return {key.removeprefix("slurm_"): value for key, value in parameters_of(job, site).items()}


def _submit(array: Sequence[list[Job]], site: dict[str, Any]) -> list[_Submitted]:
    """Submits packs of jobs (of one job each, as a rule) of the same request as one array."""
    folder = site["submitit_folder"]
    request = parameters_of(array[0][0], site)
    request["timeout_min"] *= max(map(len, array))
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_python=deaf_python())
    executor.update_parameters(**request)
    frozen = [jobs[0].frozen if len(jobs) == 1 else packs.pack(jobs, folder) for jobs in array]
    try:
        with _outside_of_a_job(), contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it then raises
            handles = executor.submit_array(frozen)
    except (FailedJobError, FailedSubmissionError) as error:
        what = _not_taken(str(error), request)
        for job in (job for jobs in array for job in jobs):
            job.end(refused(what))
        return []
    submitted = [_Submitted(jobs, handle, folder) for jobs, handle in zip(array, handles, strict=True)]
    for one in submitted:
        for number, job in enumerate(one.jobs):
            job.on_start(one.identity(number))
    return submitted


def _not_taken(said: str, request: Mapping[str, Any]) -> str:
    """Why sbatch failed, in one line: a controller that does not answer is no fault of the request."""
    words = (line.strip().removeprefix("sbatch: ").removeprefix("error: ") for line in said.splitlines())
    lines = list(dict.fromkeys(line for line in words if line)) or ["sbatch failed"]
    why = "; ".join(lines)
    if UNREACHED.search(why):
        return (
            f"Slurm's controller does not answer ({lines[-1]}); `scontrol ping` tells whether it is up, and "
            "rerun=missing then runs what was not run"
        )
    keys = ("slurm_gres", "slurm_constraint", "slurm_partition", "nodes", "mem_gb")
    shown = ", ".join(f"{key.removeprefix('slurm_')}={request[key]}" for key in keys if key in request)
    there = partitions.offered(partitions.kinds())
    return f"Slurm does not take this request ({shown}): {why}{f'; there is {there}' if there else ''}"


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
            _take_endings(one)
            if not one.open_jobs():
                waiting.remove(one)
        if waiting and time.monotonic() - asked >= interval:
            _look(submitted, begun)
            asked, interval = time.monotonic(), min(interval * 1.2, STATE_POLL_MOST)
        if waiting:
            time.sleep(RESULT_POLL)
    if submitted and not waiting:
        _withdraw(submitted, scheduler.job_states(one.handle.job_id for one in submitted) or {})


def _take_endings(one: _Submitted) -> None:
    """Ends the cells of which there is an ending, and all others where the job is over."""
    if len(one.jobs) > 1:
        for number, job in one.open_jobs():
            ending = packs.read_ending(one.place(number))
            if ending is not None:
                job.end(ending)
    whole = _result(one)
    if whole is None:
        return
    for number, job in one.open_jobs():
        job.end(whole if len(one.jobs) == 1 else _left_in_pack(one, number, whole))


def _left_in_pack(one: _Submitted, number: int, whole: Ending) -> Ending:
    """The ending of a cell whose allocation is over before it has ended; ``whole`` is that of the allocation."""
    identity = one.identity(number)
    if packs.has_begun(one.place(number)) and not whole.returned:
        return died(identity, whole.reason or LOST, whole.message or "its allocation is over", whole.log)
    why = f"Slurm job {one.handle.job_id} ended as {one.state} before the cell did" if whole.returned else whole.message
    return died(identity, LOST, f"not begun: {why}")


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
    state, identity = one.state.split(" ")[0], one.handle.job_id
    if state in REASONS:
        return died(identity, REASONS[state], f"Slurm job {identity} ended as {state}", log)
    if state == "VANISHED":
        return died(identity, LOST, f"Slurm no longer knows job {identity}", log)
    reason, _ = reason_of_exit(1, log)
    killed = reason == BUG and "Killed" in log
    what = f"Slurm job {identity} ended as {state} without a result"
    return died(identity, LOST if killed else reason, what, log)


def _look(submitted: Sequence[_Submitted], begun: float) -> None:
    """Asks Slurm for the state of the jobs, and notes when one was first seen to have ended."""
    states = scheduler.job_states(one.handle.job_id for one in submitted)
    if states is None:
        return
    now = time.monotonic()
    for one in submitted:
        if not one.open_jobs():
            continue
        state = states.get(one.handle.job_id)
        if state is None:
            if now - begun < UNSEEN_GRACE:
                continue
            state = scheduler.accounted_state(one.handle.job_id) or "VANISHED"
        limit = max(job.requeues for job in one.jobs)
        if state == "PREEMPTED" and one.requeued < limit and scheduler.requeue(one.handle.job_id):
            one.requeued, state = one.requeued + 1, "PENDING"  # a partition that cancels what it preempts
        one.state = state
        one.gone_since = None if scheduler.is_alive(state) else one.gone_since or now
    _withdraw(submitted, states)


def _withdraw(submitted: Sequence[_Submitted], states: Mapping[str, str]) -> None:
    """Takes jobs out of the queue whose cells have ended: Slurm queues again what ran on a node that failed later."""
    ended = [one.handle.job_id for one in submitted if not one.open_jobs()]
    scheduler.withdraw([job for job in ended if states.get(job) in ("PENDING", "REQUEUED", "REQUEUE_HOLD")])
