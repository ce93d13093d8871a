"""Jobs as processes of this machine: a few at a time, each alone with its crash, its leak and its time limit."""

import itertools
import os
import re
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from submitit.core.utils import DelayedSubmission, JobPaths, pickle_load

from fourfold.launch import forkserver, slots
from fourfold.launch.ending import LOST, TIMEOUT, Ending, died, interrupted, read_log, reason_of_exit, refused
from fourfold.launch.jobs import Job, RankFailed
from fourfold.launch.processes import Process, Request, Warm, start_cold
from fourfold.launch.slots import Slot
from fourfold.launch.stop import Stop

POLL = 0.25  # seconds between two looks at the clock; the end of a process is told at once
POLL_BLIND = 0.02  # the same where the system does not tell
TIMEOUT_GRACE = 15.0  # seconds that a cell has after its time limit to write its own record
INTERRUPT_GRACE = 30.0  # seconds that a cell has after Ctrl-C: to come to a checkpoint (stopping.GRACE), to write it
RANK_GRACE = 5.0  # seconds that the other ranks have after one has failed

NO_LIMIT = 60 * 24 * 365  # minutes: the launcher keeps the time, not submitit

Start = Callable[[Request], Process]
NUMBERS = itertools.count(1)
# What an allocation around the launcher says of its own ranks, which ours are not.
OUTER_RANKS = ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_NAME")


def submit(
    job: Job, folder: str, start: Start, environment: dict[str, str], slot: Slot
) -> tuple[list[JobPaths], list[Process]]:
    """submitit's files of a job, and a process for each of its ranks.

    As submitit's local executor does it, but without its controller process: a rank is a process, in a session of its
    own. So Ctrl-C reaches the launcher alone, which passes it on; the exit status is the job's; and nothing but the
    job itself runs beside a measurement. Raises OSError, with nothing left running, where its files find no room.
    """
    identity = job.identity or f"{os.getpid()}-{next(NUMBERS)}"
    paths = [JobPaths(folder, identity, rank) for rank in range(job.ranks)]
    paths[0].folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        path.result_pickle.unlink(missing_ok=True)  # of an earlier time
    delayed = DelayedSubmission(job.frozen)
    delayed.set_timeout(NO_LIMIT, max_num_timeout=0)
    delayed.dump(paths[0].submitted_pickle)
    command = [sys.executable, "-u", "-m", "submitit.core._submit", str(paths[0].folder)]
    around = {key: value for key, value in os.environ.items() if job.ranks == 1 or key not in OUTER_RANKS}
    meeting = rendezvous(job.ranks)
    processes: list[Process] = []
    for rank, path in enumerate(paths):
        itself = {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_JOB_ID": identity,
            "SUBMITIT_LOCAL_NTASKS": str(job.ranks),
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_GLOBALID": str(rank),
            "SUBMITIT_LOCAL_LOCALID": str(rank),
            **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if meeting else {}),
        }
        given = {**around, **environment, **meeting, **itself}
        try:
            processes.append(start(Request(command, str(path.folder), given, path.stdout, path.stderr, slot.cores)))
        except OSError:
            for process in processes:
                process.kill()
            raise
    return paths, processes


def rendezvous(ranks: int) -> dict[str, str]:
    """Where the ranks of one cell meet: a port of this machine that is free now. Nothing for a single one."""
    if ranks == 1:
        return {}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "WORLD_SIZE": str(ranks),
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }


@dataclass
class _Running:
    job: Job
    paths: list[JobPaths]  # of each rank
    processes: list[Process]
    devices: list[str]
    kills_before: int
    slot: Slot = field(default_factory=lambda: Slot(0))
    need: int | None = None
    started: float = field(default_factory=time.monotonic)
    ended_by: str | None = None  # timeout | interrupted: why the launcher ended it
    asked: float | None = None  # when it was asked to end
    broken: tuple[int, float] | None = None  # the rank that failed first, and when

    def held(self) -> int:
        return sum(slots.held(process.pid) for process in self.processes)


def run_local(jobs: Sequence[Job], folder: str, stop: Stop, warm: bool = False) -> None:
    """Runs the jobs, in order, as many at once as they say; returns when all have ended or the user wants to stop.

    ``folder`` is submitit's, with %j for the job. ``warm``: processes are forked from one that has imported what they
    need, where the system can do that and there are several. Jobs that were not started have no ending.
    """
    log = Path(folder.replace("%j", "forkserver.log"))
    forks = Warm(modules_of(jobs), log) if warm and len(jobs) > 1 and forkserver.possible() else None
    try:
        schedule(list(jobs), folder, stop, forks.start if forks else start_cold)
    finally:
        if forks is not None:
            forks.close()


def modules_of(jobs: Sequence[Job]) -> list[str]:
    """What the jobs' processes will import, each once."""
    return list(dict.fromkeys(["submitit.core.submission", *(name for job in jobs for name in job.modules)]))


def schedule(waiting: list[Job], folder: str, stop: Stop, start: Start) -> None:
    """Runs the jobs as ``run_local`` does, each process started by ``start``."""
    count = waiting[0].slots if waiting else 1
    places, running = slots.make_slots(count), list[_Running]()
    free = slots.visible_devices() if count > 1 else []
    many, needs, told = len(free), dict[int, int | None](), set[int]()
    try:
        while running or (waiting and not stop):
            while waiting and places and not stop:
                job = waiting[0]
                if _devices(job, many) > len(free):
                    break
                if id(job) not in needs:
                    needs[id(job)] = job.memory() if count > 1 else None
                short = slots.short_of_memory(needs[id(job)], [(one.need, one.held()) for one in running])
                if short:
                    if id(job) not in told:
                        job.on_wait(short)
                    told.add(id(job))
                    break
                mine = [free.pop(0) for _ in range(_devices(job, many))]
                try:
                    running.append(_start(job, folder, mine, places[0], start, needs[id(job)]))
                    places.pop(0)
                except OSError as error:  # a full disk: this cell has no place, others and their records stay
                    free[:] = sorted({*free, *mine}, key=slots.device_order)
                    job.end(refused(f"cannot be started: {error.strerror or error}"))
                waiting.pop(0)
            ended = [one for one in running if not _goes_on(one, stop)]
            for one in ended:
                running.remove(one)
                free[:] = sorted({*free, *one.devices}, key=slots.device_order)
                places[:] = sorted([*places, one.slot], key=lambda slot: slot.number)
                one.job.end(_ending(one))
                needs.clear()  # its record may tell what cells like it need
            if not ended:
                _sleep(running)
    finally:
        for one in running:  # an error of ours: leave nothing behind
            _kill(one)


def _goes_on(one: _Running, stop: Stop) -> bool:
    _press(one, stop)
    return not _has_ended(one)


def _sleep(running: Sequence[_Running]) -> None:
    """Until a process ends, or it is time to look at the clock."""
    handles = [process.fileno() for one in running for process in one.processes if process.returncode is None]
    seen = [handle for handle in handles if handle is not None]
    if len(seen) < len(handles):
        time.sleep(POLL_BLIND)
    elif seen:
        select.select(seen, [], [], POLL)


def _devices(job: Job, many: int) -> int:
    """How many devices are kept for a job: none where it asks for more than there are, which it will say itself."""
    return job.devices if job.devices <= many else 0


def _start(job: Job, folder: str, devices: list[str], slot: Slot, start: Start, need: int | None) -> _Running:
    names = ("CUDA_VISIBLE_DEVICES",) if Path("/dev/nvidiactl").exists() else ("ROCR_VISIBLE_DEVICES",)
    chosen = dict.fromkeys(names, ",".join(devices)) if devices else {}
    kills = _kernel_kills()
    job.on_start(None)
    paths, processes = submit(job, folder, start, {**slot.environment(), **chosen}, slot)
    return _Running(job, paths, processes, devices, kills, slot, need)


def _press(one: _Running, stop: Stop) -> None:
    """Asks a job to end, then ends it: at its time limit, when the user wants to stop, and when a rank has failed."""
    now = time.monotonic()
    limit = one.job.timeout
    if one.ended_by is None and limit is not None and now - one.started > limit + TIMEOUT_GRACE:
        one.ended_by = TIMEOUT
        _kill(one)
    if stop and one.asked is None:
        one.asked, one.ended_by = now, one.ended_by or "interrupted"
        for process in one.processes:
            process.signal(signal.SIGINT)
    if one.asked is not None and (stop.requests > 1 or now - one.asked > INTERRUPT_GRACE):
        _kill(one)
    if one.broken is not None and now - one.broken[1] > RANK_GRACE:
        _kill(one)


def _has_ended(one: _Running) -> bool:
    """Whether all its ranks have; notes the first that failed."""
    left = False
    for rank, process in enumerate(one.processes):
        known = process.returncode is not None
        if not process.has_ended():
            left = True
        elif not known and process.returncode != 0 and one.broken is None:
            one.broken = (rank, time.monotonic())
    return not left


def _kill(one: _Running) -> None:
    for process in one.processes:
        process.kill()


def _ending(one: _Running) -> Ending:
    """That of the rank that failed first, else of the first rank."""
    rank = one.broken[0] if one.broken else 0
    paths, status = one.paths[rank], one.processes[rank].returncode
    identity = str(paths.job_id)
    log = read_log(paths.stderr, paths.stdout)
    if paths.result_pickle.exists():
        return replace(outcome(identity, paths), log=log, rank=rank)
    if one.ended_by == "interrupted":
        return interrupted(identity)
    if one.ended_by == TIMEOUT:
        return died(identity, TIMEOUT, f"took longer than timeout={one.job.timeout:g} s and was ended", log)
    assert status is not None
    reason, what = reason_of_exit(status, log, out_of_memory=_kernel_kills() > one.kills_before)
    what = what if len(one.processes) == 1 else f"rank {rank}: {what}"
    return replace(died(identity, reason, what, log), rank=rank)


def outcome(identity: str, paths: JobPaths) -> Ending:
    """The ending of a job that left submitit's result file: what it returned, or the error that it raised."""
    try:
        kind, value = pickle_load(paths.result_pickle)
    except Exception as error:
        return died(identity, LOST, f"the job's result cannot be read ({type(error).__name__})")
    if kind == "success":  # what it printed stays
        for path in (paths.result_pickle, paths.submitted_pickle):
            path.unlink(missing_ok=True)
        return Ending(identity, result=value)
    last = (value.strip().splitlines() or ["unknown error"])[-1]
    told = re.match(rf"[\w.]*{RankFailed.__name__}: \[([a-z ]+)\] (.*)", last)
    reason, what = (told[1], told[2]) if told else (reason_of_exit(1, last)[0], last)
    return replace(died(identity, reason, what, value), traceback=value)


def _kernel_kills() -> int:
    """How many processes the kernel has ended for want of memory, here and in our own control group."""
    total = 0
    for path in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total
