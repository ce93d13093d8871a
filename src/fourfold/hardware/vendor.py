"""One interface to the devices of every vendor. What torch names alike for all of them is done here."""

import importlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from lightning.fabric.accelerators import Accelerator

# hardware.backend -> the module that knows its vendor; each has one class, ``Devices``.
MODULES = {"cpu": "processor", "cuda": "nvidia", "hip": "amd", "xpu": "intel", "hpu": "habana"}
SEARCHED = ("cuda", "hip", "xpu", "hpu")  # the order in which hardware=auto looks for an accelerator


class Vendor:
    """The devices of one vendor on this machine, as torch shows them.

    backend: its name in ``hardware.backend``; kind: torch's device type; collectives: torch.distributed's backend;
    offers: precisions and abilities that all its devices have. An error of the vendor's library passes through.
    """

    backend: str
    kind: str
    collectives: str
    offers: tuple[str, ...]

    @property
    def module(self) -> Any:
        """torch's module of the device type: events, streams, synchronize, memory statistics."""
        return torch.get_device_module(self.kind)

    def present(self) -> bool:
        """Whether torch can use a device of this vendor here."""
        raise NotImplementedError

    def count(self) -> int:
        return int(self.module.device_count())

    def device_name(self, index: int = 0) -> str:
        return str(self.module.get_device_name(index))

    def memory(self, index: int = 0) -> int | None:
        """Bytes of one device's memory, or None where its library does not say."""
        return int(self.module.get_device_properties(index).total_memory)

    def runtime(self) -> str | None:
        """The version of the library beneath torch."""
        return None

    def found_offers(self) -> tuple[str, ...]:
        """What the device in this machine offers, where the user named no model."""
        return self.offers

    def accelerator(self) -> str | Accelerator:
        """What Fabric calls its devices, or our own accelerator where Fabric has none."""
        return self.kind

    def set_precision(self, precision: str) -> None:
        """Makes fp32 exact, and tf32 the products alone."""
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")

    def seed(self, seed: int) -> None:
        """Seeds the generators of all devices; torch.manual_seed does it for those that torch knows."""
        torch.manual_seed(seed)


@lru_cache(maxsize=len(MODULES))
def vendor(backend: str) -> Vendor:
    """The vendor of a backend."""
    found = importlib.import_module(f"fourfold.hardware.vendors.{MODULES[backend]}").Devices()
    assert isinstance(found, Vendor)
    return found


class TorchAccelerator(Accelerator):
    """A device type that torch knows and Fabric does not. Subclasses say which."""

    kind: str

    def setup_device(self, device: torch.device) -> None:
        torch.get_device_module(self.kind).set_device(device.index or 0)

    def teardown(self) -> None:
        """Nothing is kept."""

    @staticmethod
    def parse_devices(devices: Any) -> list[int]:
        return list(range(devices)) if isinstance(devices, int) else [int(index) for index in devices]

    @classmethod
    def get_parallel_devices(cls, devices: Sequence[int]) -> list[torch.device]:
        return [torch.device(cls.kind, index) for index in devices]

    @classmethod
    def auto_device_count(cls) -> int:
        return int(torch.get_device_module(cls.kind).device_count())

    @classmethod
    def is_available(cls) -> bool:
        return bool(torch.get_device_module(cls.kind).is_available())

    @classmethod
    def name(cls) -> str:
        return cls.kind
