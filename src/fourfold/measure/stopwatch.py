"""What a cell's time goes to, one thing at a time."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Stopwatch:
    """Seconds of each thing. What begins within another stops its time until it is over."""

    def __init__(self, *names: str) -> None:
        self.seconds = dict.fromkeys(names, 0.0)
        self._on: str | None = None
        self._since = time.perf_counter()

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Within, time is spent on this."""
        before = self._turn(name)
        try:
            yield
        finally:
            self._turn(before)

    def read(self) -> dict[str, float]:
        """The seconds until now, of what is running too."""
        self._turn(self._on)
        return dict(self.seconds)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Adds those of an earlier part of the same work."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def _turn(self, name: str | None) -> str | None:
        now = time.perf_counter()
        if self._on is not None:
            self.seconds[self._on] = self.seconds.get(self._on, 0.0) + now - self._since
        before, self._on, self._since = self._on, name, now
        return before
