"""A rule's clock counts updates: gradients beside them are no step of it, are not looked at, and teach no feedback."""

from typing import Any

import pytest
import torch
from bench import LOSS_OF, batch, rule, two_layers

from fourfold.methods import interface as methods
from fourfold.rules import interface as rules
from fourfold.rules.kolen_pollack import KolenPollack
from fourfold.rules.watched import Watched
from learning import Bench, engine, member, names, same

RULES = [name for name in names("method/rule") if name != "none"]


@pytest.mark.parametrize("name", RULES)
def test_gradients_beside_an_update_change_nothing_in_the_rule(name: str) -> None:
    net, (x, y) = two_layers(), batch()
    made = rule(name, net)
    made.gradients(net, x, y, LOSS_OF)
    before = {key: value.detach().clone() for key, value in tensors(made.state_dict()).items()}
    weights = [p.detach().clone() for p in net.parameters()]
    net.zero_grad()
    made.gradients_beside(net, x, y, LOSS_OF)
    assert all(p.grad is not None for p in net.parameters())
    assert same(tensors(made.state_dict()), before)
    assert same([p.detach() for p in net.parameters()], weights)


def tensors(state: Any, name: str = "") -> dict[str, torch.Tensor]:
    """What a state holds, numbers included, by its place."""
    if isinstance(state, dict):
        parts = state.items()
    elif isinstance(state, list | tuple):
        parts = dict(enumerate(state)).items()
    else:
        return {name: torch.as_tensor(state)} if isinstance(state, torch.Tensor | int | float) else {}
    return {key: value for part, own in parts for key, value in tensors(own, f"{name}/{part}").items()}


@pytest.mark.parametrize("method", ["finetune", "a_gem", "gem", "mir"])
def test_a_decay_is_one_an_update_whatever_else_is_asked(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [0]
    own = KolenPollack.begin_update

    def counted(self: KolenPollack) -> None:
        counts[0] += 1
        own(self)

    monkeypatch.setattr(KolenPollack, "begin_update", counted)
    values = {"candidates": 40} if method == "mir" else {}
    made = Bench(method, "class_incremental", steps=4, rule=dict(member("method/rule/kolen_pollack")), **values)
    for phase in (0, 1, 2):
        made.learn(phase, 4)
    assert counts[0] == 3 * 4


def test_a_gem_is_looked_at_by_its_own_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an even interval, every look after the first context was at a reference batch."""
    made = Bench("a_gem", "class_incremental", steps=8)
    built = rules.build(member("method/rule/feedback_alignment"), engine())
    assert built is not None
    watched = Watched(built, 2, made.run.meter)
    method = methods.build(member("method/a_gem"))
    method.setup(made.benchmark, made.stream.view(engine().device), made.run, watched)
    made.method = method
    made.run.meter.start()
    seen, current = [], []
    own = Watched.look

    def look(self: Watched, network: Any, inputs: Any, *rest: Any) -> None:
        seen.append(inputs is current[-1])
        own(self, network, inputs, *rest)

    monkeypatch.setattr(Watched, "look", look)
    for phase in (0, 1):
        made.begin(phase)
        for _, observation in zip(range(4), made.observations(phase), strict=False):
            current.append(observation.inputs)
            method.observe(observation)
        made.end(phase)
    assert seen == [True] * 4


def test_draws_of_bgd_are_one_update() -> None:
    made = Bench("bgd", "class_incremental", steps=3, samples=4, rule={**member("method/rule/dtp"), "iterations": 1})
    made.learn(0, 3)
    assert made.method.rule.steps == 3  # type: ignore[attr-defined]
