"""Units of work are what they are called: tokens without padding, images, clips, sequences, ..., of every benchmark."""

from typing import Any

import pytest
import torch
import yaml

from fourfold.benchmarks import interface as benchmarks
from fourfold.composition import compose, config_directory, plain
from fourfold.errors import Unavailable
from fourfold.recipe import resolve

# What three samples hold of each unit; of those without data, a step of the kernel.
SAMPLES = ("images", "sequences", "clips", "molecules", "impressions", "fields", "trajectories", "points")
KERNELS = {"matmul": "FLOP", "all_reduce": "bytes", "data_loading": "images"}
WITHOUT_DATA = set(KERNELS)
ONE_A_FAMILY = (
    "digits",
    "resnet",
    "llama",
    "bert",
    "t5",
    "whisper",
    "dlrm",
    "fno",
    "pna",
    "gflownet",
    "vjepa",
    "llava",
)
NAMES = sorted(path.stem for path in (config_directory() / "benchmark").glob("[!_]*.yaml"))


def made(name: str) -> Any:
    """The benchmark at smoke size, with little data where there can be less."""
    data = yaml.safe_load((config_directory() / "benchmark" / f"{name}.yaml").read_text())["recipe"]["smoke"].get(
        "data", {}
    )
    little = {"megabytes": 0.1, "samples": 8, "classes_used": 2, "samples_a_class": 5}
    words = [f"benchmark.data.{key}={value}" for key, value in little.items() if key in data]
    cell = plain(compose([f"benchmark={name}", "hardware=cpu", "scale=smoke", "precision_policy=nearest", *words]))
    try:
        return benchmarks.build(cell, resolve(cell, accelerator=False))
    except Unavailable as absent:
        pytest.skip(str(absent))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ONE_A_FAMILY))
        for name in NAMES
        if name not in WITHOUT_DATA
    ],
)
def test_a_batch_has_as_many_units_as_it_says(name: str) -> None:
    benchmark = made(name)
    batch = benchmark.sets.train.batch(torch.arange(3))
    if benchmark.unit == "tokens":
        expected = int((batch.targets != -100).sum())
        assert expected == 3 * benchmark.recipe.data["sequence"]
    else:
        assert benchmark.unit in SAMPLES
        expected = 3
    assert benchmark.units(batch) == expected


def test_written_tokens_are_counted_without_the_prompt() -> None:
    benchmark = made("llama")
    assert benchmark.generated_units(torch.zeros(2, 7), torch.zeros(2, 12)) == 2 * 5


def test_kernels_count_what_they_do() -> None:
    """A product of two n x n matrices: n times a multiplication and an addition for each of n x n numbers."""
    assert {name: made(name).unit for name in KERNELS} == KERNELS
    _, work = made("matmul").kernel(torch.device("cpu"))
    size = made("matmul").recipe.model["n"]
    assert work == 2 * size**3
