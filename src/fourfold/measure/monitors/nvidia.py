"""NVIDIA's devices, by NVML (package nvidia-ml-py)."""

from collections.abc import Mapping, Sequence
from typing import Any

from fourfold.measure.monitors.interface import THROTTLED, Look, guarded

# NVML's clock event reasons that are no choice of the user's, by their bit (nvml.h, nvmlClocksEventReasons).
REASONS = {
    0x04: "power",  # software power cap
    0x08: "hardware",  # hardware slowdown
    0x20: "heat",  # software thermal slowdown
    0x40: "heat",  # hardware thermal slowdown
    0x80: "power",  # power brake
}


def sources(identities: Sequence[str]) -> list["Nvml"]:
    """One source for each device, found by its UUID (as CUDA numbers devices otherwise than the driver does).

    Raises ImportError without the package, and NVML's own error without a driver.
    """
    import pynvml

    pynvml.nvmlInit()
    return [Nvml(pynvml, index, identity) for index, identity in enumerate(identities)]


class Nvml:
    """One device."""

    kind = "device"

    def __init__(self, library: Any, index: int, identity: str) -> None:
        self.name = f"gpu_{index}"
        self.library = library
        uuid = identity if identity.startswith(("GPU-", "MIG-")) else f"GPU-{identity}"
        self.handle = library.nvmlDeviceGetHandleByUUID(uuid)

    def read(self) -> Mapping[str, float]:
        nvml, handle = self.library, self.handle
        look = Look(memory=float(nvml.nvmlDeviceGetMemoryInfo(handle).used))  # fails when the device is lost
        guarded(look, "power", lambda: nvml.nvmlDeviceGetPowerUsage(handle), 1e-3)
        guarded(look, "energy", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle), 1e-3)
        guarded(look, "utilisation", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu, 1e-2)
        guarded(look, "clock", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM), 1e6)
        guarded(look, "temperature", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        guarded(look, "throttled", lambda: throttled(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)))
        return look

    def close(self) -> None:
        self.library.nvmlShutdown()  # counted by the library: one for each init would do as well


def throttled(reasons: int) -> int:
    """NVML's bits as ours."""
    found = 0
    for bit, reason in REASONS.items():
        if reasons & bit:
            found |= THROTTLED[reason]
    return found
