"""Methods with rules other than backprop: what the facts allow takes steps; what would be silently wrong is refused."""

from itertools import product
from typing import Any

import pytest
import torch

from fourfold import compatibility
from fourfold.composition import compose
from fourfold.errors import Refused
from fourfold.rules import interface as rules
from learning import Bench, applies, engine, facts, member, names, same

SETTINGS = ("class_incremental", "task_incremental", "domain_incremental")
# One rule of each way to take a loss, with all methods; the others with a few methods that ask for more than a step.
EACH_WAY = ["direct_feedback_alignment", "dtp", "pepita", "forward_forward"]
OTHERS = ["feedback_alignment", "sign_symmetry", "kolen_pollack", "fast_dtp", "drl", "ddtp_linear", "parallel_dtp"]
FEW = ["gem", "a_gem", "si", "packnet", "hat", "lfl", "bi_r"]
# Refused as the cell begins, by the network that the method builds: gates, adapters and columns are no layers that the
# feedback of these rules knows.
COLUMNS, GATED = ("pnn", "separate_networks"), ("hat", "xdg", "lora")
BY_TARGETS = ("dtp", "pepita", "fast_dtp", "drl", "parallel_dtp")
REFUSED = {*product(COLUMNS, EACH_WAY), *product(GATED, BY_TARGETS)}
SHORT: dict[str, dict[str, Any]] = {
    "gdumb": {"passes": 1, "memory": 16},
    "gss": {"memory": 16, "compared": 2},
    "ewc": {"samples": 16},
    "online_ewc": {"samples": 16},
    "mas": {"samples": 16},
}


def node(rule: str) -> dict[str, Any]:
    """A rule's configuration with as little feedback training as it takes."""
    found = dict(member(f"method/rule/{rule}"))
    return found | {key: 1 for key in ("iterations", "samples") if found.get(key)}


def chosen(method: str, setting: str, rule: str) -> list[compatibility.Member]:
    words = (f"method/{method}", f"setting/{setting}", "benchmark/digits", "hardware/cpu", f"method/rule/{rule}")
    return [facts(word) for word in words]


def setting_of(method: str) -> str | None:
    return next((setting for setting in SETTINGS if applies(method, setting)), None)


TRAINED = [name for name in names("method") if "gradients" in facts(f"method/{name}").needs and setting_of(name)]
PAIRS = [
    (method, rule)
    for method, rule in [*product(TRAINED, EACH_WAY), *product(FEW, OTHERS)]
    if not compatibility.unmet(chosen(method, setting_of(method) or "", rule))
]


@pytest.mark.parametrize(("method", "rule"), PAIRS)
def test_what_the_facts_allow_takes_steps(method: str, rule: str) -> None:
    values = {**SHORT.get(method, {}), "rule": node(rule)}
    if (method, rule) in REFUSED:
        with pytest.raises(Refused, match=r"feedback counterpart|needs a plain sequence of layers"):
            Bench(method, setting_of(method) or "", steps=2, **values)
        return
    made = Bench(method, setting_of(method) or "", steps=2, **values)
    for phase in (0, 1):
        made.learn(phase, 2)
    assert torch.isfinite(made.scores()).all()


@pytest.mark.parametrize("method", ["lfl", "self_supervised", "bi_r"])
def test_losses_on_features_need_a_rule_that_carries_them(method: str) -> None:
    """The rules that ask for dl/d outputs alone would leave such a loss out without a word."""
    assert able(method) == {"backprop", "feedback_alignment", "sign_symmetry", "kolen_pollack"}


def able(method: str) -> set[str]:
    """The rules that the method goes with."""
    setting = setting_of(method) or ""
    return {rule for rule in names("method/rule") if not compatibility.unmet(chosen(method, setting, rule))}


def test_such_a_pair_is_refused_before_anything_starts() -> None:
    words = ["benchmark=digits", "hardware=cpu", "setting=class_incremental", "method=self_supervised"]
    with pytest.raises(Refused) as refused:
        compose([*words, "method/rule=dtp"])
    assert str(refused.value) == (
        "method self_supervised needs end_to_end_gradients (a rule whose errors reach every layer from any loss, those "
        "on hidden features, too), which method/rule dtp does not offer; these do: "
        "method/rule=backprop,feedback_alignment,kolen_pollack,sign_symmetry"
    )


@pytest.mark.parametrize("rule", [name for name in names("method/rule") if name != "none"])
def test_losses_on_features_reach_the_network_where_a_rule_offers_that(rule: str) -> None:
    if "end_to_end_gradients" not in facts(f"method/rule/{rule}").gives:
        return
    found = []
    for weight in (0.001, 50.0):
        values = {"rotation": 0.0, "reconstruction": weight, "rule": node(rule)}
        made = Bench("self_supervised", "class_incremental", steps=2, **values)
        made.learn(0, 2)
        found.append(made.parameters()["1.weight"])
    assert not torch.equal(*found)


@pytest.mark.parametrize("rule", [name for name in names("method/rule") if name != "none"])
def test_the_rules_code_and_its_yaml_agree_on_the_plain_pass(rule: str) -> None:
    made = rules.build(member(f"method/rule/{rule}"), engine())
    assert made is not None
    assert made.plain_forward == ("plain_forward" in facts(f"method/rule/{rule}").gives)


@pytest.mark.parametrize("method", ["packnet", "cwr", "lwf", "ewc", "mas", "mir", "icarl", "gss", "hat", "xdg"])
def test_a_network_that_is_never_trained_by_its_plain_pass_is_not_read_by_it(method: str) -> None:
    assert able(method) == set(names("method/rule")) - {"none", "forward_forward"}


@pytest.mark.parametrize("rule", ["dtp", "direct_feedback_alignment", "ddtp_linear", "feedback_alignment"])
def test_a_frozen_last_layer_stays_and_the_others_learn(rule: str) -> None:
    made = Bench("finetune", "class_incremental", steps=2, rule=node(rule))
    list(made.method.network.children())[-1].requires_grad_(False)  # type: ignore[attr-defined]
    before = made.parameters()
    made.learn(0, 2)
    moved = {name for name, values in made.parameters().items() if not same(values, before[name])}
    last = list(before)[-2:]
    assert moved == set(before) - set(last)


def test_an_adapted_layer_is_named_with_its_package() -> None:
    pytest.importorskip("peft")
    with pytest.raises(Refused, match="block 2 has a peft Linear, which has no mirror feedback counterpart"):
        Bench("lora", "class_incremental", steps=2, rule=node("dtp"))
