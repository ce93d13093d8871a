"""A sweep over rules says where published values make them unlike in more than their rule."""

from typing import Any

from fourfold.composition import compose, plain
from fourfold.launch.unlike import unlike_rules

WORDS = ("benchmark=cifar10", "hardware=cpu", "benchmark/model=lenet")


def cells(*words: str) -> list[dict[str, Any]]:
    return [plain(compose([*WORDS, *words, f"method/rule={rule}"])) for rule in ("backprop", "dtp")]


def test_published_values_of_one_rule_are_told() -> None:
    assert unlike_rules(cells()) == (
        "rules backprop, dtp differ in batch, optimizer.learning_rate, optimizer.weight_decay, by the published values "
        "of conf/tuned/rule; tuned/rule=off leaves these out"
    )


def test_rules_on_equal_terms_and_sweeps_over_rates_are_not() -> None:
    alike = cells("tuned/rule=off")
    assert unlike_rules(alike) is None
    other = [{**cell, "optimizer": {**cell["optimizer"], "learning_rate": 0.5}} for cell in alike]
    assert unlike_rules([*alike, *other]) is None
    assert unlike_rules(alike[:1]) is None


def test_a_suite_says_itself_what_it_wants() -> None:
    assert unlike_rules([{**cell, "suite": {"name": "dtp_paper", "row": "a", "weight": 1}} for cell in cells()]) is None
