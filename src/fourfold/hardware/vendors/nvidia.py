"""NVIDIA's devices: CUDA."""

import torch

from fourfold.hardware.vendor import Vendor


class Devices(Vendor):
    """A torch built for CUDA shows them as cuda."""

    backend, kind, collectives = "cuda", "cuda", "nccl"
    offers = ("fp32", "fp16", "collectives")

    def present(self) -> bool:
        return torch.version.hip is None and torch.cuda.is_available()

    def runtime(self) -> str | None:
        return torch.version.cuda

    def found_offers(self) -> tuple[str, ...]:
        """Ampere (8.0) brought tf32 and bf16, Ada (8.9) and Hopper fp8."""
        capability = torch.cuda.get_device_capability(0)
        newer = [*(("tf32", "bf16") if capability >= (8, 0) else ()), *(("fp8",) if capability >= (8, 9) else ())]
        return (*self.offers, *newer)

    def set_precision(self, precision: str) -> None:
        """Convolutions have a switch of their own, which is on unless it is turned off."""
        super().set_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
