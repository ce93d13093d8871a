"""The processor of this machine."""

from fourfold.hardware.vendor import Vendor


class Devices(Vendor):
    """As many ranks as are asked for; fp16 autocast there would silently be bf16, so it is not offered."""

    backend, kind, collectives = "cpu", "cpu", "gloo"
    offers = ("fp32", "bf16", "collectives")

    def present(self) -> bool:
        return True

    def device_name(self, index: int = 0) -> str:
        return "cpu"

    def memory(self, index: int = 0) -> int | None:
        return None
