"""A lock between processes of one machine or one shared file system, freed by the system when its holder dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fourfold.errors import FourfoldError


class TrackingError(FourfoldError):
    """The tracking store cannot be created, reached or written; the records are not affected."""

    reason = "tracking"


@contextmanager
def locked(path: Path, occupied: str, patience: float = 300.0) -> Iterator[None]:
    """Holds the lock of a file; waits up to ``patience`` seconds for it.

    Raises TrackingError with ``occupied`` as its message if it is not to be had, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise TrackingError(f"{path}: {error.strerror}") from error
    try:
        _wait(descriptor, path, occupied, patience)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, path: Path, occupied: str, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise TrackingError(f"{path}: {occupied} for {patience:g} s") from error
            time.sleep(0.05)
        except OSError as error:  # a file system without locks
            raise TrackingError(f"{path}: {error.strerror}") from error
