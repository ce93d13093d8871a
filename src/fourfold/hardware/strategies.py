"""How several devices share the work, in Fabric's terms; and precision for device types that Fabric does not know."""

from typing import Any

import torch
from lightning.fabric.plugins import MixedPrecision, Precision
from lightning.fabric.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch import nn

from fourfold.errors import Refused
from fourfold.hardware.vendor import Vendor

# Our precisions in Fabric's words. tf32 is fp32 with faster products; fp8 is for kernels that ask for it themselves.
FABRIC_PRECISION = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed", "fp8": "bf16-mixed"}


def precision_plugin(precision: str, kind: str) -> Precision:
    """Autocast (and, for fp16, loss scaling) of a device type; nothing where products are 32-bit."""
    word = FABRIC_PRECISION[precision]
    return Precision() if word == "32-true" else MixedPrecision(word, device=kind)  # type: ignore[arg-type]


def strategy_of(asked: str, ranks: int, vendor: Vendor, precision: str) -> Strategy:
    """Fabric's strategy.

    Raises Refused where the strategy cannot have the precision, and for replicas, which are projected only.
    """
    if ranks == 1:
        return SingleDeviceStrategy(torch.device("cpu") if vendor.kind == "cpu" else torch.device(vendor.kind, 0))
    check_precision(asked, ranks, precision)
    if asked == "replicas":
        raise Refused(
            "strategy=replicas: measured copies are not summed yet; a sweep with slots= runs one on each device"
        )
    if asked == "fsdp":
        return ModelParallelStrategy(
            shard, data_parallel_size=ranks, tensor_parallel_size=1, process_group_backend=vendor.collectives
        )
    return DDPStrategy(process_group_backend=vendor.collectives)


def check_precision(asked: str, ranks: int, precision: str) -> None:
    """Raises Refused where a strategy cannot have a precision."""
    if ranks > 1 and asked == "fsdp" and FABRIC_PRECISION[precision] == "16-mixed":
        raise Refused(f"strategy={asked} precision=fp16: loss scaling needs whole gradients; precision=bf16 does not")


def shard(network: nn.Module, mesh: Any) -> nn.Module:
    """FSDP2 (Zhao et al. 2023): every repeated block, then the rest, spread over the ranks."""
    from torch.distributed.fsdp import fully_shard

    mesh = mesh["data_parallel"]
    for block in blocks(network):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def blocks(network: nn.Module) -> list[nn.Module]:
    """The entries of the outermost lists of layers: what a model repeats."""
    found: list[nn.Module] = []
    for child in network.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks(child)
    return [block for block in found if any(True for _ in block.parameters())]
