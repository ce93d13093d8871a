"""AMD's devices, by AMD SMI (package amdsmi, which comes with ROCm)."""

from collections.abc import Mapping, Sequence
from typing import Any

from fourfold.measure.monitors.interface import THROTTLED, Look, guarded, in_use, plain

MEBIBYTE = 2**20
# Of amdsmi_get_violation_status: what is active now (MI300 and later).
REASONS = {
    "active_ppt_pwr": "power",
    "active_socket_thrm": "heat",
    "active_vr_thrm": "heat",
    "active_hbm_thrm": "heat",
    "active_prochot_thrm": "hardware",
}


def sources(identities: Sequence[str]) -> list["AmdSmi"]:
    """One source for each device, found by its UUID.

    Raises ImportError without the package, its own error without a driver, RuntimeError where UUIDs do not match.
    """
    import amdsmi

    amdsmi.amdsmi_init()
    handles = amdsmi.amdsmi_get_processor_handles()
    chosen = in_use("AMD SMI", handles, identities, lambda handle: uuids(amdsmi, handle))
    return [AmdSmi(amdsmi, index, handle) for index, handle in enumerate(chosen)]


def uuids(library: Any, handle: Any) -> list[str]:
    """Of one device: the driver's, and HIP's, which are 16 letters that torch spells as the bytes that they are."""
    found = [library.amdsmi_get_gpu_device_uuid(handle)]
    try:
        hip = plain(library.amdsmi_get_gpu_enumeration_info(handle)["hip_uuid"])
    except Exception:  # not in older ones
        return found
    return [*found, hip, hip.encode().hex()]


class AmdSmi:
    """One device."""

    kind = "device"

    def __init__(self, library: Any, index: int, handle: Any) -> None:
        self.name = f"gpu_{index}"
        self.library, self.handle = library, handle

    def read(self) -> Mapping[str, float]:
        smi, handle = self.library, self.handle
        look = Look(memory=float(smi.amdsmi_get_gpu_vram_usage(handle)["vram_used"]) * MEBIBYTE)
        guarded(look, "power", lambda: power_of(smi.amdsmi_get_power_info(handle)))
        guarded(look, "energy", self._energy)
        guarded(look, "utilisation", lambda: smi.amdsmi_get_gpu_activity(handle)["gfx_activity"], 1e-2)
        guarded(look, "clock", lambda: smi.amdsmi_get_clock_info(handle, smi.AmdSmiClkType.GFX)["clk"], 1e6)
        guarded(look, "temperature", self._temperature)
        guarded(look, "throttled", lambda: throttled(smi.amdsmi_get_violation_status(handle)))
        return look

    def _energy(self) -> float:
        """Joules: the counter's ticks times its resolution, which is in microjoules."""
        count = self.library.amdsmi_get_energy_count(self.handle)
        return count["energy_accumulator"] * count["counter_resolution"] * 1e-6

    def _temperature(self) -> float:
        smi = self.library
        sensor, now = smi.AmdSmiTemperatureType.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT
        return smi.amdsmi_get_temp_metric(self.handle, sensor, now)

    def close(self) -> None:
        self.library.amdsmi_shut_down()


def power_of(info: Mapping[str, Any]) -> float:
    """Watts, under the name that this generation of device has; "N/A" and the largest integers mean none."""
    for name in ("current_socket_power", "socket_power", "average_socket_power"):
        value = info.get(name)
        if isinstance(value, int | float) and 0 < value < 0xFFFF:
            return float(value)
    raise ValueError("no power")


def throttled(status: Mapping[str, Any]) -> int:
    """AMD SMI's flags as our bits."""
    found = 0
    for name, reason in REASONS.items():
        if status.get(name) is True:
            found |= THROTTLED[reason]
    return found
