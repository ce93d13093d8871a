"""Peak memory, by the device's allocator and by the operating system."""

import resource
import sys

import torch


def reset(device: torch.device) -> None:
    """Starts a new peak on the device."""
    if device.type != "cpu":
        torch.get_device_module(device.type).reset_peak_memory_stats()


def peaks(device: torch.device) -> dict[str, int | None]:
    """Bytes: device_peak as the allocator saw it (null on a CPU), host_peak of this process."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    allocated = None if device.type == "cpu" else torch.get_device_module(device.type).max_memory_allocated()
    return {"device_peak": allocated, "host_peak": host * (1 if sys.platform == "darwin" else 1024)}
