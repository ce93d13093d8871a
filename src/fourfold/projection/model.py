"""From what a step does to how long a device would take for it. Pure functions of plain data; no torch.

Each operator takes the longest of three times (a roofline for each, Williams et al. 2009, with a floor):

    seconds = max(FLOP / (peak * efficiency), bytes / (bandwidth * efficiency), launch)

The efficiencies are fitted (``fourfold.projection.calibrate``). Without a fit they are 1 and the launch is free, so
that the rate is an upper bound.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp
from typing import Any, Protocol

import numpy as np

from fourfold.errors import Unavailable

# An operator's data type -> the precision whose peak holds; 32-bit products may be tf32.
PRECISION_OF = {"float32": "fp32", "complex64": "fp32", "float64": "fp32", "float16": "fp16", "bfloat16": "bf16"}
# Batched products are small ones, as those of attention are.
EFFICIENCY_OF = {
    "matmul": "matmul",
    "batched_matmul": "attention",
    "attention": "attention",
    "convolution": "convolution",
    "depthwise_convolution": "depthwise",
}
# What sums over a dimension, or scatters, reads memory less evenly than what goes element by element.
REDUCTIONS = ("norm", "softmax", "sum", "mean", "pool", "nll", "embedding", "index", "scatter", "sort", "cumsum")
INTERVAL = 1.96
# Normalisation over a batch needs its statistics first: its inputs are read twice (forward x, x -> y; backward x and
# dy, x and dy -> dx), where an operator's bytes count each tensor once.
PASSES = {"_native_batch_norm_legit": 3 / 2, "native_batch_norm": 3 / 2, "native_batch_norm_backward": 5 / 3}
MEMORY_ERROR = 0.1  # of the allocator's peak, which tests/projection/test_memory.py holds it to
BACKWARD = 2 / 3  # of a training step's products: the part that an exchange of gradients can hide behind


class Call(Protocol):
    """Calls of an operator that are alike; ``flops`` and ``bytes`` are of one."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def flops(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def calls(self) -> int: ...


@dataclass(frozen=True)
class Efficiency:
    """Shares of the peak rates that are reached, and the seconds that a launch takes at least."""

    matmul: float = 1.0
    convolution: float = 1.0
    depthwise: float = 1.0
    attention: float = 1.0
    memory: float = 1.0
    reduction: float = 1.0
    launch: float = 0.0

    @classmethod
    def of(cls, calibration: Mapping[str, Any]) -> "Efficiency":
        return cls(**{key: float(calibration[key]) for key in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Time:
    """Seconds of one step on one device by what bounds them."""

    compute: float
    memory: float
    launch: float

    @property
    def total(self) -> float:
        return self.compute + self.memory + self.launch


class Table:
    """The operators of a step on a device, as arrays: seconds at the peak rates, for one call of each."""

    def __init__(self, calls: Iterable[Call], hardware: Mapping[str, Any], precision: str) -> None:
        """Raises Unavailable if the device states no rate for a product."""
        kept = [call for call in calls if call.bytes]
        self.calls = np.array([call.calls for call in kept], dtype=float)
        self.compute = np.array([call.flops / peak(hardware, call, precision) if call.flops else 0.0 for call in kept])
        self.memory = np.array([call.bytes * PASSES.get(call.name, 1.0) / hardware["bandwidth"] for call in kept])
        self.product = [EFFICIENCY_OF.get(call.kind, "matmul") for call in kept]
        self.reading = ["reduction" if any(word in call.name for word in REDUCTIONS) else "memory" for call in kept]
        self._kinds = {name: np.array([kind == name for kind in self.product]) for name in set(self.product)}
        self._reads = {name: np.array([kind == name for kind in self.reading]) for name in set(self.reading)}

    def time(self, efficiency: Efficiency) -> Time:
        """Of all operators, one after another."""
        compute = self.compute / _spread(efficiency, self._kinds, len(self.calls))
        memory = self.memory / _spread(efficiency, self._reads, len(self.calls))
        each = np.stack([compute, memory, np.full(len(self.calls), efficiency.launch)])
        bound = each.argmax(axis=0)
        longest = each.max(axis=0) * self.calls
        return Time(*(float(longest[bound == index].sum()) for index in range(3)))


def _spread(efficiency: Efficiency, kinds: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    values = np.ones(count)
    for name, mask in kinds.items():
        values[mask] = getattr(efficiency, name)
    return values


def peak(hardware: Mapping[str, Any], call: Call, precision: str) -> float:
    """FLOP a second of products of a data type; of depthwise convolutions, which no matrix unit takes, of fp32.

    A device that states no fp32 rate is taken to do those at its bf16 rate.
    """
    if call.kind == "depthwise_convolution":
        return float(hardware["peak"].get("fp32") or hardware["peak"]["bf16"])
    dtype = call.dtype
    word = PRECISION_OF.get(dtype, "fp8" if dtype.startswith("float8") else "fp32")
    if word == "fp32" and precision == "tf32":
        word = "tf32"
    rate = hardware["peak"].get(word)
    if not rate:
        raise Unavailable(
            f"mode=projected: hardware {hardware['name']} states no {word} rate, and the step has such products; "
            f"hardware.peak.{word}=... gives one"
        )
    return float(rate)


@dataclass(frozen=True)
class Sizes:
    """What a step holds and learns, from its trace; gradients, static and peak in bytes."""

    units: float
    samples: int
    gradients: int
    static: int
    peak: int


def project(
    table: Table, sizes: Sizes, hardware: Mapping[str, Any], strategy: str, calibration: Mapping[str, Any]
) -> dict[str, Any]:
    """What a cell would do on its hardware, as plain data for a record.

    units_per_second with ``low`` and ``high`` (95 %), or as an upper bound where nothing was calibrated; seconds of a
    step by what bounds them; memory against what there is; energy if the board's limit is drawn all the time.
    """
    time = table.time(Efficiency.of(calibration))
    devices = hardware["devices"] * hardware["nodes"]
    exchanged = exchanged_bytes(sizes.gradients, devices, strategy)
    exposed = exposed_seconds(exchanged, hardware, time.total, strategy)
    seconds = time.total + exposed
    shares = {"compute": time.compute, "memory": time.memory, "launch": time.launch, "communication": exposed}
    rate = sizes.units * devices / seconds
    spread = calibration["spread"]
    return {
        "units_per_second": rate,
        "low": None if spread is None else rate * exp(-INTERVAL * spread),
        "high": None if spread is None else rate * exp(INTERVAL * spread),
        "upper_bound": spread is None,
        "step_seconds": seconds,
        "bound_by": max(shares, key=lambda name: shares[name]),
        "bound": {name: value / seconds for name, value in shares.items()},
        "exchanged_bytes": exchanged,
        "memory": memory(sizes, hardware, devices, strategy),
        "joules_per_unit": None if hardware["power"] is None else hardware["power"] * devices / rate,
        "calibration": dict(calibration),
    }


def exchanged_bytes(gradients: int, devices: int, strategy: str) -> float:
    """What each device sends a step: a ring all-reduce of the gradients; sharded, two gathers of the weights as well.

    Raises Unavailable for a strategy whose exchange is not modelled.
    """
    if devices == 1 or strategy == "replicas":
        return 0.0
    if strategy == "tensor":
        raise Unavailable("strategy=tensor mode=projected: what it exchanges is not modelled; fsdp and ddp are")
    passes = 3 if strategy == "fsdp" else 2
    return passes * (devices - 1) / devices * gradients


def exposed_seconds(exchanged: float, hardware: Mapping[str, Any], computing: float, strategy: str) -> float:
    """The seconds of the exchange that computation does not hide: ddp sends while it goes backward, fsdp all along."""
    if not exchanged:
        return 0.0
    links = hardware["interconnect"]
    key = "node" if hardware["nodes"] == 1 else "network"
    if not links[key]:
        raise Unavailable(f"mode=projected: hardware.interconnect.{key} is not known; give its bytes a second")
    hidden = computing * (1.0 if strategy == "fsdp" else BACKWARD)
    return max(0.0, exchanged / float(links[key]) - hidden)


def memory(sizes: Sizes, hardware: Mapping[str, Any], devices: int, strategy: str) -> dict[str, Any]:
    """Bytes needed on each device, their error as a share, whether they fit, the largest batch that does, and the
    fewest devices that shard it.

    What is held between steps is weights, optimizer states and gradients; of these the gradients are given back before
    the next step, so they do not add to the activations at their peak. Activations grow with the batch.
    """
    gradients = sizes.gradients
    kept = max(0, sizes.static - gradients)
    activations = max(0, sizes.peak - kept)
    if devices > 1 and strategy == "fsdp":
        needed = kept / devices + max(activations, gradients / devices)
    elif devices > 1 and strategy != "replicas":
        needed = kept + activations + gradients  # ddp sends from buffers of its own
    else:
        needed = float(max(sizes.peak, sizes.static))
    available = hardware["memory"]
    fits = None if available is None else needed <= available
    of_one = activations / sizes.samples if sizes.samples else 0.0
    room = 0.0 if available is None else available - (needed - activations)
    largest = int(room // of_one) if of_one and room > 0 else 0
    sharded = None
    if available is not None and not fits and activations < available:
        sharded = -(-int(kept + gradients) // int(available - activations))
    return {
        "needed": needed,
        "error": MEMORY_ERROR,
        "static": sizes.static,
        "available": available,
        "fits": fits,
        "largest_batch": largest,
        "shards_that_fit": sharded,
    }
