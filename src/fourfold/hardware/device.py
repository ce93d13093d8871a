"""Acquires the device that a cell asks for. Asked and found must agree; nothing is substituted silently."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fourfold.errors import Refused, Unavailable

# Precisions that a device of a backend can run whatever its model; the catalogue in conf/hardware says more.
BACKEND_OFFERS = {
    "cpu": ("fp32", "bf16", "collectives"),  # fp16 autocast there would silently be bf16
    "cuda": ("fp32", "fp16", "collectives"),
    "hip": ("fp32", "bf16", "fp16", "collectives"),
    "xpu": ("fp32", "bf16", "fp16", "collectives"),
    "hpu": ("fp32", "bf16", "collectives"),
}
TORCH_TYPE = {"cpu": "cpu", "cuda": "cuda", "hip": "cuda", "xpu": "xpu", "hpu": "hpu"}


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

    @property
    def accelerator(self) -> bool:
        return self.kind != "cpu"

    @property
    def evidence(self) -> str:
        return "simulated" if self.stand_in else "measured"

    def torch(self, index: int = 0) -> torch.device:
        return torch.device("cpu") if self.kind == "cpu" else torch.device(self.kind, index)

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "backend": self.backend,
            "name": self.name,
            "count": self.count,
            "memory": self.memory,
            "runtime": None if self.kind == "cpu" else torch.version.hip or torch.version.cuda,
        }


def acquire(hardware: Mapping[str, Any]) -> Device:
    """The device of a hardware target.

    Raises Unavailable, saying what was asked and what is here, if it is absent, is another model, or is too few;
    Refused for a backend that does not exist.
    """
    backend = hardware["backend"]
    if hardware["stand_in"]:
        return Device(
            "cpu",
            "cpu",
            f"CPU standing in for {hardware['name']}",
            hardware["devices"],
            None,
            tuple(hardware["offers"]),
            stand_in=True,
        )
    if backend == "auto":
        backend = present_backend()
    if backend not in TORCH_TYPE:
        raise Refused(f"hardware.backend={backend}: choose one of auto, {', '.join(TORCH_TYPE)}")
    if backend == "cpu":
        return Device("cpu", "cpu", "cpu", hardware["devices"], None, BACKEND_OFFERS["cpu"])
    kind = TORCH_TYPE[backend]
    if present_backend() != backend:
        raise Unavailable(_absent(hardware, describe_here()))
    module = torch.get_device_module(kind)
    name = module.get_device_name(0)
    if hardware["match"] and not any(word.lower() in name.lower() for word in hardware["match"]):
        raise Unavailable(_absent(hardware, describe_here()))
    if module.device_count() < hardware["devices"]:
        raise Unavailable(_absent(hardware, describe_here()))
    offers = tuple(hardware["offers"]) if hardware["backend"] != "auto" else _found_offers(backend)
    return Device(kind, backend, name, hardware["devices"], module.get_device_properties(0).total_memory, offers)


def present_backend() -> str:
    """The backend of this machine's accelerator, or cpu."""
    if torch.cuda.is_available():
        return "hip" if torch.version.hip else "cuda"
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return "xpu"
    try:
        import habana_frameworks.torch.core  # noqa: F401  # registers the hpu device with torch
    except Exception:
        return "cpu"
    return "hpu"


def describe_here() -> str:
    """What this machine has, in a few words."""
    backend = present_backend()
    if backend == "cpu":
        return "only a CPU"
    module = torch.get_device_module(TORCH_TYPE[backend])
    return f"{module.device_count()} x {module.get_device_name(0)}"


def _absent(hardware: Mapping[str, Any], here: str) -> str:
    return (
        f"hardware={hardware['name']} asks for {hardware['devices']} x {hardware['vendor']} "
        f"{'/'.join(hardware['match']) or hardware['name']}, but here is {here}; "
        "hydra/launcher=submitit_slurm would ask a scheduler for it, hardware=auto runs on what is here"
    )


def _found_offers(backend: str) -> tuple[str, ...]:
    """Precisions of the device in this machine, where the user named no model."""
    offers = list(BACKEND_OFFERS[backend])
    if backend == "cuda":
        major, minor = torch.cuda.get_device_capability(0)
        if major >= 8:
            offers += ["tf32", "bf16"]
        if (major, minor) >= (8, 9):
            offers.append("fp8")
    return tuple(offers)
