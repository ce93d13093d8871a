"""What is really run: explicit values win, then the size's, then the recipe's."""

import pytest

from fourfold.composition import compose, plain
from fourfold.errors import Refused
from fourfold.recipe import resolve


def recipe(*words: str, accelerator: bool = False, offers: list[str] | None = None):
    return resolve(plain(compose(list(words))), accelerator, offers)


def test_scale_follows_the_device() -> None:
    assert recipe("benchmark=llama").scale == "smoke"
    assert recipe("benchmark=llama", accelerator=True).scale == "full"
    assert recipe("benchmark=llama", "scale=full").scale == "full"


def test_full_takes_the_default_size_and_smoke_the_recipe() -> None:
    full = recipe("benchmark=llama", "scale=full")
    assert (full.size, full.model["layers"], full.model["vocabulary"]) == ("1b", 16, 128256)
    smoke = recipe("benchmark=llama", "scale=smoke")
    assert (smoke.size, smoke.model["layers"], smoke.model["vocabulary"]) == (None, 2, 1000)


def test_a_size_or_a_value_from_the_shell_wins() -> None:
    assert recipe("benchmark=llama", "scale=full", "size=70b").model["layers"] == 80
    assert recipe("benchmark=llama", "scale=full", "size=70b", "benchmark.model.layers=3").model["layers"] == 3
    assert recipe("benchmark=resnet", "scale=full", "size=18").model["depths"] == [2, 2, 2, 2]
    assert recipe("benchmark=llama", "batch=9", "optimizer.learning_rate=0.5").batch == 9


def test_optimizer_values_fill_in_from_the_recipe_only_for_its_own_optimizer() -> None:
    constant = {"schedule": "constant", "schedule_epochs": None, "last_rate": 0.0}
    own = recipe("benchmark=resnet", "optimizer.learning_rate=0.5").optimizer
    assert own == {"name": "sgd", "learning_rate": 0.5, "momentum": 0.9, "weight_decay": 0.0001, **constant}
    other = recipe("benchmark=resnet", "optimizer=adam").optimizer
    assert other == {"name": "adam", "learning_rate": 0.001, "momentum": None, "weight_decay": 0.0, **constant}


def test_a_rate_that_falls_needs_to_know_when_it_has_fallen() -> None:
    words = ["benchmark=digits", "until=budget", "optimizer.schedule=cosine"]
    with pytest.raises(Refused, match=r"optimizer.schedule=cosine: until=budget has no known end; optimizer.schedule_"):
        recipe(*words)
    assert recipe(*words, "optimizer.schedule_epochs=3").optimizer["schedule_epochs"] == 3
    with pytest.raises(
        Refused, match=r"optimizer.schedule=cosin: choose one of constant, cosine, step; did you mean cosine"
    ):
        recipe("benchmark=digits", "optimizer.schedule=cosin")
    with pytest.raises(
        Refused, match=r"^optimizer.schedule=step: after how many passes the rate falls, says optimizer"
    ):
        recipe("benchmark=digits", "optimizer.schedule=step")


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ([], "steps"),
        (["until.steps=5"], "steps"),
        (["until.epochs=2"], "epochs"),
        (["until.seconds=2"], "budget"),
        (["until.interval=0.1"], "steady"),
        (["until=steady", "until.steps=5"], "steady"),
    ],
)
def test_when_to_stop_is_read_from_what_was_said(words: list[str], rule: str) -> None:
    assert recipe("benchmark=digits", *words).until["rule"] == rule


def test_precision_is_exact_unless_the_nearest_will_do() -> None:
    words = ["benchmark=digits", "precision=tf32"]
    with pytest.raises(Refused, match="precision=tf32: hardware auto has bf16, fp32"):
        recipe(*words, offers=["fp32", "bf16"])
    near = recipe(*words, "precision_policy=nearest", offers=["fp32", "bf16"])
    assert (near.precision_asked, near.precision) == ("tf32", "fp32")


def test_weights_in_16_bits_go_with_products_in_16_bits() -> None:
    assert recipe("benchmark=llama", "weights_precision=bf16", "precision=bf16").weights_precision == "bf16"
    with pytest.raises(Refused, match=r"weights_precision=bf16: goes with precision=bf16, and this is precision=fp32"):
        recipe("benchmark=llama", "weights_precision=bf16", "hardware=cpu")


def test_published_weights_are_those_of_the_size() -> None:
    words = ("benchmark=llama", "weights=pretrained", "hardware=cpu", "precision=fp32")
    assert recipe(*words, "scale=full", "size=8b").weights == "meta-llama/Llama-3.1-8B"
    assert recipe("benchmark=llama").weights == "seeded"
    with pytest.raises(Refused, match=r"the smoke size is nobody's; .* size=1b, 7b, 8b, 70b"):
        recipe(*words)
    with pytest.raises(Refused, match=r"benchmark fno knows of no published weights"):
        recipe("benchmark=fno", "weights=pretrained")


def test_fp8_is_for_work_that_makes_such_products_itself() -> None:
    """Autocast makes none: the products of a network would be bf16 under the name of fp8."""
    on_h100 = ("hardware=h100", "precision=fp8")
    assert recipe("benchmark=matmul", *on_h100, accelerator=True).precision == "fp8"
    assert (
        recipe("benchmark=llama", "benchmark.offers=[supervised,differentiable,fp8_products]", *on_h100).precision
        == "fp8"
    )
    wanted = (
        "precision=fp8: neither benchmark resnet nor method finetune makes 8-bit products .* this can be bf16, fp16"
    )
    with pytest.raises(Refused, match=wanted):
        recipe("benchmark=resnet", *on_h100, accelerator=True)
    for words in (["benchmark=llama", "method=serving"], ["benchmark=all_reduce"]):
        with pytest.raises(Refused, match="makes 8-bit products"):
            recipe(*words, *on_h100, accelerator=True)
    marked = recipe("benchmark=resnet", *on_h100, "precision_policy=nearest", accelerator=True)
    assert (marked.precision, marked.precision_asked) == ("bf16", "fp8")
