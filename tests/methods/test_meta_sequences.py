"""OML and ANML: the last layer learns sample by sample, and the representation is trained through that."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fourfold.composition import compose
from fourfold.errors import Refused
from fourfold.methods.meta_sequences import OML
from learning import Bench

SMALL = [
    "benchmark=osaka_glyphs",
    "benchmark/model=conv",
    "setting=meta_continual",
    "setting.contexts=4",
    "setting.samples=3",
    "batch=1",
    "scale=smoke",
    "benchmark.data.convert=[1,8,8]",
    "benchmark.data.modes.characters.data.alphabets=[digits]",
    "benchmark.data.modes.characters.data.characters=10",
    "benchmark.data.modes.characters.classes=10",
    "benchmark.data.modes.characters.data.samples_a_class=12",
    "benchmark.data.modes.invented.data.alphabets=[invented_0]",
    "benchmark.data.modes.invented.data.samples_a_class=1",
    "benchmark.data.modes.invented.classes=40",
    "benchmark.data.train_classes=5",
    "benchmark.data.validation_classes=0",
    "benchmark.data.epochs=1",
    "benchmark.data.epoch_batches=3",
]


def test_a_layer_learned_one_by_one_is_gradient_descent_by_autograd() -> None:
    made = Bench("cmaml", "osaka", setting_values={"ways": 3, "shots": 2}, adapted="head", inner_rate=0.2)
    method: Any = OML(**{**vars_of(made.method), "inner_rate": 0.2})
    method.rate = 0.2
    weight, bias = torch.randn(3, 5, requires_grad=True), torch.randn(3, requires_grad=True)
    method.head_weight, method.head_bias = weight, bias
    features, targets = torch.randn(4, 5), torch.tensor([0, 1, 1, 2])
    found = method.learned_one_by_one(features, targets)
    w, b = weight.detach().clone(), bias.detach().clone()
    for feature, target in zip(features, targets, strict=True):
        w.requires_grad_()
        b.requires_grad_()
        loss = F.cross_entropy(F.linear(feature[None], w, b), target[None])
        one, other = torch.autograd.grad(loss, (w, b))
        w, b = (w - 0.2 * one).detach(), (b - 0.2 * other).detach()
    assert torch.allclose(found[0], w, atol=1e-5)
    assert torch.allclose(found[1], b, atol=1e-5)
    assert found[0].requires_grad  # so that the outer loss reaches the representation and where the layer began


def vars_of(method: Any) -> dict[str, Any]:
    return {
        "inner_steps": 1,
        "learned_rates": False,
        "first_order": False,
        "adapted": "head",
        "pretraining": True,
        "meta_batch": 1,
        "meta_queries": 2,
        "patience": 1,
        "vectorised": "off",
        "keep": None,
    }


@pytest.mark.parametrize("method", ["oml", "anml", "finetune"])
def test_a_sequence_of_new_classes_is_learned_and_judged(method: str, run: Callable[..., Any]) -> None:
    record = run(*SMALL, f"method={method}")
    assert record.state == "done", record.message
    assert record.measurements["steps"] == 12
    assert sorted({entry["context"] for entry in record.evaluations}) == [0, 1, 2, 3]
    assert {entry["samples"] for entry in record.evaluations} == {5}
    if method != "finetune":
        told = record.measurements["method"]["pretraining"]
        assert (told["meta_batches"], told["early_stopping"][:5]) == (3, "none:")


def test_too_many_classes_or_samples_are_refused(run: Callable[..., Any]) -> None:
    with pytest.raises(Refused, match=r"setting.contexts=6: characters has 5 classes"):
        compose([*SMALL, "setting.contexts=6", "method=oml"])
    assert "a class has no more than 12 samples" in run(*SMALL, "setting.samples=11", "method=oml").message
    with pytest.raises(Refused, match="meta_training"):
        compose(["benchmark=digits", "setting=meta_continual", "method=finetune"])
