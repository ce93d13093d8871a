"""Marks in time that cost next to nothing when taken, and are turned into durations after the loop."""

import time
from collections import deque
from typing import Any

import numpy as np
import torch

# Nothing runs behind the host's back there: its own clock tells.
HOST_TIMED = ("cpu", "meta")
# Events held before those that the device has passed become numbers. They are not waited for.
HELD = 4096


class Clock:
    """Device events where the device has them, else the host's clock. Marks are never waited for in the loop."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: list[float] = []
        self._events: deque[Any] = deque()  # not yet resolved; the first one is the last that was
        if device.type in HOST_TIMED:
            self.mark = self._mark_host
        else:
            self._module = torch.get_device_module(device.type)
            self.mark = self._mark_device

    def _mark_host(self) -> int:
        self._seconds.append(time.perf_counter())
        return len(self._seconds) - 1

    def _mark_device(self) -> int:
        event = self._module.Event(enable_timing=True)
        event.record()
        if not self._seconds:
            self._seconds.append(0.0)
        self._events.append(event)
        if len(self._events) > HELD:
            self._pass(wait=False)
        return len(self) - 1

    def _pass(self, wait: bool) -> None:
        """Turns events into seconds, each from the one before: an event's own scale is too coarse over hours."""
        while len(self._events) > 1 and (wait or self._events[1].query()):
            before = self._events.popleft()
            self._seconds.append(self._seconds[-1] + before.elapsed_time(self._events[0]) / 1e3)

    def __len__(self) -> int:
        return len(self._seconds) + max(0, len(self._events) - 1)

    def resolve(self) -> np.ndarray:
        """Seconds of each mark after the first; waits for the device. Call it outside the loop."""
        if self._events:
            self._module.synchronize()
            self._pass(wait=True)
        seconds = np.asarray(self._seconds)
        return seconds - seconds[0] if len(seconds) else seconds
