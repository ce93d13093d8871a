"""Acquires the device that a cell asks for. Asked and found must agree; nothing is substituted silently."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from fourfold.composition import config_directory
from fourfold.errors import Refused, Unavailable
from fourfold.hardware.catalogue import catalogue, recognises, targets_of
from fourfold.hardware.vendor import MODULES, SEARCHED, Vendor, vendor

LEAST_MEMORY = 0.85  # of the stated memory, below which it is another device: a slice of it, or a smaller sister
WAYS_OUT = (
    "hydra/launcher=submitit_slurm would ask a scheduler for it, mode=projected computes what it would do, "
    "hardware=auto runs on what is here"
)


@dataclass(frozen=True)
class Device:
    """What serves a cell: ``kind`` is torch's device type, ``offers`` the precisions and abilities found."""

    kind: str
    backend: str
    name: str
    count: int
    memory: int | None
    offers: tuple[str, ...]
    stand_in: bool = False
    target: str | None = None  # what the catalogue calls it, where hardware=auto found it
    peak: Mapping[str, float | None] = field(default_factory=dict)  # FLOP a second by precision, as the catalogue says

    @property
    def accelerator(self) -> bool:
        return self.kind != "cpu"

    @property
    def evidence(self) -> str:
        return "simulated" if self.stand_in else "measured"

    @property
    def vendor(self) -> Vendor:
        return vendor(self.backend)

    def torch(self, index: int = 0) -> torch.device:
        return torch.device("cpu") if self.kind == "cpu" else torch.device(self.kind, index)

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "backend": self.backend,
            "name": self.name,
            "count": self.count,
            "memory": self.memory,
            "runtime": self.vendor.runtime(),
            "target": self.target,
            "peak": dict(self.peak),
        }


def acquire(hardware: Mapping[str, Any]) -> Device:
    """The device of a hardware target.

    Raises Unavailable, saying what was asked and what is here, if it is absent, is another model, has less memory, is
    too few, or its driver fails; Refused for a backend that does not exist.
    """
    backend = hardware["backend"]
    if hardware["stand_in"]:
        name = f"CPU standing in for {hardware['name']}"
        return Device("cpu", "cpu", name, hardware["devices"], None, tuple(hardware["offers"]), stand_in=True)
    if backend == "auto":
        backend = present_backend()
    if backend not in MODULES:
        raise Refused(f"hardware.backend={backend}: choose one of auto, {', '.join(MODULES)}")
    found = vendor(backend)
    if backend == "cpu":
        return Device("cpu", "cpu", "cpu", hardware["devices"], None, found.offers)
    try:
        return _checked(hardware, found)
    except (RuntimeError, OSError, AttributeError) as error:  # of the vendor's library
        raise Unavailable(
            f"hardware={hardware['name']}: its driver or library fails: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _checked(hardware: Mapping[str, Any], found: Vendor) -> Device:
    if not found.present():
        raise Unavailable(_absent(hardware, describe_here()))
    if found.count() < hardware["devices"]:
        raise Unavailable(_absent(hardware, describe_here()))
    for index in range(hardware["devices"]):
        name, memory = found.device_name(index), found.memory(index)
        if hardware["match"] and not recognises(hardware["match"], name):
            raise Unavailable(_absent(hardware, describe_here()))
        if hardware["memory"] and memory and memory < LEAST_MEMORY * hardware["memory"]:
            here = f"device {index}, {name}, has {memory / 1e9:.0f} GB of {hardware['memory'] / 1e9:.0f}"
            raise Unavailable(_absent(hardware, here))
    name, memory = found.device_name(0), found.memory(0)
    offers, target, peak = tuple(hardware["offers"]), None, hardware["peak"]
    if hardware["backend"] == "auto":
        offers, target = found.found_offers(), known_as(name, memory)
        peak = catalogue(config_directory() / "hardware")[target]["peak"] if target else {}
    return Device(found.kind, found.backend, name, hardware["devices"], memory, offers, target=target, peak=peak)


def known_as(name: str, memory: int | None) -> str | None:
    """The target of the catalogue that a device of this name and memory is; None for another, or a slice of it."""
    folder = config_directory() / "hardware"
    known = catalogue(folder)
    whole = [
        target
        for target in targets_of(name, folder)
        if memory is None or not known[target]["memory"] or memory >= LEAST_MEMORY * known[target]["memory"]
    ]
    return whole[0] if whole else None


def present_backend() -> str:
    """The backend of this machine's accelerator, or cpu. A library that fails counts as absent."""
    for backend in SEARCHED:
        try:
            if vendor(backend).present():
                return backend
        except (RuntimeError, OSError, AttributeError):
            continue
    return "cpu"


def describe_here() -> str:
    """What this machine has, in a few words, and what the catalogue calls it."""
    backend = present_backend()
    if backend == "cpu":
        return "only a CPU"
    name = vendor(backend).device_name(0)
    known = targets_of(name, config_directory() / "hardware")
    called = f" (hardware={known[0]})" if known else ""
    return f"{vendor(backend).count()} x {name}{called}"


def _absent(hardware: Mapping[str, Any], here: str) -> str:
    return (
        f"hardware={hardware['name']} asks for {hardware['devices']} x {hardware['vendor']} "
        f"{'/'.join(hardware['match']) or hardware['name']}, but here is {here}; {WAYS_OUT}"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
