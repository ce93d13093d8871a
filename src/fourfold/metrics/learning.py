"""What the loss did, and what the run took."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# A single step's loss is mostly noise: both ends are means over this many steps, or a quarter of a short run.
WINDOW = 10


def first_loss(loss: ArrayLike) -> float | None:
    """The mean loss of the first 10 steps (of the first quarter if that is less); None without losses."""
    finite = _finite(loss)
    return float(finite[: _window(finite)].mean()) if finite.size else None


def last_loss(loss: ArrayLike) -> float | None:
    """The mean loss of the last 10 steps (of the last quarter if that is less); None without losses."""
    finite = _finite(loss)
    return float(finite[-_window(finite) :].mean()) if finite.size else None


def costs(measurements: Mapping[str, Any]) -> dict[str, float | None]:
    """Wall seconds of each part and in all, CPU seconds, peak memory in bytes, steps, units of work, parameters.

    kept_bytes: what the method holds besides network and optimizer: memories, older networks, importances.
    """
    seconds = measurements.get("seconds") or {}
    memory = measurements.get("memory") or {}
    held = measurements.get("bytes") or {}
    parts = {f"{part}_seconds": value for part, value in seconds.items()}
    return {
        **parts,
        "cpu_seconds": measurements.get("cpu_seconds"),
        "allocated_peak_bytes": memory.get("allocated_peak"),
        "reserved_peak_bytes": memory.get("reserved_peak"),
        "device_peak_bytes": memory.get("device_peak"),
        "host_peak_bytes": memory.get("host_peak"),
        "steps": measurements.get("steps"),
        "units": measurements.get("units"),
        "parameters": measurements.get("parameters"),
        "parameter_bytes": held.get("parameters"),
        "kept_bytes": held.get("kept"),
    }


def device_seconds(step_seconds: ArrayLike, devices: int) -> float | None:
    """Seconds of all steps by the device's clock, times the devices that they kept busy; None without steps."""
    known = _finite(step_seconds)
    return float(known.sum()) * devices if known.size else None


def overall_units_per_second(measurements: Mapping[str, Any]) -> float | None:
    """All units of work over all seconds of learning, warm-up included; None if either is absent."""
    units = measurements.get("units")
    seconds = (measurements.get("seconds") or {}).get("learn")
    return float(units) / float(seconds) if units and seconds else None


def _finite(loss: ArrayLike) -> np.ndarray:
    values = np.asarray(loss, dtype=np.float64)
    return values[np.isfinite(values)]


def _window(values: np.ndarray) -> int:
    return max(1, min(WINDOW, len(values) // 4))
