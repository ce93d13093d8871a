"""Jobs as processes of this machine: a few at a time, each alone with its crash, its leak and its time limit."""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import submitit
from submitit.core.utils import JobPaths, pickle_load
from submitit.local.local import LocalJob

from fourfold.launch.ending import LOST, TIMEOUT, Ending, died, interrupted, read_log, reason_of_exit
from fourfold.launch.jobs import Job
from fourfold.launch.stop import Stop

POLL = 0.05  # seconds between two looks at the processes
TIMEOUT_GRACE = 15.0  # seconds that a cell has after its time limit to write its own record
INTERRUPT_GRACE = 10.0  # seconds that a cell has after Ctrl-C


class ProcessExecutor(submitit.LocalExecutor):
    """submitit's local executor without its controller process: the job is the process, in a session of its own.

    So Ctrl-C reaches the launcher alone, which passes it on; the exit status is the job's; and nothing
    but the job itself runs beside a measurement.
    """

    number: ClassVar[int] = 0

    def __init__(self, folder: str | Path, environment: dict[str, str]) -> None:
        super().__init__(folder)
        self.environment = environment
        self._throttling = 0.0

    def _submit_command(self, command: str) -> LocalJob[Any]:
        ProcessExecutor.number += 1
        identity = f"{os.getpid()}-{ProcessExecutor.number}"
        paths = JobPaths(self.folder, identity, 0)
        paths.stdout.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_JOB_ID": identity,
            "SUBMITIT_LOCAL_NTASKS": "1",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_GLOBALID": "0",
            "SUBMITIT_LOCAL_LOCALID": "0",
            **self.environment,
        }
        with paths.stdout.open("ab") as out, paths.stderr.open("ab") as err:
            process = subprocess.Popen(
                shlex.split(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
            )
        return LocalJob(self.folder, identity, tasks=[0], process=process)


@dataclass
class _Running:
    job: Job
    handle: LocalJob[Any]
    process: "subprocess.Popen[bytes]"
    devices: list[str]
    kills_before: int
    started: float = field(default_factory=time.monotonic)
    ended_by: str | None = None  # timeout | interrupted: why the launcher ended it
    asked: float | None = None  # when it was asked to end


def run_local(jobs: Sequence[Job], folder: str, slots: int, stop: Stop) -> None:
    """Runs the jobs, at most ``slots`` at once, in order; returns when all have ended or the user wants to stop.

    ``folder`` is submitit's, with %j for the job. Jobs that were not started have no ending.
    """
    waiting, running = list(jobs), list[_Running]()
    free = visible_devices() if slots > 1 else []
    many = len(free)
    try:
        while running or (waiting and not stop):
            while waiting and not stop and len(running) < slots and _fits(waiting[0], free, many):
                job = waiting.pop(0)
                mine = [free.pop(0) for _ in range(_devices(job, many))]
                running.append(_start(job, folder, mine))
            for one in list(running):
                _press(one, stop)
                if _has_ended(one.process):
                    running.remove(one)
                    free[:] = sorted({*free, *one.devices}, key=_device_order)
                    one.job.end(_ending(one))
            time.sleep(POLL)
    finally:
        for one in running:  # an error of ours: leave nothing behind
            _kill(one.process)


def visible_devices() -> list[str]:
    """The accelerators of this machine that this process may use, without importing torch; empty if none are found."""
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        if name in os.environ:
            return [word.strip() for word in os.environ[name].split(",") if word.strip()]
    nvidia = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    if nvidia:
        return sorted((name for name in nvidia if name.isdigit()), key=_device_order)
    nodes = Path("/sys/class/kfd/kfd/topology/nodes").glob("*/properties")
    amd = [path for path in nodes if "simd_count 0\n" not in path.read_text()]
    return [str(index) for index in range(len(amd))]


def _device_order(name: str) -> tuple[int, str]:
    return (int(name), name) if name.isdigit() else (1 << 30, name)


def _devices(job: Job, many: int) -> int:
    """How many devices are kept for a job: none where it asks for more than there are, which it will say itself."""
    return job.devices if job.devices <= many else 0


def _fits(job: Job, free: Sequence[str], many: int) -> bool:
    return _devices(job, many) <= len(free)


def _start(job: Job, folder: str, devices: list[str]) -> _Running:
    chosen = ",".join(devices)
    names = ("CUDA_VISIBLE_DEVICES",) if Path("/dev/nvidiactl").exists() else ("ROCR_VISIBLE_DEVICES",)
    executor = ProcessExecutor(folder, dict.fromkeys(names, chosen) if devices else {})
    kills = _kernel_kills()
    job.on_start(None)
    handle = executor.submit(job.frozen)
    assert isinstance(handle, LocalJob)
    assert handle._process is not None
    return _Running(job, handle, handle._process, devices, kills)


def _press(one: _Running, stop: Stop) -> None:
    """Asks a process to end, then ends it: at its time limit, and when the user wants to stop."""
    now = time.monotonic()
    limit = one.job.timeout
    if one.ended_by is None and limit is not None and now - one.started > limit + TIMEOUT_GRACE:
        one.ended_by = TIMEOUT
        _kill(one.process)
    if stop and one.asked is None:
        one.asked, one.ended_by = now, one.ended_by or "interrupted"
        _signal(one.process.pid, signal.SIGINT)
    if one.asked is not None and (stop.requests > 1 or now - one.asked > INTERRUPT_GRACE):
        _kill(one.process)


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Whether it has; then the rest of its session is ended too, while the process still holds its number."""
    if process.returncode is not None:
        return True
    if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        return False
    _kill(process)
    process.wait()
    return True


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Ends the session of a process that we started and have not yet reaped."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _ending(one: _Running) -> Ending:
    paths, identity, status = one.handle.paths, one.handle.job_id, one.process.returncode
    if paths.result_pickle.exists():
        return outcome(identity, paths)
    if one.ended_by == "interrupted":
        return interrupted(identity)
    log = read_log(paths.stderr, paths.stdout)
    if one.ended_by == TIMEOUT:
        return died(identity, TIMEOUT, f"took longer than timeout={one.job.timeout:g} s and was ended", log)
    reason, what = reason_of_exit(status, log, out_of_memory=_kernel_kills() > one.kills_before)
    return died(identity, reason, what, log)


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
    reason, _ = reason_of_exit(1, last)
    return died(identity, reason, last, value)


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
