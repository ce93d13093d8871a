"""Monitors with stand-ins for the vendors' libraries: plausible values, absent libraries, errors in the middle.

The stand-ins have the functions of nvidia-ml-py 13, amdsmi 7.0 and pyzes 0.1, with the same arguments and units.
"""

import ctypes
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fourfold.measure.monitor import FAILURES, Monitor, mean_power, open_monitor
from fourfold.measure.monitors import amd, intel, nvidia, processor
from fourfold.metrics.energy import energy_figures

UUID = "5b2ae3f1-0a46-7a2f-9b7c-16b03c4a1b11"


class NvmlError(Exception):
    pass


def nvml(lost_after: int = 10**9, supports_energy: bool = True) -> Any:
    """An H100 at 400 W; its energy counter runs with the host's clock."""
    looks = SimpleNamespace(count=0)
    begun = time.perf_counter()

    def memory(handle: str, version: Any = None) -> Any:
        looks.count += 1
        if looks.count > lost_after:
            raise NvmlError("GPU is lost")
        return SimpleNamespace(total=80 * 2**30, free=60 * 2**30, used=20 * 2**30)

    def energy(handle: str) -> int:
        if not supports_energy:
            raise NvmlError("Not Supported")
        return int((time.perf_counter() - begun) * 400 * 1000)

    def by_uuid(uuid: str) -> str:
        if uuid != f"GPU-{UUID}":
            raise NvmlError("Not Found")
        return uuid

    return SimpleNamespace(
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetPowerUsage=lambda handle: 400_000,
        nvmlDeviceGetTotalEnergyConsumption=energy,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=93, memory=40),
        nvmlDeviceGetClockInfo=lambda handle, type: {1: 1755}[type],
        nvmlDeviceGetTemperature=lambda handle, sensor: {0: 61}[sensor],
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: 0x4 | 0x20,
    )


def watched(monitor: Monitor, seconds: float = 0.1) -> dict[str, np.ndarray]:
    monitor.begin(time.perf_counter())
    time.sleep(seconds)
    monitor.close()
    return monitor.series()


def steps(seconds: float = 0.01, count: int = 8) -> dict[str, np.ndarray]:
    return {
        "step_seconds": np.full(count, seconds),
        "step_units": np.full(count, 2.0),
        "step_ended": seconds * np.arange(1, count + 1),
    }


def test_nvidia_tells_everything_in_our_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    (source,) = nvidia.sources([UUID])
    found = source.read()
    assert found.pop("energy") < 400
    assert found == {
        "memory": 20 * 2**30, "power": 400.0, "utilisation": 0.93, "clock": 1.755e9, "temperature": 61.0,
        "throttled": 1 + 2,
    }  # fmt: skip


def test_nvidia_energy_over_the_steps_and_above_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    monitor = open_monitor("cuda", [UUID], period=0.01)
    monitor.watch_idle(0.2)
    series = {**watched(monitor), **steps()}
    told = {"monitor": monitor.as_dict()}
    found = energy_figures(told, {"carbon": 30.0, "price": 2.0}, series, devices=1)
    assert monitor.idle["gpu_0"] == pytest.approx(400, rel=0.3)
    assert found["joules_per_unit"] == pytest.approx(400 * 0.01 / 2, rel=0.3)
    assert found["power_watts"] == pytest.approx(400, rel=0.3)
    assert found["joules_per_unit_above_idle"] == pytest.approx(0, abs=1.0)
    assert found["co2_grams_per_unit"] == pytest.approx(found["joules_per_unit"] / 3.6e6 * 30)
    assert found["price_per_unit"] == pytest.approx(2.0 * 0.08 / 3600 / 16)
    assert found["device_utilisation"] == pytest.approx(0.93)
    assert (found["device_temperature"], found["throttled"]) == (61.0, 1.0)


def test_without_a_counter_power_is_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(supports_energy=False))
    monitor = open_monitor("cuda", [UUID], period=0.01)
    series = watched(monitor)
    assert "monitor.gpu_0.energy" not in series
    found = energy_figures({"monitor": monitor.as_dict()}, {}, {**series, **steps()}, devices=1)
    assert found["joules_per_unit"] == pytest.approx(2.0, rel=0.01)
    assert "price_per_unit" not in found
    assert "joules_per_unit_above_idle" not in found


def test_a_device_lost_in_the_middle_leaves_energy_absent_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(lost_after=3))
    monitor = open_monitor("cuda", [UUID], period=0.005)
    series = watched(monitor)
    told = {"monitor": monitor.as_dict()}
    assert told["monitor"]["failed"] == {"gpu_0": "GPU is lost"}
    assert np.isfinite(series["monitor.gpu_0.power"]).sum() == 3
    assert len(series["monitor.seconds"]) > 3 + FAILURES
    found = energy_figures(told, {"carbon": 30.0}, {**series, **steps()}, devices=1)
    assert "joules_per_unit" not in found
    assert "co2_grams_per_unit" not in found


@pytest.mark.parametrize("counter", [True, False], ids=["counter too", "power alone"])
def test_a_power_lost_in_the_middle_is_no_energy_and_says_so(counter: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device still answers for its memory; the last power that was read is not that of the rest."""
    library, looks = nvml(supports_energy=counter), iter(range(10**9))

    def power(handle: str) -> int:
        if next(looks) >= 3:
            raise NvmlError("Unknown Error")
        return 400_000

    library.nvmlDeviceGetPowerUsage = power
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monitor = open_monitor("cuda", [UUID], period=0.005)
    series = watched(monitor)
    told = {"monitor": monitor.as_dict()}
    assert told["monitor"]["failed"] == {"gpu_0.power": "Unknown Error"}
    assert np.isfinite(series["monitor.gpu_0.memory"]).all()
    found = energy_figures(told, {"carbon": 30.0}, {**series, **steps()}, devices=1)
    assert ("joules_per_unit" in found) == counter == ("co2_grams_per_unit" in found)


def test_a_field_that_is_missing_at_the_last_look_is_said_after_one_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    library, looks = nvml(), iter([400_000])
    library.nvmlDeviceGetPowerUsage = lambda handle: next(looks)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monitor = open_monitor("cuda", [UUID], period=60.0)
    watched(monitor, 0.0)
    assert monitor.as_dict()["failed"] == {"gpu_0.power": "StopIteration"}


def lost(readings: list[float], field: str = "power") -> dict[str, float | None]:
    """The figures of ten steps of a second and 10 units each, looked at once a second."""
    series = {
        "step_seconds": np.ones(10), "step_units": np.full(10, 10.0), "step_ended": np.arange(1.0, 11.0),
        "monitor.seconds": np.arange(len(readings), dtype=float), f"monitor.gpu_0.{field}": np.array(readings),
    }  # fmt: skip
    return energy_figures({"monitor": {"sources": {"gpu_0": "device"}, "failed": {}}}, {}, series, devices=1)


def test_energy_needs_readings_from_the_first_step_to_the_last() -> None:
    nan, watts = float("nan"), [400.0] * 11
    assert lost(watts)["joules_per_unit"] == 40.0
    assert lost([*watts[:5], nan, nan, *watts[7:]])["joules_per_unit"] == 40.0  # two looks in a row
    for readings in ([*watts[:3], *[nan] * 8], [*[nan] * 3, *watts[3:]], [*watts[:4], nan, nan, nan, *watts[7:]]):
        assert "joules_per_unit" not in lost(readings)
    counter = [400.0 * second for second in range(11)]
    assert lost([0.0, *[nan] * 8, *counter[9:]], "energy")["joules_per_unit"] == 40.0  # a counter counts unseen, too
    assert "joules_per_unit" not in lost([*counter[:3], *[nan] * 8], "energy")


def test_no_step_of_its_own_is_no_energy() -> None:
    """Of a copy that went on after an interruption at its very end, while others still worked."""
    series = {"monitor.seconds": np.array([0.0, 1.0]), "monitor.gpu_0.power": np.array([100.0, 100.0]), **steps()}
    series |= {"step_ended": np.full(8, np.nan), "copies.1.step_units": np.ones(8)}
    told = {"monitor": {"sources": {"gpu_0": "device"}, "failed": {}}}
    assert "joules_per_unit" not in energy_figures(told, {}, series, devices=1)


def test_one_of_two_devices_is_not_both() -> None:
    """A sum of some devices would pass for that of all."""
    series = {"monitor.seconds": np.array([0.0, 1.0]), "monitor.gpu_0.power": np.array([100.0, 100.0]), **steps()}
    told = {"monitor": {"sources": {"gpu_0": "device"}, "failed": {}, "idle_watts": {}}}
    assert energy_figures(told, {}, series, devices=1)["joules_per_unit"] == pytest.approx(0.5)
    assert "joules_per_unit" not in energy_figures(told, {}, series, devices=2)


@pytest.mark.parametrize("backend", ["cuda", "hip", "xpu"])
def test_an_absent_library_is_said_and_the_host_is_still_seen(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pynvml", "amdsmi", "pyzes"):
        monkeypatch.setitem(sys.modules, name, None)
    monitor = open_monitor(backend, [UUID], period=0.01)
    series = watched(monitor, 0.02)
    assert "ModuleNotFoundError" in monitor.absent[backend] or "ImportError" in monitor.absent[backend]
    assert "monitor.host.memory" in series
    found = energy_figures({"monitor": monitor.as_dict()}, {}, {**series, **steps()}, devices=1)
    assert not any("joules" in name for name in found)


def test_a_driver_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    library = nvml()
    library.nvmlInit = lambda: (_ for _ in ()).throw(NvmlError("Driver Not Loaded"))
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert open_monitor("cuda", [UUID], 1.0).absent["cuda"] == "NvmlError: Driver Not Loaded"


def amdsmi(power: Mapping[str, Any]) -> Any:
    return SimpleNamespace(
        AmdSmiClkType=SimpleNamespace(GFX="gfx"),
        AmdSmiTemperatureType=SimpleNamespace(HOTSPOT="hotspot"),
        AmdSmiTemperatureMetric=SimpleNamespace(CURRENT="current"),
        amdsmi_init=lambda: None,
        amdsmi_shut_down=lambda: None,
        amdsmi_get_processor_handles=lambda: ["first", "second"],
        amdsmi_get_gpu_device_uuid=lambda handle: {"first": "aaff", "second": "bbff"}[handle],
        amdsmi_get_gpu_enumeration_info=lambda handle: {"hip_id": 0, "hip_uuid": f"GPU-{handle:_<16}"},
        amdsmi_get_gpu_vram_usage=lambda handle: {"vram_total": 196592, "vram_used": 1024},
        amdsmi_get_power_info=lambda handle: power,
        amdsmi_get_energy_count=lambda handle: {
            "energy_accumulator": 2_000_000,
            "counter_resolution": 15.3,
            "timestamp": 0,
        },
        amdsmi_get_gpu_activity=lambda handle: {"gfx_activity": 88, "umc_activity": 30, "mm_activity": "N/A"},
        amdsmi_get_clock_info=lambda handle, kind: {"clk": 2100, "min_clk": 132, "max_clk": 2100},
        amdsmi_get_temp_metric=lambda handle, sensor, metric: 54,
        amdsmi_get_violation_status=lambda handle: {"active_ppt_pwr": True, "active_socket_thrm": "N/A"},
    )


def test_amd_tells_everything_in_our_units(monkeypatch: pytest.MonkeyPatch) -> None:
    library = amdsmi({"current_socket_power": 712, "average_socket_power": "N/A", "socket_power": 712})
    monkeypatch.setitem(sys.modules, "amdsmi", library)
    (source,) = amd.sources(["bbff"])
    assert source.handle == "second"
    assert source.read() == {
        "memory": 2**30, "power": 712.0, "energy": pytest.approx(30.6), "utilisation": 0.88, "clock": 2.1e9,
        "temperature": 54.0, "throttled": 1,
    }  # fmt: skip


def test_an_older_amd_device_has_its_power_under_another_name_and_no_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    library = amdsmi({"current_socket_power": 0xFFFF, "average_socket_power": 290, "socket_power": "N/A"})
    library.amdsmi_get_violation_status = lambda handle: (_ for _ in ()).throw(RuntimeError("not supported"))
    monkeypatch.setitem(sys.modules, "amdsmi", library)
    found = amd.sources(["aaff"])[0].read()
    assert found["power"] == 290.0
    assert "throttled" not in found
    with pytest.raises(RuntimeError, match="shows 2 devices, 3 are in use"):
        amd.sources(["a", "b", "c"])


def test_a_neighbour_s_device_is_never_read_for_one_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared node the libraries show all devices, whichever the process may use."""
    monkeypatch.setitem(sys.modules, "amdsmi", amdsmi({}))
    monitor = open_monitor("hip", ["unknown"], 1.0)
    said = "RuntimeError: AMD SMI shows 2 devices, 1 in use, and their UUIDs do not tell which"
    assert monitor.absent["hip"] == said
    assert not [source for source in monitor.sources if source.kind == "device"]
    assert [source.handle for source in amd.sources(["bbff", "aaff"])] == ["second", "first"]
    as_torch_spells_it = b"second__________".hex()
    assert [source.handle for source in amd.sources([as_torch_spells_it])] == ["second"]
    assert [source.handle for source in amd.sources(["", ""])] == ["first", "second"]  # all of them: none is another's
    monkeypatch.setitem(sys.modules, "pyzes", level_zero())
    assert [source.device.value for source in intel.sources([f"{2:032x}"])] == [2]
    with pytest.raises(RuntimeError, match="Level Zero shows 2 devices, 1 in use, and their UUIDs do not tell which"):
        intel.sources([f"{7:032x}"])


def structure(**fields: Any) -> type[ctypes.Structure]:
    return type("State", (ctypes.Structure,), {"_fields_": list(fields.items())})


def level_zero() -> Any:
    """Two devices; the second's engine is half busy between two looks."""
    handle = type("handle", (ctypes.c_void_p,), {})
    clock = {"now": 0}

    def listed(count: int) -> Any:
        def list_them(*arguments: Any) -> int:
            pointer, found = arguments[-2:]
            if found is None:
                pointer._obj.value = count
            else:
                for index in range(count):
                    found[index] = handle(index + 1)
            return 0

        return list_them

    def filled(**values: Any) -> Any:
        def fill(_: Any, pointer: Any) -> int:
            for name, value in values.items():
                setattr(pointer._obj, name, value)
            return 0

        return fill

    def activity(_: Any, pointer: Any) -> int:
        clock["now"] += 100
        pointer._obj.activeTime, pointer._obj.timestamp = clock["now"] // 2, clock["now"]
        return 0

    def temperature(_: Any, pointer: Any) -> int:
        pointer._obj.value = 48.5
        return 0

    def properties(device: Any, pointer: Any) -> int:
        pointer._obj.core.uuid.id[15] = device.value
        return 0

    kinds = ("driver", "device", "mem", "pwr", "freq", "temp", "engine")
    u64, double = ctypes.c_uint64, ctypes.c_double
    return SimpleNamespace(
        **{f"zes_{kind}_handle_t": handle for kind in kinds},
        ZES_STRUCTURE_TYPE_DEVICE_PROPERTIES=0x1,
        zes_device_properties_t=structure(stype=ctypes.c_int32, core=structure(uuid=structure(id=ctypes.c_ubyte * 16))),
        zesDeviceGetProperties=properties,
        ZES_STRUCTURE_TYPE_MEM_STATE=0x1E,
        ZES_STRUCTURE_TYPE_FREQ_STATE=0x1B,
        zes_mem_state_t=structure(stype=ctypes.c_int32, free=u64, size=u64),
        zes_freq_state_t=structure(stype=ctypes.c_int32, actual=double, throttleReasons=ctypes.c_uint32),
        zes_power_energy_counter_t=structure(energy=u64, timestamp=u64),
        zes_engine_stats_t=structure(activeTime=u64, timestamp=u64),
        zesInit=lambda flags: 0,
        zesDriverGet=listed(1),
        zesDeviceGet=listed(2),
        zesDeviceEnumMemoryModules=listed(2),
        zesDeviceEnumPowerDomains=listed(1),
        zesDeviceEnumFrequencyDomains=listed(1),
        zesDeviceEnumTemperatureSensors=listed(1),
        zesDeviceEnumEngineGroups=listed(1),
        zesMemoryGetState=filled(free=3 * 2**30, size=4 * 2**30),
        zesPowerGetEnergyCounter=filled(energy=12_500_000, timestamp=1),
        zesFrequencyGetState=filled(actual=1600.0, throttleReasons=0x1 | 0x8),
        zesTemperatureGetState=temperature,
        zesEngineGetActivity=activity,
    )


def test_intel_tells_everything_in_our_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyzes", level_zero())
    source = intel.sources(["", ""])[1]
    assert "utilisation" not in source.read()
    assert source.read() == {
        "memory": 2 * 2**30, "energy": 12.5, "utilisation": 0.5, "clock": 1.6e9, "temperature": 48.5, "throttled": 3,
    }  # fmt: skip


def test_an_intel_device_without_power_domains_tells_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    library = level_zero()
    library.zesDeviceEnumPowerDomains = lambda *_: 0x78000003  # unsupported feature
    monkeypatch.setitem(sys.modules, "pyzes", library)
    found = intel.sources([f"{1:032x}"])[0].read()
    assert "energy" not in found
    assert found["temperature"] == 48.5
    library.zesInit = lambda flags: 0x78000001
    with pytest.raises(RuntimeError, match="zesInit gave 0x78000001"):
        intel.sources([f"{1:032x}"])


def rapl(folder: Path, energy: int, dram: int | None = None) -> Path:
    package = folder / "intel-rapl:0"
    package.mkdir(parents=True)
    (package / "energy_uj").write_text(f"{energy}\n")
    (package / "max_energy_range_uj").write_text("999999\n")
    for name, part in (("core", 1), ("dram", 2)):
        own = package / f"intel-rapl:0:{part}"
        own.mkdir()
        (own / "name").write_text(f"{name}\n")
        (own / "energy_uj").write_text(f"{dram or 0}\n")
        (own / "max_energy_range_uj").write_text("999999\n")
    return folder


def test_rapl_counts_on_when_its_counter_begins_again_and_adds_the_memory(tmp_path: Path) -> None:
    (source,) = processor.sources("device", rapl(tmp_path, energy=900_000, dram=100))
    assert source.read() == {"energy": 0.0}
    package = tmp_path / "intel-rapl:0"
    (package / "energy_uj").write_text("100000\n")
    (package / "intel-rapl:0:2" / "energy_uj").write_text("600\n")
    assert source.read()["energy"] == pytest.approx(0.2 + 0.0005)
    assert source.name == "cpu_0"


def test_rapl_that_may_not_be_read_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(kind: str) -> Any:
        raise PermissionError(13, "Permission denied", "energy_uj")

    monkeypatch.setattr(processor, "sources", forbidden)
    monitor = open_monitor("cpu", [], 1.0)
    assert "Permission denied" in monitor.absent["rapl"]
    assert [source.kind for source in monitor.sources] == ["host"]
    found = energy_figures({"monitor": monitor.as_dict()}, {}, {**watched(monitor, 0.02), **steps()}, devices=1)
    assert not any("joules" in name for name in found)


def test_no_powercap_is_absent_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.sources, "__defaults__", (tmp_path / "absent",))
    monitor = open_monitor("cpu", [], 1.0)
    assert monitor.as_dict()["absent"] == {
        "rapl": f"FileNotFoundError: no energy counter of a processor in {tmp_path / 'absent'}"
    }
    assert [source.name for source in monitor.sources] == ["host"]


@pytest.mark.parametrize(
    ("nodes", "period", "stand_in", "why"),
    [
        (2, 1.0, False, "hardware.nodes=2: only one node would be seen"),
        (1, None, False, "measure.period=null"),
        (1, 1.0, True, "a stand-in device"),
    ],
)
def test_what_is_not_watched_says_why(nodes: int, period: float | None, stand_in: bool, why: str) -> None:
    from fourfold.experiment import watch

    cell = {"measure": {"period": period, "idle": 0}, "hardware": {"nodes": nodes}}
    device: Any = SimpleNamespace(stand_in=stand_in, accelerator=False, backend="cpu")
    engine: Any = SimpleNamespace(rank=0)
    monitor = watch(cell, device, engine, Path("."))
    assert monitor.sources == []
    assert [reason.startswith(why) for reason in monitor.as_dict()["absent"].values()] == [True]


def test_idle_takes_no_time_where_nothing_tells_power() -> None:
    monitor = Monitor([processor.Host()], {}, 1.0)
    begun = time.perf_counter()
    monitor.watch_idle(30.0)
    assert time.perf_counter() - begun < 5
    assert monitor.idle == {}


def test_mean_power_by_hand() -> None:
    assert mean_power([0.0, 2.0], [{"energy": 10.0, "power": 1.0}, {"energy": 16.0, "power": 1.0}]) == 3.0
    assert mean_power([0.0, 2.0], [{"power": 1.0}, {"power": 2.0}]) == 1.5
    assert mean_power([0.0, 2.0], [{"energy": 5.0}, {"energy": 5.0}]) is None
    assert mean_power([0.0], [{}]) is None
