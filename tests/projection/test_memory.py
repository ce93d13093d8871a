"""The bytes that a trace says are held, against what an allocator really gave out."""

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fourfold.benchmarks import interface as benchmarks
from fourfold.composition import compose, plain
from fourfold.projection.autocast import MetaAutocast
from fourfold.projection.memory import BLOCK, LiveBytes
from fourfold.projection.trace import Facts, _trace
from fourfold.recipe import resolve
from fourfold.record import read
from fourfold.settings import stream as streams


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.joint, self.out = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        query, key, value = self.joint(inputs).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return inputs + self.out(mixed.transpose(1, 2).flatten(2))


def transformer(device: str) -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), Attention(), nn.GELU(), Attention(), nn.Linear(64, 10)).to(device)


def perceptron(device: str) -> nn.Module:
    return nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 10)).to(device)


def two_steps(build: Callable[[str], nn.Module], device: str) -> None:
    network = build(device)
    optimizer = torch.optim.AdamW(network.parameters(), foreach=False)
    inputs = torch.zeros(64, 48, 32, device=device)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        network(inputs).square().mean().backward()
        optimizer.step()


def allocated(work: Callable[[], None]) -> int:
    """The most bytes that torch's CPU allocator had given out at a time within the work."""
    gc.collect()
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


@pytest.mark.parametrize("build", [transformer, perceptron])
def test_the_peak_is_the_allocator_s(build: Callable[[str], nn.Module]) -> None:
    with LiveBytes() as held, MetaAutocast(None):
        two_steps(build, "meta")
    assert held.peak == pytest.approx(allocated(lambda: two_steps(build, "cpu")), rel=0.10)


@pytest.mark.parametrize("benchmark", ["llama", "resnet", pytest.param("bert", marks=pytest.mark.slow)])
def test_the_peak_of_a_cell_s_step_is_the_allocator_s(benchmark: str) -> None:
    """The whole of it, optimizer and data included: traced on the meta device, and really taken on the CPU."""
    cell = plain(compose([f"benchmark={benchmark}", "scale=smoke", "hardware=cpu", "precision=fp32"]))
    recipe = resolve(cell, accelerator=False)

    def two_steps_of_it(device: str) -> Facts:
        workload = benchmarks.build(cell, recipe)
        return _trace(cell, recipe, workload, streams.build(cell["setting"], workload, 0), device, [])

    traced = two_steps_of_it("meta").peak
    assert traced == pytest.approx(allocated(lambda: two_steps_of_it("cpu")), rel=0.10)


def test_what_is_freed_is_no_longer_held() -> None:
    with LiveBytes() as held:
        first = torch.empty(1000, device="meta")
        view = first[10:]
        second = first + 1
        assert held.live == 2 * 4096
        del first, second
        assert held.live == 4096  # the view keeps its storage
        del view
        assert (held.live, held.peak) == (0, 8192)
        held.reset()
        torch.empty(1, device="meta").add_(1)
        assert held.peak == BLOCK


SEVENTY = ["benchmark=llama", "size=70b", "hardware=h100", "mode=projected", "tracking=off", "progress=off"]


@pytest.mark.slow
def test_70_billion_parameters_are_projected_in_less_than_4_gb(tmp_path: Path) -> None:
    """In a process of its own, whose largest memory the system knows."""
    code = (
        "import resource, sys; from fourfold.launch.main import run_command_line; "
        "status = run_command_line(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
    )
    words = [*SEVENTY, f"output_dir={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    (folder,) = (tmp_path / "cells").iterdir()
    assert read(folder).measurements["projection"]["memory"]["needed"] > 70e9 * 4
    assert int(done.stdout.split()[-1]) * 1024 < 4e9
