"""How the process of a job is started: forked from one that is warm, or as a fresh interpreter."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourfold.launch import forkserver
from fourfold.launch.progress import warn

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
START_SECONDS = 300.0  # that the warm process may take to import, or to fork
# Libraries that start threads when they are imported; the cells themselves set what they want.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


@dataclass(frozen=True)
class Request:
    """``command`` runs the submitit job of ``folder`` in a fresh interpreter; ``cores`` empty: all of them."""

    command: list[str]
    folder: str
    environment: dict[str, str]
    out: Path
    err: Path
    cores: tuple[int, ...] = ()


class Process:
    """A child of ours, the leader of a session of its own, that we have to wait for ourselves."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None

    def fileno(self) -> int | None:
        """Becomes readable when the process ends; None where the system has no such thing."""
        return self._handle

    def has_ended(self) -> bool:
        """Whether it has; then the rest of its session is ended too, while the process still holds its number."""
        if self.returncode is not None:
            return True
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        self.kill()
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        self._bury()
        return True

    def kill(self) -> None:
        """Ends its session."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _bury(self) -> None:
        """Waits for what it left behind, where that has become our child."""
        end = time.monotonic() + 0.5
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < end:
                if os.waitid(os.P_PGID, self.pid, os.WEXITED | os.WNOHANG) is None:
                    time.sleep(0.002)


def start_cold(request: Request) -> Process:
    """A fresh interpreter; it takes seconds to import what a cell needs."""
    with _cores(request.cores), request.out.open("ab") as out, request.err.open("ab") as err:
        process = subprocess.Popen(
            request.command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=request.environment,
            start_new_session=True,
        )
    process.returncode = 0  # it is ours to wait for, not Popen's
    return Process(process.pid)


@contextlib.contextmanager
def _cores(cores: Sequence[int]) -> Iterator[None]:
    """What is started within is bound to these cores."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass
class Warm:
    """The launcher's end of a fork server, which is started when it is first wanted, and again when it has died.

    ``modules`` are imported before the first fork. Where nothing can be forked, jobs start cold.
    """

    modules: Sequence[str]
    log: Path
    avoid: list[str] = field(default_factory=list)
    server: "subprocess.Popen[bytes] | None" = None
    control: socket.socket | None = None
    usable: bool = True

    def start(self, request: Request) -> Process:
        """The process of a job, forked if that can be."""
        for _ in range(3):
            if not self.usable:
                break
            found = self._ask(request)
            if "pid" in found:
                return Process(found["pid"])
            self.close()
            if "spoiled" in found:
                self._avoid(found)
            elif "error" in found:
                warn(f"a cell could not be forked ({found['error']}); it starts cold")
                break
        else:
            self._give_up("the warm process dies again and again")
        return start_cold(request)

    def _ask(self, request: Request) -> dict[str, Any]:
        """The server's answer; empty if it is dead."""
        try:
            if self.control is None:
                ready = self._start_server()
                if "ready" not in ready:
                    return ready
            assert self.control is not None
            asked = {
                "folder": request.folder,
                "environment": request.environment,
                "out": str(request.out),
                "err": str(request.err),
                "cores": request.cores,
                "cwd": os.getcwd(),
            }
            self.control.send(json.dumps(asked).encode())
            return self._answer()
        except OSError:
            return {}

    def _start_server(self) -> dict[str, Any]:
        become_subreaper(True)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(START_SECONDS)
        asked = json.dumps({"modules": list(self.modules), "avoid": self.avoid})
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, self.log.open("ab") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-u", "-m", forkserver.__name__, str(theirs.fileno()), asked],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **ONE_THREAD},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.control is not None
        words = self.control.recv(forkserver.MESSAGE)
        return json.loads(words) if words else {}

    def _avoid(self, found: dict[str, Any]) -> None:
        """Starts without the modules that spoiled it; without any, if it was those that every cell needs."""
        self.avoid += found["modules"]
        if not found["modules"]:
            self._give_up(found["spoiled"])

    def _give_up(self, why: str) -> None:
        self.usable = False
        warn(f"cells start cold: {why}; see {self.log}")

    def close(self) -> None:
        """Lets the server go; the cells that it has forked stay."""
        if self.control is not None:
            self.control.close()
            self.control = None
        if self.server is not None:
            try:
                self.server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
            self.server = None
            become_subreaper(False)


def become_subreaper(wanted: bool) -> None:
    """Processes whose parent ends, below this one, become its children (or no longer). Raises OSError if it cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(SUBREAPER, int(wanted), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
