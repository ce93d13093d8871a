"""Intel's devices, by Level Zero's system management (package pyzes)."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fourfold.measure.monitors.interface import THROTTLED, Look, guarded, in_use

# zes_freq_throttle_reason_flags_t (Level Zero specification, sysman): average and burst power cap, current limit,
# thermal limit, power supply alert, hardware range, thermal.
REASONS = {0x1: "power", 0x2: "power", 0x4: "power", 0x8: "heat", 0x10: "hardware", 0x40: "hardware", 0x100: "heat"}


def sources(identities: Sequence[str]) -> list["LevelZero"]:
    """One source for each device, found by its UUID.

    Raises ImportError without the package, RuntimeError if Level Zero has no such devices or does not tell which.
    """
    import pyzes

    checked(pyzes.zesInit(0), "zesInit")
    drivers = handles(pyzes.zesDriverGet, "zes_driver_handle_t", pyzes)
    devices = [
        device
        for driver in drivers
        for device in handles(lambda *a, driver=driver: pyzes.zesDeviceGet(driver, *a), "zes_device_handle_t", pyzes)
    ]
    chosen = in_use("Level Zero", devices, identities, lambda device: uuids(pyzes, device))
    return [LevelZero(pyzes, index, device) for index, device in enumerate(chosen)]


def uuids(library: Any, device: Any) -> list[str]:
    """Of one device; none if it does not tell."""
    properties = library.zes_device_properties_t()
    properties.stype = library.ZES_STRUCTURE_TYPE_DEVICE_PROPERTIES
    if library.zesDeviceGetProperties(device, ctypes.byref(properties)) != 0:
        return []
    return [bytes(properties.core.uuid.id).hex()]


class LevelZero:
    """One device: its first power domain, engine group, clock and sensor, and all of its memory."""

    kind = "device"

    def __init__(self, library: Any, index: int, device: Any) -> None:
        self.name = f"gpu_{index}"
        self.library, self.device = library, device
        self.active: tuple[int, int] | None = None

        def parts(function: str, kind: str) -> list[Any]:
            try:
                return handles(lambda *a: getattr(library, function)(device, *a), kind, library)
            except RuntimeError:  # a part that this device has not
                return []

        self.memory = parts("zesDeviceEnumMemoryModules", "zes_mem_handle_t")
        self.power = parts("zesDeviceEnumPowerDomains", "zes_pwr_handle_t")
        self.clocks = parts("zesDeviceEnumFrequencyDomains", "zes_freq_handle_t")
        self.sensors = parts("zesDeviceEnumTemperatureSensors", "zes_temp_handle_t")
        self.engines = parts("zesDeviceEnumEngineGroups", "zes_engine_handle_t")

    def read(self) -> Mapping[str, float]:
        look = Look(memory=float(sum(self._used(module) for module in self.memory)))
        guarded(look, "energy", self._energy, 1e-6)
        guarded(look, "utilisation", self._utilisation)
        guarded(look, "clock", lambda: self._clock().actual, 1e6)
        guarded(look, "temperature", self._temperature)
        guarded(look, "throttled", lambda: throttled(self._clock().throttleReasons))
        return look

    def _energy(self) -> int:
        return self._state("zesPowerGetEnergyCounter", self.power[0], "power_energy_counter").energy

    def _state(self, function: str, handle: Any, kind: str) -> Any:
        state = getattr(self.library, f"zes_{kind}_t")()
        if hasattr(state, "stype"):
            state.stype = getattr(self.library, f"ZES_STRUCTURE_TYPE_{kind.upper()}")
        checked(getattr(self.library, function)(handle, ctypes.byref(state)), function)
        return state

    def _used(self, module: Any) -> int:
        state = self._state("zesMemoryGetState", module, "mem_state")
        return state.size - state.free

    def _clock(self) -> Any:
        return self._state("zesFrequencyGetState", self.clocks[0], "freq_state")

    def _temperature(self) -> float:
        value = ctypes.c_double()
        checked(self.library.zesTemperatureGetState(self.sensors[0], ctypes.byref(value)), "zesTemperatureGetState")
        return value.value

    def _utilisation(self) -> float:
        """Active time over time since the last look; fails on the first."""
        stats = self._state("zesEngineGetActivity", self.engines[0], "engine_stats")
        before, self.active = self.active, (stats.activeTime, stats.timestamp)
        if before is None:
            raise ValueError("nothing to compare with yet")
        return (stats.activeTime - before[0]) / (stats.timestamp - before[1])

    def close(self) -> None:
        """Level Zero has nothing to give back."""


def handles(list_them: Callable[..., int], kind: str, library: Any) -> list[Any]:
    """Level Zero's way to list: ask for the count, then for as many handles."""
    count = ctypes.c_uint32(0)
    checked(list_them(ctypes.byref(count), None), kind)
    found = (getattr(library, kind) * count.value)()
    checked(list_them(ctypes.byref(count), found), kind)
    return list(found)


def checked(result: int, what: str) -> None:
    if result != 0:
        raise RuntimeError(f"Level Zero: {what} gave {result:#x}")


def throttled(reasons: int) -> int:
    """Level Zero's bits as ours."""
    found = 0
    for bit, reason in REASONS.items():
        if reasons & bit:
            found |= THROTTLED[reason]
    return found
