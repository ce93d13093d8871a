"""Weights: published ones from the user's files, 16-bit ones, and what is said where they are not there."""

import pytest
import torch
from torch import nn
from transformers import BertForMaskedLM

from fourfold.errors import DONE, UNAVAILABLE
from fourfold.hardware.device import acquire
from fourfold.hardware.engine import Engine
from learning import member

# BERT at the smoke size's shapes under a size's name: what is loaded is as small as what was saved.
SHAPES = ("vocabulary=1000", "hidden=128", "intermediate=512", "layers=2", "heads=2", "positions=64")
SMALL = (
    "benchmark=bert", "hardware=cpu", "tracking=off", "scale=full", "size=base", "weights=pretrained", "precision=fp32",
    "benchmark.data.sequence=16", "benchmark.data.megabytes=0.1", "until=steps", "until.steps=1", "batch=2",
    *(f"benchmark.model.{shape}" for shape in SHAPES),
)  # fmt: skip


@pytest.fixture
def published(run, tmp_path):
    """A folder where the user has put weights, and the model that was saved there."""
    from fourfold.benchmarks.language import bert

    torch.manual_seed(5)
    shapes = dict(shape.split("=") for shape in SHAPES)
    model = bert(**{name: int(value) for name, value in shapes.items()}).model
    model.save_pretrained(tmp_path / "weights" / "google-bert" / "bert-base-uncased")
    return tmp_path, model


def test_published_weights_are_loaded_from_files(run, published, monkeypatch) -> None:
    folder, model = published
    seen: list[nn.Module] = []
    original = BertForMaskedLM.forward
    monkeypatch.setattr(
        BertForMaskedLM, "forward", lambda self, *a, **k: (seen.append(self), original(self, *a, **k))[1]
    )
    record = run(*SMALL, f"data_dir={folder}", "optimizer.learning_rate=0.0", "optimizer.weight_decay=0.0")
    assert record.state == DONE, record.message
    assert record.recipe["weights"] == "google-bert/bert-base-uncased"
    for (name, one), other in zip(seen[0].named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_without_files_the_cell_is_unavailable_and_says_how(run, tmp_path) -> None:
    record = run(*SMALL, f"data_dir={tmp_path}")
    folder = tmp_path / "weights/google-bert/bert-base-uncased"
    assert record.state == UNAVAILABLE
    assert record.message == (
        f"weights=pretrained: google-bert/bert-base-uncased is not in {folder}; "
        f"get it with: hf download google-bert/bert-base-uncased --local-dir {folder}"
    )


def test_files_of_another_shape_are_said_to_be(run, published) -> None:
    folder, _ = published
    record = run(*SMALL, f"data_dir={folder}", "benchmark.model.layers=3")
    assert record.state == UNAVAILABLE
    assert "lacks" in record.message
    assert "\n" not in record.message


def test_weights_in_16_bits_halve_what_is_held(run) -> None:
    words = ("benchmark=llama", "hardware=cpu", "tracking=off", "until.steps=3", "batch=2", "precision=bf16")
    record = run(*words, "weights_precision=bf16")
    assert record.state == DONE, record.message
    engine = Engine(acquire(member("hardware/cpu")), "bf16", "auto", weights="bf16")
    network = engine.network(lambda device: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm(4)))
    kinds = [parameter.dtype for parameter in network.parameters()]
    assert kinds == [torch.bfloat16] * 2 + [torch.float32] * 2 + [torch.bfloat16] * 2
    with engine.autocast():
        network(torch.randn(2, 3, 6, 6)).sum().backward()
    assert network[0].weight.grad.dtype == torch.bfloat16
