"""Requests to stop, heard wherever the program is, and obeyed where nothing is lost by it.

A signal asks once. While the cell says that it will come to a checkpoint soon (``patient``), the request waits for
that; otherwise, or when asked again, or after ``GRACE`` seconds, it takes effect at once.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fourfold.errors import INTERRUPTED, Failed, FourfoldError

GRACE = 20.0  # seconds in which a cell must come to a place where it can write its checkpoint
STOPPED, PREEMPTED, TIMEOUT = "interrupted", "preempted", "timeout"
DEFERRED = (signal.SIGUSR2, signal.SIGTERM)  # Slurm's: blocked in its jobs while nobody is there to hear them


class Stopped(FourfoldError):
    """The cell was asked to end before it was done; ``reason`` is interrupted or preempted."""

    state = INTERRUPTED

    def __init__(self, message: str, reason: str = STOPPED) -> None:
        super().__init__(message)
        self.reason = reason


class Request:
    """Whether this process was asked to end its cell, and why; or, with ``hurry``, only to write a checkpoint now."""

    def __init__(self, limit: float = 0.0) -> None:
        self.limit = limit  # seconds that the cell may take
        self.reason: str | None = None
        self.hurry = False
        self.patient = False
        self._insists: threading.Timer | None = None

    def ask(self, reason: str) -> None:
        """Called by a signal. Raises what ``error`` gives where the request cannot wait."""
        if self.reason == reason == PREEMPTED:  # Slurm gives notice as often as it likes; only a person loses patience
            return
        again, self.reason, self.hurry = self.reason, self.reason or reason, True
        if again is not None or not self.patient:
            self.settle()
            raise self.error(self.reason)
        self._insists = threading.Timer(GRACE, os.kill, (os.getpid(), signal.SIGINT))
        self._insists.daemon = True
        self._insists.start()

    def settle(self) -> None:
        """No longer insists: the cell is where it wanted to come, or the request has taken effect."""
        if self._insists is not None:
            self._insists.cancel()
            self._insists = None

    def error(self, reason: str, where: str = "") -> BaseException:
        """The error that ends the cell for this reason; ``where`` is what there is to say besides."""
        if reason == TIMEOUT:
            return Failed(f"took longer than timeout={self.limit:g} s{where}; timeout= gives it longer", TIMEOUT)
        if reason == PREEMPTED:
            return Stopped(f"Slurm takes the node back{where}", PREEMPTED)
        return Stopped(f"ended by the user{where}") if where else KeyboardInterrupt()


request = Request()  # of the cell that this process runs


@contextmanager
def listening(seconds: float) -> Iterator[None]:
    """Within, signals and the end of ``seconds`` make requests; in a thread other than the main one nothing is heard.

    Ctrl-C, SIGTERM and SIGHUP: stop. SIGUSR2: Slurm's notice that the time limit or a preemption is near. In a Slurm
    job SIGTERM comes shortly before the end, whatever the cell does: it is time for a checkpoint and no more. Signals
    that were blocked until now (``DEFERRED``, from a job's first moment) are let through, with those that have come.
    """
    global request
    request = Request(seconds)
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    asked: dict[int, Callable[..., None]] = {
        signal.SIGINT: _asking(STOPPED),
        signal.SIGHUP: _asking(STOPPED),
        signal.SIGTERM: _hurrying if "SLURM_JOB_ID" in os.environ else _asking(STOPPED),
        signal.SIGUSR2: _asking(PREEMPTED),
        signal.SIGALRM: _asking(TIMEOUT),
    }
    heard = {number: handler for number, handler in asked.items() if signal.getsignal(number) is not signal.SIG_IGN}
    previous = {number: signal.signal(number, handler) for number, handler in heard.items()}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, DEFERRED)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.setitimer(signal.ITIMER_REAL, 0)
        request.settle()
        for number, handler in previous.items():
            signal.signal(number, handler)
        request = Request()  # the next cell of this process was asked for nothing


def _asking(reason: str) -> Callable[..., None]:
    def ask(*_: Any) -> None:
        request.ask(reason)

    return ask


def _hurrying(*_: Any) -> None:
    request.hurry = True
