"""AMD's devices, by AMD SMI (package amdsmi, which comes with ROCm)."""

from collections.abc import Mapping, Sequence
from typing import Any

from fourfold.measure.monitors.interface import THROTTLED, Look, guarded

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
    """One source for each device, in the order of AMD SMI where it tells no UUID that we know.

    Raises ImportError without the package, and its own error without a driver.
    """
    import amdsmi

    amdsmi.amdsmi_init()
    handles = amdsmi.amdsmi_get_processor_handles()
    if len(handles) < len(identities):
        raise RuntimeError(f"AMD SMI shows {len(handles)} devices, {len(identities)} are in use")
    known = {_plain(amdsmi.amdsmi_get_gpu_device_uuid(handle)): handle for handle in handles}
    chosen = [known.get(_plain(identity), handles[index]) for index, identity in enumerate(identities)]
    return [AmdSmi(amdsmi, index, handle) for index, handle in enumerate(chosen)]


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


def _plain(identity: str) -> str:
    return identity.lower().removeprefix("gpu-").replace("-", "")
