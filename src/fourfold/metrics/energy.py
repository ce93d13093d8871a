"""What a unit of work cost in energy, carbon and money, from what the monitor read beside the steps.

Energy is that of the cell's devices (the accelerators; on a CPU the processor's packages) over the steps alone: what
was drawn between them, in evaluation or before the start, is not counted. A device that tells no energy, or stopped
telling before the last step, leaves all of it unknown: a sum of some devices would be shown as that of all, and the
last value that was read as one that went on.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
JOULES_A_KILOWATT_HOUR = 3.6e6
GAP = 3  # looks in a row without a power: as many as the monitor notes as a failure


def energy_figures(
    measurements: Mapping[str, Any], prices: Mapping[str, Any], series: Mapping[str, ArrayLike], devices: int
) -> dict[str, float | None]:
    """joules_per_unit and what follows from it; use, clock, heat and throttling of the devices.

    The work is that of all copies of the cell, the time that of the first.
    prices: ``carbon`` (grams of CO2 a kilowatt-hour) and ``price`` (of an hour of a device), each or None.
    """
    seconds = np.asarray(series.get("step_seconds", ()), dtype=np.float64)
    units = np.asarray(series.get("step_units", ()), dtype=np.float64)
    seen = np.isfinite(np.asarray(series.get("step_ended", seconds), dtype=np.float64))  # not before an interruption
    others = sum(float(np.sum(series[name])) for name in series if re.fullmatch(r"copies\.\d+\.step_units", name))
    work, busy = float(units[seen].sum()) + others, float(seconds[seen].sum())
    found: dict[str, float | None] = {}
    if work and busy and prices.get("price") is not None:
        found["price_per_unit"] = float(prices["price"]) * devices * busy / 3600 / work
    monitor = measurements.get("monitor") or {}
    names = [name for name, kind in (monitor.get("sources") or {}).items() if kind == "device"]
    if not names or "monitor.seconds" not in series or "step_ended" not in series or not work or not busy:
        return found
    found |= _state_of_devices(names, series)
    joules = [_over_steps(name, series) for name in names]
    if len(names) < devices:
        return found
    known = [value for value in joules if value is not None]
    if len(known) < len(names):
        return found
    total = sum(known)
    found |= {"joules_per_unit": total / work, "power_watts": total / busy}
    idle: dict[str, float] = monitor.get("idle_watts") or {}
    if set(names) <= set(idle):
        watts = sum(idle[name] for name in names)
        found |= {"idle_power_watts": watts, "joules_per_unit_above_idle": (total - watts * busy) / work}
    if prices.get("carbon") is not None:
        found["co2_grams_per_unit"] = total / work / JOULES_A_KILOWATT_HOUR * float(prices["carbon"])
    return found


def _over_steps(name: str, series: Mapping[str, ArrayLike]) -> float | None:
    """Joules of one device during the steps: the difference of its counter between the ends of each step, else power
    times time; None if neither was told from the first step to the last.
    """
    ended = np.asarray(series["step_ended"], dtype=np.float64)
    begun = ended - np.asarray(series["step_seconds"], dtype=np.float64)
    ended, begun = ended[np.isfinite(ended)], begun[np.isfinite(ended)]
    looks = np.asarray(series["monitor.seconds"], dtype=np.float64)
    for cumulative in (_counted, _summed):
        times, joules = cumulative(name, looks, series)
        if len(times) > 1 and times[0] <= max(begun.min(), looks[0]) and times[-1] >= min(ended.max(), looks[-1]):
            return float((np.interp(ended, times, joules) - np.interp(begun, times, joules)).sum())
    return None


def _counted(name: str, looks: Array, series: Mapping[str, ArrayLike]) -> tuple[Array, Array]:
    """(times, joules since the first) by the device's counter; nothing if it has none that moves."""
    counter = _read(name, "energy", looks, series)
    told = np.isfinite(counter)
    if told.sum() < 2 or counter[told][-1] <= counter[told][0]:
        return np.zeros(0), np.zeros(0)
    return looks[told], counter[told] - counter[told][0]


def _summed(name: str, looks: Array, series: Mapping[str, ArrayLike]) -> tuple[Array, Array]:
    """(times, joules since the first) by the trapezoids of the device's power; nothing if that has a gap."""
    power = _read(name, "power", looks, series)
    told = np.flatnonzero(np.isfinite(power))
    if len(told) < 2 or np.diff(told).max() > GAP:
        return np.zeros(0), np.zeros(0)
    times, power = looks[told], power[told]
    return times, np.concatenate([[0.0], np.cumsum(np.diff(times) * (power[1:] + power[:-1]) / 2)])


def _read(name: str, field: str, looks: Array, series: Mapping[str, ArrayLike]) -> Array:
    return np.asarray(series.get(f"monitor.{name}.{field}", np.full_like(looks, np.nan)), dtype=np.float64)


def _state_of_devices(names: list[str], series: Mapping[str, ArrayLike]) -> dict[str, float | None]:
    """While there were steps: mean use and clock of the devices, highest temperature, share of throttled looks."""
    times = np.asarray(series["monitor.seconds"], dtype=np.float64)
    ended = np.asarray(series["step_ended"], dtype=np.float64)
    first = float(np.nanmin(ended - np.asarray(series["step_seconds"], dtype=np.float64)))
    during = (times >= first) & (times <= float(np.nanmax(ended)))

    def read(field: str) -> Array:
        columns = [np.asarray(series.get(f"monitor.{name}.{field}", ()), dtype=np.float64) for name in names]
        values = np.concatenate([column[during] for column in columns if len(column)] or [np.zeros(0)])
        return values[np.isfinite(values)]

    use, clock, heat, throttled = (read(field) for field in ("utilisation", "clock", "temperature", "throttled"))
    return {
        "device_utilisation": float(use.mean()) if use.size else None,
        "device_clock_hertz": float(clock.mean()) if clock.size else None,
        "device_temperature": float(heat.max()) if heat.size else None,
        "throttled": float((throttled > 0).mean()) if throttled.size else None,
    }
