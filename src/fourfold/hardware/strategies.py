"""How several devices share the work, in Fabric's terms; and precision for device types that Fabric does not know."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.plugins import MixedPrecision, Precision
from lightning.fabric.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch import nn

from fourfold.errors import Refused
from fourfold.hardware.vendor import Vendor

# Our precisions in Fabric's words. tf32 is fp32 with faster products; fp8 is for kernels that ask for it themselves.
FABRIC_PRECISION = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed", "fp8": "bf16-mixed"}
DIVIDED = ("fsdp", "tensor")  # no device holds the whole network
Divide = Callable[[nn.Module, Any], nn.Module]  # (network, mesh of the ranks) -> this rank's part of it


def precision_plugin(precision: str, kind: str) -> Precision:
    """Autocast (and, for fp16, loss scaling) of a device type; nothing where products are 32-bit."""
    word = FABRIC_PRECISION[precision]
    return Precision() if word == "32-true" else MixedPrecision(word, device=kind)  # type: ignore[arg-type]


def strategy_of(asked: str, ranks: int, vendor: Vendor, precision: str, divide: Divide) -> Strategy:
    """Fabric's strategy; ``divide`` is what takes a network apart where the strategy does that.

    Raises Refused where the strategy cannot have the precision.
    """
    if ranks == 1:
        return SingleDeviceStrategy(torch.device("cpu") if vendor.kind == "cpu" else torch.device(vendor.kind, 0))
    check_precision(asked, ranks, precision)
    if asked in DIVIDED:
        sizes = {"data_parallel_size": ranks, "tensor_parallel_size": 1}
        if asked == "tensor":
            sizes = {"data_parallel_size": 1, "tensor_parallel_size": ranks}
        return ModelParallelStrategy(divide, **sizes, process_group_backend=vendor.collectives)  # type: ignore[arg-type]
    # Replicas meet once, after the last step, to put their figures together; on the host, so that no device takes part.
    return DDPStrategy(process_group_backend="gloo" if asked == "replicas" else vendor.collectives)


def check_precision(asked: str, ranks: int, precision: str) -> None:
    """Raises Refused where a strategy cannot have a precision."""
    if ranks > 1 and asked in DIVIDED and FABRIC_PRECISION[precision] == "16-mixed":
        raise Refused(f"strategy={asked} precision=fp16: loss scaling needs whole gradients; precision=bf16 does not")
