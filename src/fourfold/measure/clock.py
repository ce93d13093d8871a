"""Marks in time that cost next to nothing when taken, and are turned into durations after the loop."""

import time

import numpy as np
import torch

# Nothing runs behind the host's back there: its own clock tells.
HOST_TIMED = ("cpu", "meta")


class Clock:
    """Device events where the device has them, else the host's clock. Marks are never waited for in the loop."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: list = []
        if device.type in HOST_TIMED:
            self.mark = self._mark_host
        else:
            self._stream = torch.get_device_module(device.type)
            self.mark = self._mark_device

    def _mark_host(self) -> int:
        self._marks.append(time.perf_counter())
        return len(self._marks) - 1

    def _mark_device(self) -> int:
        event = self._stream.Event(enable_timing=True)
        event.record()
        self._marks.append(event)
        return len(self._marks) - 1

    def __len__(self) -> int:
        return len(self._marks)

    def resolve(self) -> np.ndarray:
        """Seconds of each mark after the first; waits for the device. Call it outside the loop."""
        if not self._marks:
            return np.zeros(0)
        if self.device.type in HOST_TIMED:
            return np.asarray(self._marks) - self._marks[0]
        self._stream.synchronize()
        first = self._marks[0]
        return np.asarray([first.elapsed_time(mark) / 1e3 for mark in self._marks])
