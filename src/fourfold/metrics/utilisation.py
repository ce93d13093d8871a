"""Where the time of a step goes, and what part of the devices' peak is used."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from fourfold.record import Record

# Parts of a step that the meter times of their own.
SHARES = ("input", "forward", "backward", "optimizer")


def share_figures(series: Mapping[str, ArrayLike], warmup: int) -> dict[str, float | None]:
    """Of the time of the steps after warm-up, the share of each part that was marked."""
    total = float(np.asarray(series["step_seconds"], dtype=np.float64)[warmup:].sum())
    parts = {name: np.asarray(series.get(f"{name}_seconds", ()), dtype=np.float64)[warmup:] for name in SHARES}
    return {f"{name}_share": float(values.sum()) / total for name, values in parts.items() if len(values) and total}


def utilisation_figures(record: Record, rate: float) -> dict[str, float | None]:
    """FLOP a unit of work, and what part of the devices' peak at the cell's precision they are, per second:

    The peak is that of the hardware that was asked for; with hardware=auto, of what was found.
    mfu of plain training's FLOP (Chowdhery et al. 2022), hfu of those that the method executed.
    """
    flops = record.measurements.get("flops") or {}
    model, executed = flops.get("model"), flops.get("executed")
    hardware = record.config.get("hardware") or {}
    stated = {**(record.device.get("peak") or {}), **{k: v for k, v in (hardware.get("peak") or {}).items() if v}}
    peak = stated.get(record.recipe.get("precision"))
    of_peak = rate / (float(peak) * devices_of(record)) if peak and record.evidence != "simulated" else None
    return {
        "flops_per_unit": model,
        "executed_flops_per_unit": executed,
        "mfu": model * of_peak if model and of_peak else None,
        "hfu": executed * of_peak if executed and of_peak else None,
    }


def devices_of(record: Record) -> int:
    """How many devices the cell had, over all nodes."""
    hardware = record.config.get("hardware") or {}
    return int(hardware.get("devices") or 1) * int(hardware.get("nodes") or 1)
