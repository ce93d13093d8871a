"""AMD's devices: ROCm. torch calls them cuda as well, and RCCL nccl."""

import torch

from fourfold.hardware.vendor import Vendor


class Devices(Vendor):
    """A torch built for ROCm shows them as cuda. There is no tf32: its switch does nothing there by default."""

    backend, kind, collectives = "hip", "cuda", "nccl"
    offers = ("fp32", "bf16", "fp16", "collectives")

    def present(self) -> bool:
        return torch.version.hip is not None and torch.cuda.is_available()

    def runtime(self) -> str | None:
        return torch.version.hip

    def set_precision(self, precision: str) -> None:
        """Exact fp32, whatever the environment says: tf32 is not offered."""
        torch.set_float32_matmul_precision("highest")
