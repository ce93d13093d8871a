"""Ctrl-C, heard at a safe point instead of wherever the program happens to be."""

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Counts requests to stop while its block runs: at the first cells are asked to end, at the second ended."""

    def __init__(self) -> None:
        self.requests = 0
        self._previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.requests > 0

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._count)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.requests += 1
