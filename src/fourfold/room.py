"""Whether a cell's network can be on its devices at all, told before anything is put there."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from fourfold.benchmarks.interface import Benchmark
from fourfold.benchmarks.models import parameter_count
from fourfold.errors import FourfoldError, Refused
from fourfold.hardware.device import Device
from fourfold.hardware.strategies import DIVIDED
from fourfold.recipe import Recipe, resolve
from fourfold.tracing import PLAIN

# Numbers that an optimizer keeps for each weight.
STATES = {"sgd": 0, "adam": 2, "adamw": 2}
BYTES = {"fp32": 4, "bf16": 2}


def check(cell: Mapping[str, Any], recipe: Recipe, benchmark: Benchmark, device: Device | None) -> None:
    """Raises Refused where what does not depend on the batch is more than a device has.

    That is a lower bound: the weights, and in plain training their gradients and the optimizer's states.
    """
    memory = memory_of(cell, device)
    if memory is None or "kernel" in benchmark.facts:
        return
    network = benchmark.network(cell["seed"], "meta")
    count, trained, what = parameter_count(network), 0, "weights"
    if cell["method"]["_target_"] == PLAIN["_target_"]:
        trained, what = (
            parameter_count(network, trained=True),
            f"weights, gradients and {recipe.optimizer['name']}'s states",
        )
    momentum = recipe.optimizer["name"] == "sgd" and recipe.optimizer["momentum"]
    states = 1 if momentum else STATES[recipe.optimizer["name"]]
    needed = (count + trained * (1 + states)) * BYTES[recipe.weights_precision]
    hardware = cell["hardware"]
    ranks = hardware["devices"] * hardware["nodes"]
    shares = ranks if cell["strategy"] in DIVIDED else 1
    if needed / shares <= memory:
        return
    least = ceil(needed / memory)
    ways = [f"{least} devices and strategy=fsdp hold it with nothing to spare"]
    if recipe.weights_precision == "fp32" and recipe.precision == "bf16":
        ways.append("weights_precision=bf16 halves it")
    if benchmark.recipe.size is not None:
        ways.append("a smaller size= needs less")
    raise Refused(
        f"benchmark {benchmark.name}: {what} of {count / 1e9:.3g}e9 parameters need {needed / shares / 1e9:,.0f} GB on "
        f"each device, and {hardware['name']} has {memory / 1e9:,.0f}, whatever the batch; {'; '.join(ways)}"
    )


def memory_of(cell: Mapping[str, Any], device: Device | None) -> float | None:
    """Bytes of one of the cell's devices; of a stand-in or one elsewhere (None) what its datasheet says; None on the
    CPU."""
    if device is None or device.stand_in:
        return cell["hardware"]["memory"]
    return device.memory


def remedy(cell: Mapping[str, Any], memory: float | None) -> str:
    """What may fit where a step did not: by a projection onto a device of this memory, else what makes it smaller."""
    benchmark = cell["benchmark"]
    if "kernel" in benchmark["offers"]:
        values = " or ".join(f"benchmark.model.{key}=" for key in (benchmark["model"] or {}).get("limits") or {})
        return f"a smaller {values or 'benchmark.model'} may fit"
    samples = ", benchmark.data.samples=" if "samples" in (benchmark["data"] or {}) else ""
    return advice(cell, memory) or f"a smaller batch={samples} or another precision= may fit"


def advice(cell: Mapping[str, Any], memory: float | None) -> str | None:
    """What would fit where a step did not: by a projection of the cell onto a device of this memory; None if it cannot
    be projected."""
    from fourfold.projection.cell import facts_of, sizes_of
    from fourfold.projection.model import memory as projected

    if memory is None:
        return None
    try:
        facts = facts_of(cell, resolve(cell, accelerator=True))
    except FourfoldError:
        return None
    hardware = {**cell["hardware"], "memory": memory}
    devices = hardware["devices"] * hardware["nodes"]
    strategy = "ddp" if cell["strategy"] == "auto" else cell["strategy"]
    found = projected(sizes_of(facts), hardware, devices, strategy)
    said = f"a step needs about {found['needed'] / 1e9:.3g} of {memory / 1e9:.3g} GB"
    if found["largest_batch"]:
        return f"{said}; batch={found['largest_batch']} or less would fit (projected)"
    if found["shards_that_fit"]:
        return f"{said}; no batch fits; {found['shards_that_fit']} devices with strategy=fsdp would hold it (projected)"
    return f"{said}; no batch fits (projected)"
