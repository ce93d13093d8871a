"""Looks at the machine now and then, from a thread beside the loop. What fails is said, and the run goes on."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.measure.monitors import amd, intel, nvidia, processor
from fourfold.measure.monitors.interface import FIELDS, Look, Source, first_line

VENDORS: dict[str, Callable[[Sequence[str]], Sequence[Source]]] = {
    "cuda": nvidia.sources,
    "hip": amd.sources,
    "xpu": intel.sources,
}
# A source that fails this often in a row is given up; a field of it that does is noted.
FAILURES = 3
# Seconds between two looks while idle: the baseline is short.
IDLE_PERIOD = 0.1


class Monitor:
    """The sources of a cell, and what was read from them, between ``begin`` and ``close``."""

    def __init__(self, sources: Sequence[Source], absent: Mapping[str, str], period: float) -> None:
        self.sources = list(sources)
        self.absent = dict(absent)
        self.failed: dict[str, str] = {}
        self.idle: dict[str, float] = {}
        self.period = period
        self.zero = 0.0
        self.started = 0.0
        self._times: list[float] = []
        self._readings: list[dict[str, Mapping[str, float]]] = []
        self._told: dict[str, set[str]] = {}  # by source: the fields that it has ever told
        self._misses: dict[str, tuple[int, str]] = {}  # by source or source.field: how often in a row, and why
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def watch_idle(self, seconds: float) -> None:
        """Notes what each device takes while nothing runs; without any that tells of power it takes no time."""
        if seconds <= 0 or not any({"power", "energy"} & set(values) for values in self._look().values()):
            return
        end = time.perf_counter() + seconds
        looks = [(time.perf_counter(), self._look())]
        while time.perf_counter() < end:
            time.sleep(IDLE_PERIOD)
            looks.append((time.perf_counter(), self._look()))
        for source in self.sources:
            watts = mean_power([at for at, _ in looks], [look.get(source.name, {}) for _, look in looks])
            if watts is not None:
                self.idle[source.name] = watts

    def begin(self, zero: float) -> None:
        """Looks from now on; times are counted from ``zero``, on time.perf_counter's scale."""
        self.zero = zero
        self.started = time.time() - (time.perf_counter() - zero)
        if not self.sources:
            return
        self._note()
        self._thread = threading.Thread(target=self._run, name="fourfold monitor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends after a last look, and gives the sources back."""
        if self._thread is not None:
            self._ending.set()
            self._thread.join()
            self._thread = None
            self._note()
            for name, (_, why) in self._misses.items():  # what did not answer at the end
                self.failed.setdefault(name, why)
        for source in self.sources:
            try:
                source.close()
            except Exception as error:
                self.failed.setdefault(source.name, first_line(error))

    def _run(self) -> None:
        while not self._ending.wait(self.period):
            self._note()

    def _note(self) -> None:
        self._times.append(time.perf_counter() - self.zero)
        self._readings.append(self._look())

    def _look(self) -> dict[str, Mapping[str, float]]:
        found: dict[str, Mapping[str, float]] = {}
        for source in self.sources:
            if source.name in self.failed:
                continue
            try:
                found[source.name] = source.read()
            except Exception as error:
                self._missed(source.name, first_line(error))
                continue
            self._misses.pop(source.name, None)
            self._compare(source.name, found[source.name])
        return found

    def _compare(self, name: str, look: Mapping[str, float]) -> None:
        """With the looks before: a field that was told and is not any more is a miss, one that never was is none."""
        told = self._told.setdefault(name, set())
        told.update(look)
        why = look.missed if isinstance(look, Look) else {}
        for field in told:
            if field in look:
                self._misses.pop(f"{name}.{field}", None)
            else:
                self._missed(f"{name}.{field}", why.get(field, "no longer told"))

    def _missed(self, name: str, why: str) -> None:
        count = self._misses.get(name, (0, ""))[0] + 1
        self._misses[name] = (count, why)
        if count == FAILURES:
            self.failed.setdefault(name, why)

    def series(self) -> dict[str, np.ndarray]:
        """``monitor.seconds`` and ``monitor.SOURCE.FIELD`` of what was read, an entry a look; nan where it was not."""
        if not self.sources:
            return {}
        columns = {
            f"monitor.{source.name}.{field}": np.asarray(
                [look.get(source.name, {}).get(field, np.nan) for look in self._readings], dtype=np.float64
            )
            for source in self.sources
            for field in FIELDS
        }
        told = {name: values for name, values in columns.items() if np.isfinite(values).any()}
        return {"monitor.seconds": np.asarray(self._times), **told}

    def most_memory(self) -> float | None:
        """Bytes: the most that was in use on a device at any look; None if no device tells."""
        devices = [source.name for source in self.sources if source.kind == "device"]
        found = [look[name]["memory"] for look in self._readings for name in devices if "memory" in look.get(name, {})]
        return max(found, default=None)

    def as_dict(self) -> dict[str, Any]:
        """For the record: since when (seconds since the epoch), the sources by kind, idle watts, and why what is absent
        is, or what gave up did: a source, or a source.field.
        """
        return {
            "started": self.started,
            "sources": {source.name: source.kind for source in self.sources},
            "period": self.period,
            "idle_watts": self.idle,
            "absent": self.absent,
            "failed": self.failed,
        }


def open_monitor(backend: str, identities: Sequence[str], period: float, folder: Path | None = None) -> Monitor:
    """The monitor of the devices that serve a cell, and of the host; what cannot be opened is noted as absent.

    identities: the UUID of each accelerator of this process, as torch tells it; folder: the cell's.
    """
    sources: list[Source] = []
    absent: dict[str, str] = {}

    def add(name: str, open_them: Callable[[], Sequence[Source]]) -> None:
        try:
            sources.extend(open_them())
        except Exception as error:
            absent[name] = f"{type(error).__name__}: {first_line(error)}"

    if backend in VENDORS:
        add(backend, lambda: VENDORS[backend](identities))
    elif backend != "cpu":
        absent[backend] = "no monitor for this backend"
    add("rapl", lambda: processor.sources("device" if backend == "cpu" else "host"))
    add("host", lambda: [processor.Host()])
    if folder is not None:
        add("process", lambda: [processor.Process(folder)])
    return Monitor(sources, absent, period)


def mean_power(times: Sequence[float], readings: Sequence[Mapping[str, float]]) -> float | None:
    """Watts over a stretch: by the energy counter if there is one and it moved, else the mean of the powers read."""
    energies = [(at, reading["energy"]) for at, reading in zip(times, readings, strict=True) if "energy" in reading]
    if len(energies) > 1 and energies[-1][1] > energies[0][1]:
        return (energies[-1][1] - energies[0][1]) / (energies[-1][0] - energies[0][0])
    powers = [reading["power"] for reading in readings if "power" in reading]
    return sum(powers) / len(powers) if powers else None
