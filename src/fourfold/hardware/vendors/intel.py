"""Intel's GPUs: torch's own xpu device type, with collectives by xccl. Fabric does not know them."""

import torch
from lightning.fabric.accelerators import Accelerator

from fourfold.hardware.vendor import TorchAccelerator, Vendor


class XPUAccelerator(TorchAccelerator):
    """Intel's GPUs for Fabric."""

    kind = "xpu"


class Devices(Vendor):
    """tf32 is not offered: the libraries beneath torch decide on it by themselves."""

    backend, kind, collectives = "xpu", "xpu", "xccl"
    offers = ("fp32", "bf16", "fp16", "collectives")

    def present(self) -> bool:
        return hasattr(torch, "xpu") and torch.xpu.is_available()

    def runtime(self) -> str | None:
        return getattr(torch.version, "xpu", None)

    def accelerator(self) -> Accelerator:
        return XPUAccelerator()

    def set_precision(self, precision: str) -> None:
        torch.set_float32_matmul_precision("highest")
