"""A batch in parts, and blocks that are computed again: the same gradients, up to rounding or bit for bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fourfold.benchmarks import interface as benchmarks
from fourfold.benchmarks.interface import Term
from fourfold.composition import cell_name, compose, plain
from fourfold.errors import Refused
from fourfold.methods.finetune import Finetune, in_parts
from fourfold.recipe import resolve
from fourfold.settings import stream as streams
from fourfold.tracing import work

LLAMA = ("benchmark=llama", "hardware=cpu", "tracking=off", "until.steps=2", "benchmark.data.megabytes=0.1")


@pytest.fixture
def gradients_of(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Tensor]]:
    """The gradients of each update of a cell, one after another."""
    kept: list[Tensor] = []

    def keep(self: Finetune) -> None:
        kept.extend(p.grad.clone() for p in self.network.parameters() if p.grad is not None)

    monkeypatch.setattr(Finetune, "after_gradients", keep)

    def of(*words: str) -> list[Tensor]:
        kept.clear()
        record = run(*words)
        assert record.state == "done", record.message
        return list(kept)

    return of


@pytest.mark.parametrize("method", ["finetune", "lora"])
def test_parts_of_a_batch_add_up_to_its_gradients(method: str, gradients_of: Callable[..., list[Tensor]]) -> None:
    if method == "lora":
        pytest.importorskip("peft")
    words = (*LLAMA, f"method={method}", "batch=8")
    whole, parts = gradients_of(*words), gradients_of(*words, "accumulate=4")
    assert len(whole) == len(parts) > 4
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-6)
    assert any(bool(gradient.abs().max() > 1e-4) for gradient in whole)


def test_blocks_that_are_computed_again_give_the_same_gradients(
    gradients_of: Callable[..., list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    calls: list[bool] = []
    own = LlamaMLP.forward

    def counted(self: Any, x: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())  # not where it is judged
        return own(self, x)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    whole = gradients_of(*LLAMA)
    assert sum(calls) == 2 * 2, "two blocks, two steps"
    again = gradients_of(*LLAMA, "recompute=true")
    assert sum(calls) == 2 * 2 + 2 * 2 * 2
    assert len(whole) == len(again) > 10
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))


def test_a_part_counts_by_its_samples() -> None:
    term = Term("all", torch.arange(10.0).view(5, 2), {"a": torch.arange(5), "b": torch.zeros(5, 3)}, torch.sub)
    pieces = in_parts(term, 2)
    assert [share for share, _, _ in pieces] == [0.6, 0.4]
    assert torch.equal(torch.cat([targets["a"] for _, _, targets in pieces]), torch.arange(5))
    assert [tuple(inputs.shape) for _, inputs, _ in pieces] == [(3, 2), (2, 2)]
    with pytest.raises(Refused, match="not one entry a sample"):
        in_parts(Term("all", torch.zeros(5, 2), torch.zeros(3), torch.sub), 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("accumulate=3 batch=8", "accumulate=3: batch=8 does not fall into 3 parts of one size; name a multiple"),
        ("accumulate=2 batch=auto", "accumulate=2: batch=auto does not fall into 2 parts"),
        ("accumulate=2 method=inference", "accumulate=2: method inference has no backward pass; leave it out"),
        ("recompute=true method=inference", "recompute=true: method inference has no backward pass"),
        (
            "accumulate=2 method/rule=kolen_pollack",
            "accumulate=2: gradients of parts add up with method/rule=backprop only, not kolen_pollack",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(words: str, message: str) -> None:
    with pytest.raises(Refused) as refused:
        resolve(plain(compose(["benchmark=llama", "hardware=cpu", *words.split()])), accelerator=False)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("benchmark=digits method=reptile setting=meta_learning accumulate=2", "method"),
        *(
            (
                f"benchmark=digits method={method} setting=class_incremental accumulate=2",
                f"accumulate=2: method {method} makes its updates in its own way; leave accumulate=1",
            )
            for method in ("replay", "lwf", "er_ace", "der_plus_plus", "mir", "gss")
        ),
        ("benchmark=digits setting=task_incremental accumulate=2", "not where each sample's task says what it can be"),
        ("benchmark=digits recompute=true", "recompute=true: this network has no list of repeated blocks"),
        ("benchmark=dlrm accumulate=2", "done"),
        ("benchmark=gflownet accumulate=2", "the inputs of this benchmark are not one entry a sample"),
    ],
)
def test_what_cannot_go_in_parts_is_refused(words: str, message: str, run: Callable[..., Any]) -> None:
    record = run(*words.split(), "hardware=cpu", "until.steps=2", "tracking=off")
    if message == "done":
        assert record.state == "done"
    else:
        assert record.state == "refused", record.message
        assert message in record.message
        assert "\n" not in record.message


def test_cells_that_ask_for_neither_keep_the_names_that_they_had() -> None:
    usual = plain(compose(["benchmark=digits"]))
    older = {key: value for key, value in usual.items() if key not in ("accumulate", "recompute")}
    assert cell_name(usual) == cell_name(older)
    words = ("accumulate=1", "accumulate=2", "recompute=true")
    assert len({cell_name(plain(compose(["benchmark=digits", word]))) for word in words}) == 3


def test_what_is_computed_again_is_executed_and_not_part_of_the_models_work() -> None:
    """Forward 2 N, again 2 N, backward 4 N: 8 N for 6 N, of all but the head, which is no block."""
    cell = plain(compose([*LLAMA, "recompute=true"]))
    recipe = resolve(cell, accelerator=False)
    made = benchmarks.build(cell, recipe)
    found = work(cell, recipe, made, streams.build(cell["setting"], made, 0))
    assert found["reason"] is None
    assert 1.2 < found["executed"] / found["model"] < 4 / 3
