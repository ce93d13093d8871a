"""Units of work are what they are called: tokens without padding, images, clips, sequences."""

from typing import Any

import pytest
import torch

from fourfold.benchmarks import interface as benchmarks
from fourfold.composition import compose, plain
from fourfold.recipe import resolve


def made(name: str) -> Any:
    words = [f"benchmark={name}", "hardware=cpu"]
    cell = plain(
        compose([*words, "benchmark.data.megabytes=0.1"] if name in ("llama", "mistral", "bert", "t5") else words)
    )
    return benchmarks.build(cell, resolve(cell, accelerator=False))


@pytest.mark.parametrize(
    ("name", "unit"),
    [("llama", "tokens"), ("mistral", "tokens"), ("bert", "sequences"), ("t5", "sequences"), ("resnet", "images"),
     ("whisper", "clips"), ("digits", "images")],
)  # fmt: skip
def test_a_batch_has_as_many_units_as_it_says(name: str, unit: str) -> None:
    benchmark = made(name)
    batch = benchmark.sets.train.batch(torch.arange(3))
    expected = int((batch.targets != -100).sum()) if unit == "tokens" else 3
    assert (benchmark.unit, benchmark.units(batch)) == (unit, expected)
