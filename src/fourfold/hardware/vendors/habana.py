"""Intel Gaudi: the hpu device type, which Habana's package adds to torch. Fabric does not know it."""

import importlib
import os
from typing import Any

import torch
from lightning.fabric.accelerators import Accelerator

from fourfold.hardware.vendor import TorchAccelerator, Vendor


class HPUAccelerator(TorchAccelerator):
    """Gaudi devices for Fabric."""

    kind = "hpu"


class Devices(Vendor):
    """Runs in eager mode, as all other devices do; lazy mode would want a mark between the parts of a step."""

    backend, kind, collectives = "hpu", "hpu", "hccl"
    offers = ("fp32", "bf16", "collectives")

    def present(self) -> bool:
        """Importing Habana's package registers the device type."""
        os.environ.setdefault("PT_HPU_LAZY_MODE", "0")
        try:
            importlib.import_module("habana_frameworks.torch.core")
        except ImportError:
            return False
        return bool(self.module.is_available())

    def memory(self, index: int = 0) -> int | None:
        properties: Any = self.module.get_device_properties(index)
        total = getattr(properties, "total_memory", None)
        return None if total is None else int(total)

    def accelerator(self) -> Accelerator:
        return HPUAccelerator()

    def set_precision(self, precision: str) -> None:
        torch.set_float32_matmul_precision("highest")
