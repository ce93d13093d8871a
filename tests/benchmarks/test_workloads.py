"""Every workload: its full size is what its paper says, its smoke size is the same thing small, and it trains."""

import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fourfold.benchmarks import interface
from fourfold.benchmarks.interface import Benchmark
from fourfold.composition import compose, config_directory, plain
from fourfold.errors import DONE, UNAVAILABLE
from fourfold.experiment import run_cell
from fourfold.recipe import resolve

# What keeps a full-size benchmark's data small; the model does not change.
FEW_PICTURES = ("benchmark.data.samples=2",)
LITTLE_TEXT = ("benchmark.data.megabytes=0.1",)


@dataclass(frozen=True)
class Workload:
    """One benchmark: parameters of its full size, in millions, counted by hand or in the specification.

    part: the attribute path of the counted part of the network; quick: its family's one training test that is not slow;
    small: overrides that keep the data of the full size small; smoke: overrides of the training test; extra: a library
    that not everyone has.
    """

    name: str
    millions: float
    small: tuple[str, ...] = ()
    size: str | None = None
    part: str = ""
    quick: bool = False
    smoke: tuple[str, ...] = field(default=())
    learns: bool = True
    extra: str | None = None

    @property
    def label(self) -> str:
        return "-".join(filter(None, (self.name, self.size, self.part.replace(".", "-"))))


WORKLOADS = [
    Workload("resnet", 25.56, FEW_PICTURES, quick=True),
    Workload("resnet152", 60.19, FEW_PICTURES),
    Workload("convnext", 197.8, FEW_PICTURES),
    Workload("regnet", 644.8, FEW_PICTURES),
    Workload("focalnet", 88.75, FEW_PICTURES),
    Workload("bert", 109.5, LITTLE_TEXT),
    Workload("llama", 1235.8, LITTLE_TEXT, quick=True),
    Workload("llama", 6738.4, LITTLE_TEXT, size="7b"),
    Workload("llama", 8030.3, LITTLE_TEXT, size="8b"),
    Workload("llama", 70553.7, LITTLE_TEXT, size="70b"),
    Workload("t5", 60.5, LITTLE_TEXT),
    Workload("reformer", 5.98, LITTLE_TEXT),
    Workload("opt", 1316.0, LITTLE_TEXT),
    Workload("pythia", 1011.8, LITTLE_TEXT),
    Workload("rwkv", 430.4, LITTLE_TEXT),
    Workload("mistral", 23572.0, LITTLE_TEXT),
    Workload("mistral", 7241.7, LITTLE_TEXT, size="7b"),
    Workload("llama4", 107770.0, LITTLE_TEXT),
    Workload("whisper", 8.31, FEW_PICTURES, quick=True),
    Workload("whisper_transcribe", 1543.0, FEW_PICTURES, smoke=("method=finetune",)),
    Workload("dinov2", 1135.0, FEW_PICTURES, part="student.backbone", quick=True),
    Workload("vjepa", 654.0, FEW_PICTURES, part="model", quick=True),
    Workload("diffusion", 865.9, FEW_PICTURES, part="unet", quick=True, extra="diffusers"),
    Workload("diffusion", 83.7, FEW_PICTURES, part="vae", extra="diffusers"),
    Workload("diffusion", 340.4, FEW_PICTURES, part="text", extra="diffusers"),
    Workload("flux", 11901.0, FEW_PICTURES, part="transformer", smoke=("method=finetune",), extra="diffusers"),
    Workload("llava", 7063.0, FEW_PICTURES, quick=True),
    Workload("pna", 4.096, ("benchmark.data.samples=50",), quick=True, extra="torch_geometric"),
    Workload("dimenet", 0.53495, ("benchmark.data.samples=50",)),
    # Tables, bottom (13-512-512-64) and top (64 + 36 products -1024-1024-1024-1), by hand.
    Workload("dlrm", 512.0 + 0.302656 + 2.203649, ("benchmark.data.samples=2",), quick=True),
    # 4 layers of 2 * 12 * 12 complex 32 x 32 matrices and a 1x1 convolution, 3-32 before, 32-128-1 after, by hand.
    Workload("fno", 4 * (2 * 144 * 1024 * 2 + 1056) / 1e6 + 0.000128 + 0.004224 + 0.000129, FEW_PICTURES, quick=True),
    # One-hot cells 96-256-256-256-256-13 and the logarithm of the total, by hand.
    Workload("gflownet", (97 * 256 + 3 * 257 * 256 + 257 * 13 + 1) / 1e6, quick=True),
]
BY_NAME = {workload.name: workload for workload in reversed(WORKLOADS)}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cell(name: str, *overrides: str) -> dict:
    shared = [f"benchmark={name}", "hardware=cpu", "tracking=off", "precision_policy=nearest", "progress=off"]
    return plain(compose([*shared, *overrides]))


def benchmark(name: str, *overrides: str) -> Benchmark:
    made = cell(name, *overrides)
    return interface.build(made, resolve(made, accelerator=False))


def module_classes(network: torch.nn.Module) -> set[str]:
    return {f"{type(module).__module__}.{type(module).__qualname__}" for module in network.modules()}


@cache
def full(workload: Workload) -> torch.nn.Module:
    if workload.extra:
        pytest.importorskip(workload.extra)
    size = [f"size={workload.size}"] if workload.size else []
    return benchmark(workload.name, "scale=full", *size, *workload.small).network(0, device="meta")


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.label)
def test_the_full_size_has_as_many_parameters_as_its_paper_says(workload):
    network = full(workload)
    counted = network.get_submodule(workload.part)
    assert sum(parameter.numel() for parameter in counted.parameters()) / 1e6 == pytest.approx(
        workload.millions, rel=0.01
    )


@pytest.mark.parametrize("workload", BY_NAME.values(), ids=lambda workload: workload.name)
def test_the_parameters_of_large_networks_are_stated(workload):
    """What the memory of hosts is asked by: within a hundredth, and none of more than 0.6e9 is left out."""
    node = cell(workload.name)["benchmark"]
    stated = node["parameters"].get(workload.size or node["default_size"] or "default")
    counted = sum(parameter.numel() for parameter in full(workload).parameters())
    assert stated == pytest.approx(counted, rel=0.01) if stated else counted < 0.6e9


def test_no_workload_is_missing_here():
    """All but kernels, which have no model, and the data sets of the learning papers, whose networks are small."""
    small = {"mlp", "conv", "conv4", "lenet", "simple_vgg", "small_llama"}
    workloads = set()
    for path in (config_directory() / "benchmark").glob("[!_]*.yaml"):
        node = yaml.safe_load(path.read_text())
        model = next(word["model"] for word in node["defaults"] if "model" in word)
        if "kernel" not in node.get("offers", ()) and model not in small:
            workloads.add(path.stem)
    assert workloads == set(BY_NAME)


@pytest.mark.parametrize("workload", BY_NAME.values(), ids=lambda workload: workload.name)
def test_full_and_smoke_size_are_made_of_the_same_modules(workload):
    smoke = benchmark(workload.name, "scale=smoke").network(0, device="meta")
    assert module_classes(full(workload)) == module_classes(smoke)


@pytest.mark.parametrize(
    "workload",
    [
        pytest.param(workload, marks=() if workload.quick else pytest.mark.slow, id=workload.name)
        for workload in BY_NAME.values()
    ],
)
def test_the_smoke_size_runs_three_steps(workload, tmp_path: Path):
    if workload.extra:
        pytest.importorskip(workload.extra)
    record = run_cell(cell(workload.name, "scale=smoke", "until.steps=3", *workload.smoke), tmp_path, [])
    assert record.state == DONE, record.message
    assert record.measurements["units"] > 0
    if workload.learns:
        (series,) = tmp_path.glob("**/*.npz")
        losses = np.load(series)["loss"]
        assert len(losses) == 3
        assert np.isfinite(losses).all()
        assert len(set(losses.tolist())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("workload", BY_NAME.values(), ids=lambda workload: workload.name)
def test_every_trainable_parameter_has_a_gradient(workload):
    """What is never used would stop training on several devices, which waits for all gradients."""
    if workload.extra:
        pytest.importorskip(workload.extra)
    small = benchmark(workload.name, "scale=smoke")
    assert small.sets is not None
    network = small.network(0).train()
    for term in small.objective.terms(network, small.sets.train.batch(torch.arange(4))):
        term.loss_of(network(term.inputs), term.targets).backward()
    unused = [name for name, own in network.named_parameters() if own.requires_grad and own.grad is None]
    assert not unused


def all_sizes() -> list[tuple[str, str]]:
    found = []
    for name, workload in BY_NAME.items():
        model = cell(name)["benchmark"]["model"]
        found += [(name, size) for size in model.get("sizes") or {} if not workload.extra]
    return found


@pytest.mark.slow
def test_every_size_can_be_built():
    for name, size in all_sizes():
        network = benchmark(name, "scale=full", f"size={size}", *BY_NAME[name].small).network(0, device="meta")
        counted = sum(parameter.numel() for parameter in network.parameters())
        stated = cell(name)["benchmark"]["parameters"].get(size, counted if counted < 0.6e9 else 0)
        assert counted == pytest.approx(stated, rel=0.01), (name, size)


GENERATE = ["llama", "opt", "pythia", "rwkv", "mistral", "llama4"]
DEFAULT_INFERENCE = ["whisper_transcribe", "flux"]  # a prediction is a transcript, or a picture


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "llama")) for name in GENERATE]
)
def test_the_smoke_size_writes_tokens(name, tmp_path: Path):
    words = ["method=inference", "method.new_tokens=4", "scale=smoke", "until.steps=2", "batch=2"]
    record = run_cell(cell(name, *words), tmp_path, [])
    assert record.state == DONE, record.message
    assert record.measurements["units"] == 2 * 2 * 4
    with np.load(tmp_path / "series.npz") as series:
        assert series["first_token_seconds"].shape == (2,)
        assert series["token_gap_seconds"].shape == (2 * 3,)


@pytest.mark.slow
@pytest.mark.parametrize("workload", BY_NAME.values(), ids=lambda workload: workload.name)
def test_every_workload_can_be_run_forward_alone(workload, tmp_path: Path):
    if workload.extra:
        pytest.importorskip(workload.extra)
    asked = [] if workload.name in DEFAULT_INFERENCE else ["method=inference"]
    made = cell(workload.name, "scale=smoke", "until.steps=2", "batch=2", *asked)
    assert made["method"]["name"] == "inference"
    record = run_cell(made, tmp_path, [])
    assert record.state == DONE, record.message
    assert record.measurements["units"] >= 2 * 2


def test_a_missing_library_ends_the_cell_as_unavailable(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    record = run_cell(cell("diffusion", "scale=smoke"), tmp_path, [])
    assert record.state == UNAVAILABLE
    assert record.message == "the package diffusers is not installed: pip install 'fourfold[diffusion]'"
