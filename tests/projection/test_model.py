"""The model of a device by hand: what bounds an operator, what is exchanged, what fits."""

import math
from dataclasses import dataclass
from typing import Any

import pytest

from fourfold.errors import Unavailable
from fourfold.projection.model import Efficiency, Sizes, Table, exchanged_bytes, memory, project

DEVICE: dict[str, Any] = {
    "name": "device", "bandwidth": 1e12, "memory": 10e9, "power": 100, "devices": 1, "nodes": 1,
    "peak": {"fp32": 10e12, "tf32": 50e12, "bf16": 100e12}, "interconnect": {"node": 1e11, "network": 1e10},
}  # fmt: skip
NONE = {
    "matmul": 1,
    "convolution": 1,
    "depthwise": 1,
    "attention": 1,
    "memory": 1,
    "reduction": 1,
    "launch": 0,
    "spread": None,
}


@dataclass(frozen=True)
class Call:
    name: str = "mm"
    kind: str = "matmul"
    dtype: str = "bfloat16"
    flops: int = 0
    bytes: int = 1
    calls: int = 1


def seconds(call: Call, precision: str = "bf16", **efficiency: float) -> tuple[float, str]:
    found = Table([call], DEVICE, precision).time(Efficiency(**efficiency))
    most = max(("compute", "memory", "launch"), key=lambda name: getattr(found, name))
    assert found.total == getattr(found, most)
    return found.total, most


def test_each_operator_is_bound_by_the_slowest_of_three() -> None:
    assert seconds(Call(flops=10**14)) == (1.0, "compute")
    assert seconds(Call(flops=10**14, calls=3), matmul=0.5) == (6.0, "compute")
    assert seconds(Call(bytes=10**12), memory=0.25) == (4.0, "memory")
    assert seconds(Call(bytes=8, calls=100), launch=1e-5) == (pytest.approx(1e-3), "launch")
    assert seconds(Call(flops=10**12, bytes=10**12)) == (1.0, "memory")


def test_the_rate_is_that_of_the_data_type_and_tf32_of_32_bit_products() -> None:
    assert seconds(Call(flops=10**13, dtype="float32"), "fp32")[0] == 1.0
    assert seconds(Call(flops=10**13, dtype="float32"), "tf32")[0] == 0.2
    with pytest.raises(Unavailable, match=r"states no fp16 rate.*hardware.peak.fp16="):
        seconds(Call(flops=1, dtype="float16"))


def test_normalising_over_a_batch_reads_its_inputs_twice() -> None:
    twice = seconds(Call(name="native_batch_norm", kind="other", bytes=10**12))[0]
    assert twice == 1.5


SIZES = Sizes(units=8.0, samples=4, gradients=4 * 10**9, static=9 * 10**9, peak=13 * 10**9)


def projected(strategy: str = "ddp", spread: float | None = None, **hardware: Any) -> dict[str, Any]:
    return project(
        Table([Call(flops=10**14)], DEVICE, "bf16"), SIZES, {**DEVICE, **hardware}, strategy, {**NONE, "spread": spread}
    )


def test_a_projection_says_rate_bound_memory_and_energy() -> None:
    found = projected()
    assert (found["units_per_second"], found["bound_by"], found["upper_bound"]) == (8.0, "compute", True)
    assert found["low"] is found["high"] is None
    assert found["joules_per_unit"] == 100 / 8
    assert found["memory"]["needed"] == 13e9
    assert found["memory"]["fits"] is False
    fitted = projected(spread=0.1)
    assert fitted["low"] == pytest.approx(8 * math.exp(-0.196))
    assert fitted["high"] == pytest.approx(8 * math.exp(0.196))


def test_the_largest_batch_and_the_sharding_that_fit() -> None:
    """9 GB are held between steps, 4 of them gradients: 5 + 2 a sample. In 10 GB: 2 samples; of 4, two devices."""
    found = memory(SIZES, DEVICE, 1, "ddp")
    assert found["largest_batch"] == 2
    assert found["shards_that_fit"] == 5  # 9 GB over devices that have 2 GB left beside the activations
    assert memory(SIZES, {**DEVICE, "memory": 80e9}, 1, "ddp")["fits"] is True
    assert memory(SIZES, DEVICE, 8, "fsdp")["needed"] == 5e9 / 8 + 8e9
    assert memory(SIZES, DEVICE, 8, "ddp")["needed"] == 5e9 + 8e9 + 4e9


def test_what_devices_exchange_is_a_ring_s() -> None:
    assert exchanged_bytes(4 * 10**9, 4, "ddp") == 2 * 0.75 * 4e9
    assert exchanged_bytes(4 * 10**9, 4, "fsdp") == 3 * 0.75 * 4e9
    assert exchanged_bytes(10**9, 4, "replicas") == exchanged_bytes(10**9, 1, "ddp") == 0
    with pytest.raises(Unavailable, match="strategy=tensor"):
        exchanged_bytes(1, 2, "tensor")


def test_ddp_hides_its_exchange_behind_the_backward_pass() -> None:
    two = projected(devices=2)  # 4 GB at 100 GB/s: 0.04 s, hidden behind 2/3 s
    assert two["units_per_second"] == 16.0
    slow = projected(devices=2, interconnect={"node": 4e9, "network": None})  # 1 s, of which 2/3 s are hidden
    assert slow["step_seconds"] == pytest.approx(4 / 3)
    assert slow["bound"]["communication"] == pytest.approx(0.25)
    with pytest.raises(Unavailable, match=r"hardware\.interconnect\.network"):
        projected(nodes=2, interconnect={"node": 4e9, "network": None})
