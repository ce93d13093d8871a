"""The shape of a configuration: types without values. The values are in conf/, and a test checks that the two agree.

These are the keys that every member of an axis has. What a member has besides takes its type from its own
YAML: the type of the default, and a `limits` entry for the range, the choices, or the type of a null.
"""

from dataclasses import dataclass
from typing import Any


@dataclass
class Until:
    rule: str
    steps: int | None
    epochs: float | None
    seconds: float | None
    interval: float | None


@dataclass
class Optimizer:
    name: str
    learning_rate: float | None
    momentum: float | None
    weight_decay: float | None
    schedule: str
    schedule_epochs: float | None
    last_rate: float


@dataclass
class Scale:
    name: str


@dataclass
class Checkpoint:
    seconds: float | None
    steps: int | None


@dataclass
class Tracking:
    kind: str
    uri: str | None
    experiment: str


@dataclass
class Measure:
    flops: str
    period: float | None
    idle: float
    carbon: float | None
    price: float | None


@dataclass
class Suite:
    name: str | None
    row: str | None
    weight: float | None


@dataclass
class Peak:
    fp32: float | None
    tf32: float | None
    bf16: float | None
    fp16: float | None
    fp8: float | None


@dataclass
class Interconnect:
    node: float | None
    network: float | None


@dataclass
class Capacity:
    devices: int | None
    nodes: int | None


@dataclass
class Host:
    cores: int
    memory: float
    worker: float
    parameter: float


@dataclass
class Request:
    nodes: int
    tasks_per_node: int
    cpus_per_task: int | None
    mem_gb: float | None
    timeout_min: int
    gres: str | None
    constraint: str | None
    partition: str | None
    account: str | None
    qos: str | None
    setup: list[str]


@dataclass
class Calibration:
    name: str
    matmul: float
    convolution: float
    depthwise: float
    attention: float
    memory: float
    reduction: float
    launch: float
    spread: float | None
    rows: int
    source: str


@dataclass
class Hardware:
    name: str
    vendor: str
    backend: str
    match: list[str]
    devices: int
    nodes: int
    capacity: Capacity
    stand_in: bool
    offers: list[str]
    memory: float | None
    bandwidth: float | None
    power: float | None
    peak: Peak
    interconnect: Interconnect
    host: Host
    launcher: Request


@dataclass
class Setting:
    name: str
    _target_: str
    grants: list[str]
    needs: list[str]
    protocol: list[str]


@dataclass
class Rule:
    name: str
    _target_: str | None
    needs: list[str]
    offers: list[str]


@dataclass
class Method:
    name: str
    _target_: str
    needs: list[str]
    uses: list[str]
    offers: list[str]
    oracle: bool
    rounding: float
    rounding_growth: float
    search: Any
    rule: Any


@dataclass
class Tune:
    protocol: str
    contexts: int | None
    trials: int
    sampler: str
    figure: str | None


@dataclass
class Recipe:
    batch: int
    precision: str
    workers: int
    evaluation: int | None
    until: dict[str, Any]
    optimizer: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]


@dataclass
class Recipes:
    full: Recipe
    smoke: Recipe


@dataclass
class Benchmark:
    name: str
    _target_: str
    offers: list[str]
    needs: list[str]
    unit: str
    domain: str
    rounding: float
    rounding_growth: float
    default_size: str | None
    parameters: dict[str, float]
    recipe: Recipes
    model: Any
    data: Any
    augmentation: Any


@dataclass
class Cell:
    """The whole configuration of one cell, without Hydra's own node."""

    seed: int
    size: str
    batch: Any
    accumulate: int
    recompute: bool
    repeats: int
    workers: Any
    precision: str
    weights: str
    weights_precision: str
    precision_policy: str
    strategy: str
    mode: str
    evaluate_on: str
    diagnose_every: int | None
    data_dir: str
    output_dir: str
    rerun: str
    retries: int
    invalid: str
    dry_run: bool
    slots: int
    timeout: float
    progress: str
    suite: Suite
    max_requeue: int
    checkpoint: Checkpoint
    until: Until
    optimizer: Optimizer
    scale: Scale
    tracking: Tracking
    measure: Measure
    tune: Tune
    benchmark: Any
    hardware: Hardware
    calibration: Calibration
    setting: Any
    method: Any


# The common keys of each axis; the others belong to the member.
COMMON: dict[str, type] = {
    "benchmark": Benchmark,
    "hardware": Hardware,
    "setting": Setting,
    "method": Method,
    "method.rule": Rule,
}

# Values that are one of a few words.
CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("default", "fp32", "tf32", "bf16", "fp16", "fp8"),
    "weights": ("seeded", "pretrained"),
    "weights_precision": ("fp32", "bf16"),
    "precision_policy": ("exact", "nearest"),
    "strategy": ("auto", "ddp", "fsdp", "tensor", "replicas"),
    "mode": ("measured", "projected"),
    "evaluate_on": ("test", "validation"),
    "rerun": ("all", "missing", "failed"),
    "invalid": ("skip", "error"),
    "progress": ("auto", "on", "off"),
    "until.rule": ("default", "steps", "epochs", "steady", "budget"),
    "optimizer.name": ("default", "sgd", "adam", "adamw"),
    "optimizer.schedule": ("constant", "cosine", "step"),
    "scale.name": ("auto", "full", "smoke"),
    "measure.flops": ("auto", "on", "off"),
    "tune.sampler": ("grid", "tpe"),
    "tune.protocol": ("off", "first_k_tasks", "validation_stream", "oracle"),
    "tracking.kind": ("local", "server", "off"),
}

# Of a calibration: what share of a device's rates is reached.
SHARES = ("matmul", "convolution", "depthwise", "attention", "memory", "reduction")

# Ranges of numbers, both ends included.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "slots": (1, 4096),
    "retries": (0, 1000),
    "timeout": (0.1, 1e9),
    "repeats": (1, 1000),
    "accumulate": (1, 1_000_000),
    "diagnose_every": (1, 1e12),
    "max_requeue": (0, 1_000_000),
    "benchmark.rounding": (1, 1e9),
    "benchmark.rounding_growth": (1, 1e9),
    "method.rounding": (1, 1e9),
    "method.rounding_growth": (1, 1e9),
    "checkpoint.seconds": (0.001, 1e9),
    "checkpoint.steps": (1, 1e12),
    "until.steps": (1, 1e12),
    "until.epochs": (0.001, 1e9),
    "until.seconds": (0.001, 1e9),
    "tune.contexts": (1, 100_000),
    "tune.trials": (1, 1_000_000),
    "until.interval": (1e-6, 1.0),
    "optimizer.learning_rate": (0.0, 1e6),
    "optimizer.momentum": (0.0, 1.0),
    "optimizer.weight_decay": (0.0, 1e6),
    "optimizer.schedule_epochs": (0.001, 1e9),
    "optimizer.last_rate": (0.0, 1e6),
    "measure.period": (0.01, 3600.0),
    "measure.idle": (0.0, 60.0),
    "measure.carbon": (0.0, 1e6),
    "measure.price": (0.0, 1e6),
    "hardware.devices": (1, 1024),
    "hardware.nodes": (1, 100_000),
    "hardware.host.cores": (1, 100_000),
    "hardware.host.memory": (0.0, 1e15),
    "hardware.host.worker": (0.0, 1e15),
    "hardware.host.parameter": (0.0, 1e3),
    "hardware.launcher.cpus_per_task": (1, 100_000),
    "hardware.launcher.mem_gb": (0.001, 1e6),
    "hardware.launcher.timeout_min": (1, 1e7),
    "hardware.capacity.devices": (1, 1024),
    "hardware.capacity.nodes": (1, 100_000),
    "hardware.memory": (1.0, 1e18),
    "hardware.bandwidth": (1.0, 1e18),
    "hardware.power": (0.001, 1e6),
    **{f"hardware.interconnect.{link}": (1.0, 1e18) for link in Interconnect.__dataclass_fields__},
    **{f"hardware.peak.{precision}": (1.0, 1e24) for precision in Peak.__dataclass_fields__},
    **{f"calibration.{share}": (1e-6, 1.0) for share in SHARES},
    "calibration.launch": (0.0, 1.0),
    "calibration.spread": (0.0, 10.0),
    "calibration.rows": (0, 1_000_000_000),
}

# What decides the result of a projected cell alone.
PROJECTION = (
    "calibration",
    "hardware.peak",
    "hardware.power",
    "hardware.memory",
    "hardware.bandwidth",
    "hardware.interconnect",
)

# Keys that came later than the first results: at these values a cell keeps the name that it had before.
USUAL = {"accumulate": 1, "recompute": False}
# What does not change a cell's result, and so is not part of its identity.
NOT_IDENTITY = (
    "data_dir",
    "output_dir",
    "rerun",
    "retries",
    "invalid",
    "dry_run",
    "slots",
    "timeout",
    "progress",
    "max_requeue",
    "checkpoint",
    "tracking",
    "measure",
    "suite",
    "benchmark.rounding",
    "benchmark.rounding_growth",
    "method.rounding",
    "method.rounding_growth",
    "benchmark.parameters",
    "hardware.host",
    "hardware.launcher",
    "hardware.capacity",
    "hardware.match",
)
