"""Low-rank adaptation: what learns, what does not, and that the update is the one of the paper."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from fourfold.errors import DONE, REFUSED, UNAVAILABLE, Refused
from fourfold.methods.lora import adapted_layers

peft = pytest.importorskip("peft")
LLAMA = ("benchmark=llama", "method=lora", "hardware=cpu", "tracking=off", "until.steps=3", "batch=2")


def test_only_adapters_learn_and_they_do(run) -> None:
    record = run(*LLAMA, "optimizer.learning_rate=0.01")
    assert record.state == DONE, record.message
    losses = np.load(record.folder / "series.npz")["loss"]
    assert np.isfinite(losses).all()
    assert len(set(losses.tolist())) == 3
    # Two layers of q, k, v, o (128 to 128, 64, 64 and back) and gate, up, down (128 and 384), rank 8, by hand.
    by_hand = 2 * 8 * ((128 + 128) * 2 + (128 + 64) * 2 + (128 + 384) * 3)
    assert record.measurements["trained_parameters"] == by_hand


def test_the_update_starts_at_zero_and_is_scaled_by_alpha_over_rank() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    inputs = torch.randn(5, 3)
    before = network(inputs)
    config = peft.LoraConfig(r=2, lora_alpha=6.0, target_modules=adapted_layers(network, None))
    network = peft.inject_adapter_in_model(config, network)
    assert torch.equal(network(inputs), before)
    adapted = network[0]
    with torch.no_grad():
        adapted.lora_B["default"].weight.fill_(0.5)
    down, up = adapted.lora_A["default"].weight, adapted.lora_B["default"].weight
    by_hand = inputs @ adapted.base_layer.weight.T + adapted.base_layer.bias + 6.0 / 2 * inputs @ down.T @ up.T
    torch.testing.assert_close(adapted(inputs), by_hand)


def test_layers_are_named_by_their_endings() -> None:
    network = nn.ModuleDict({"attention": nn.ModuleDict({"query": nn.Linear(2, 2), "value": nn.Linear(2, 2)})})
    assert adapted_layers(network, ["query"]) == ["attention.query"]
    with pytest.raises(Refused, match=r"method.targets=qery: .* query, value; did you mean query\?"):
        adapted_layers(network, ["qery"])


def test_a_model_of_convolutions_is_refused_in_one_line(run) -> None:
    record = run("benchmark=resnet", "method=lora", "hardware=cpu", "tracking=off")
    assert record.state == REFUSED
    assert record.message == "method=lora: the model has no linear layer before its last one; choose method=finetune"


def test_without_peft_the_cell_is_unavailable(run, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    record = run(*LLAMA)
    assert record.state == UNAVAILABLE
    assert record.message == "the package peft is not installed: pip install 'fourfold[lora]'"
