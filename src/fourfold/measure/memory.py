"""Peak memory: by the device's allocator, by the device itself, and by the operating system."""

import resource
import sys

import torch


def reset(device: torch.device) -> None:
    """Starts a new peak on the device."""
    if device.type != "cpu":
        torch.get_device_module(device.type).reset_peak_memory_stats()


def peaks(device: torch.device, watched: float | None = None) -> dict[str, int | None]:
    """Bytes, null where it is not told.

    allocated_peak: of tensors, by torch's allocator; reserved_peak: what that took from the device for them.
    device_peak: everything in use on the device, by its driver: the largest that the monitor ``watched``.
    host_peak: of this process.
    """
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    module = None if device.type == "cpu" else torch.get_device_module(device.type)
    return {
        "allocated_peak": None if module is None else module.max_memory_allocated(),
        "reserved_peak": getattr(module, "max_memory_reserved", lambda: None)(),
        "device_peak": None if watched is None else int(watched),
        "host_peak": host * (1 if sys.platform == "darwin" else 1024),
    }
