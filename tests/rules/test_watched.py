"""Looking at a rule: what is seen is right, and nothing is changed by it."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bench import LOSS_OF, batch, rule, two_layers
from torch import nn

from fourfold.measure.meter import Meter
from fourfold.metrics import alignment
from fourfold.record import DIAGNOSED_STEP, read_series
from fourfold.rules.tape import frozen_statistics
from fourfold.rules.watched import Watched
from learning import same

WORDS = ("benchmark=digits", "scale=smoke", "hardware=cpu", "until=steps", "until.steps=8", "diagnose_every=3")


def watched(name: str, network: nn.Module, every: int = 2, **values: Any) -> Watched:
    made = Watched(rule(name, network, **values), every, Meter(torch.device("cpu"), "images"))
    made.meter.start()
    return made


def test_backprop_is_at_no_angle_to_itself() -> None:
    net, (x, y) = two_layers(), batch()
    made = watched("backprop", net, every=1)
    made.gradients(net, x, y, LOSS_OF)
    made.gradients(net, x, y, LOSS_OF)  # on top of the gradients that are there
    series = made.series()
    for layer in ("0.weight", "2.weight"):
        np.testing.assert_allclose(series[f"angle/{layer}"], 0.0, atol=1e-5)
        np.testing.assert_allclose(series[f"norm_ratio/{layer}"], 1.0, rtol=1e-6)


def test_a_turned_feedback_weight_is_seen_at_its_angle() -> None:
    """One hidden unit and one output: feedback of the other sign turns the hidden layer's gradient by 180 degrees."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 1), nn.Tanh(), nn.Linear(1, 1)).double()
    made = watched("feedback_alignment", net)
    made.rule.feedback["2"] = -2 * net[2].weight.detach()
    made.gradients(net, torch.randn(4, 3).double(), torch.randn(4, 1).double(), nn.functional.mse_loss)
    series = made.series()
    assert series["angle/0.weight"][0] == pytest.approx(180)
    assert series["norm_ratio/0.weight"][0] == pytest.approx(2)
    assert series["weight_angle/2"][0] == pytest.approx(180)


def test_feedback_at_its_optimum_has_the_loss_of_the_optimum() -> None:
    """A = J^T makes the L-DRL loss -sigma^2 |J|^2 in the mean (Ernoult et al. 2022)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 5)).double()
    made = watched("dtp", net, start="symmetric", iterations=0, inversion="gated", noise=0.1)
    made.gradients(net, torch.randn(4000, 6).double(), torch.randint(5, (4000,)), LOSS_OF)
    expected = -(0.1**2) * float(net[1].weight.detach().square().sum())
    assert made.series()["feedback_loss/block_2"][0] == pytest.approx(expected, rel=0.1)


def test_a_direct_map_of_nothing_misses_all_the_noise() -> None:
    """Q = 0 makes the loss of ddtp_linear <|sigma eps|^2> / sigma^2: the units of the layer, in the mean."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    made = watched("ddtp_linear", net, iterations=0)
    x, y = torch.randn(4000, 6).double(), torch.randint(3, (4000,))
    made.gradients(net, x, y, LOSS_OF)
    made.rule.feedback["0"].zero_()
    assert float(made.rule.feedback_losses(x)["block_1"]) == pytest.approx(4, rel=0.05)
    assert list(made.series()) == [
        DIAGNOSED_STEP,
        "angle/0.weight",
        "norm_ratio/0.weight",
        "angle/2.weight",
        "norm_ratio/2.weight",
        "feedback_loss/block_1",
    ]


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("training", [True, False])
def test_a_look_leaves_the_statistics_of_batches_alone(momentum: float | None, training: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3, momentum=momentum).train(training)
    norm.running_mean.fill_(2.0)
    x = torch.randn(8, 3)
    expected = copy.deepcopy(norm)(x)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with frozen_statistics(nn.Sequential(norm)):
        assert torch.equal(norm(x), expected)
    assert same(dict(norm.state_dict()), before)
    assert norm.track_running_stats


def test_a_rule_that_does_not_train_the_plain_pass_has_no_angle_to_its_gradient() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    made = watched("forward_forward", net)
    made.gradients(net, torch.randn(8, 6), torch.randint(3, (8,)), LOSS_OF)
    assert not any(name.startswith("angle/") for name in made.series())


def test_looks_come_at_the_steps_asked_for_and_change_nothing(run: Callable[..., Any]) -> None:
    words = (*WORDS, "method=dtp", "benchmark/model=lenet", "benchmark.model.width=0.1")
    seen = run(*words)
    unseen = run(*words[:5], *words[6:])
    assert seen.state == unseen.state == "done", seen.message
    series = read_series(seen.folder)
    assert series[DIAGNOSED_STEP].tolist() == [0, 3, 6]
    np.testing.assert_array_equal(series["loss"], read_series(unseen.folder)["loss"])
    found = alignment.figures(series)
    assert found["angle_mean"] is not None
    assert 0 < found["angle_mean"] < 120
    assert any(name.startswith("feedback_loss/") for name in series)


def test_the_angle_at_a_switch_is_that_of_the_first_look_after_it() -> None:
    series = {
        DIAGNOSED_STEP: [0, 2, 4, 6],
        "context": [0, 0, 0, 1, 1, 1, 1],
        "angle/a": [10.0, 20.0, 30.0, 40.0],
        "angle/b": [10.0, 20.0, 50.0, 40.0],
    }
    assert alignment.figures(series) == {"angle_mean": 40.0, "angle_at_switch": 40.0}
    assert alignment.looks_after_switches(series).tolist() == [2]


@pytest.mark.parametrize("value", ["0", "-1", "often"])
def test_a_wrong_interval_is_refused(value: str, run: Callable[..., Any]) -> None:
    from fourfold.errors import Refused

    with pytest.raises(Refused, match="diagnose_every"):
        run("benchmark=digits", f"diagnose_every={value}")
