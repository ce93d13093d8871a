"""PPO of a language model: every term of rewards, advantages and losses by hand; the whole of it runs, and learns."""

import math

import numpy as np
import pytest
import torch

from fourfold.errors import DONE
from fourfold.methods import rlhf
from fourfold.methods.rlhf import PpoLoss, generalised_advantages, log_probabilities, standardised, token_rewards

SMALL = ("benchmark=pythia", "method=rlhf", "hardware=cpu", "tracking=off", "batch=2", "method.new_tokens=4")


def test_rewards_are_the_score_at_the_end_less_the_penalty_everywhere() -> None:
    policy, first = torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[-1.5, -2.0, -1.0]])
    found = token_rewards(torch.tensor([7.0]), policy, first, penalty=0.1)
    torch.testing.assert_close(found, torch.tensor([[-0.1 * 0.5, 0.0, 7.0 - 0.1 * -2.0]]))


def test_advantages_by_hand() -> None:
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 1.0, -1.0]])
    last = 3.0 - -1.0
    middle = 2.0 + 0.9 * -1.0 - 1.0 + 0.9 * 0.8 * last
    first = 1.0 + 0.9 * 1.0 - 0.5 + 0.9 * 0.8 * middle
    found = generalised_advantages(rewards, values, discount=0.9, trace=0.8)
    torch.testing.assert_close(found, torch.tensor([[first, middle, last]]))


def test_with_trace_one_advantage_and_value_add_up_to_the_rest_of_the_rewards() -> None:
    rewards, values = torch.randn(3, 5), torch.randn(3, 5)
    found = generalised_advantages(rewards, values, discount=1.0, trace=1.0) + values
    torch.testing.assert_close(found, rewards.flip(1).cumsum(1).flip(1))


def test_standardised_over_all_tokens() -> None:
    torch.testing.assert_close(standardised(torch.tensor([[1.0, 5.0]])), torch.tensor([[-1.0, 1.0]]))


def test_log_probability_of_a_token_by_hand() -> None:
    scores = torch.tensor([[[0.0, math.log(3.0)], [0.0, 0.0]]])
    found = log_probabilities(scores, torch.tensor([[1, 0]]))
    torch.testing.assert_close(found, torch.tensor([[math.log(0.75), math.log(0.5)]]))


LOSS = PpoLoss(clip=0.2, value_clip=0.5, value_weight=0.1)


@pytest.mark.parametrize(
    ("ratio", "advantage", "by_hand"),
    [
        (1.5, 2.0, -2.0 * 1.2),  # too far already: no more to gain
        (0.5, 2.0, -2.0 * 0.5),  # on the way back nothing is clipped
        (1.5, -2.0, 2.0 * 1.5),
        (0.5, -2.0, 2.0 * 0.8),
        (1.1, 2.0, -2.0 * 1.1),
    ],
)
def test_the_policys_loss_is_clipped_where_there_is_nothing_to_gain(ratio, advantage, by_hand) -> None:
    outputs = {"log_probabilities": torch.tensor([[math.log(ratio) - 1.0]])}
    targets = {"log_probabilities": torch.tensor([[-1.0]]), "advantages": torch.tensor([[advantage]])}
    assert float(LOSS.policy(outputs, targets)) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("value", "old", "wanted", "by_hand"),
    [(3.0, 1.0, 3.0, (1.5 - 3.0) ** 2 / 2), (3.0, 1.0, 0.0, 3.0**2 / 2), (1.2, 1.0, 2.0, 0.8**2 / 2)],
)
def test_the_values_loss_is_the_worse_of_clipped_and_not(value, old, wanted, by_hand) -> None:
    targets = {"values": torch.tensor([[old]]), "returns": torch.tensor([[wanted]])}
    assert float(LOSS.values({"values": torch.tensor([[value]])}, targets)) == pytest.approx(by_hand)


def test_the_loss_is_both_with_their_weight() -> None:
    outputs = {"log_probabilities": torch.zeros(1, 2), "values": torch.tensor([[1.0, 2.0]])}
    targets = {
        "log_probabilities": torch.zeros(1, 2),
        "advantages": torch.tensor([[1.0, 3.0]]),
        "values": torch.tensor([[1.0, 2.0]]),
        "returns": torch.tensor([[2.0, 4.0]]),
    }
    by_hand = (-1.0 - 3.0) / 2 + 0.1 * (1.0 / 2 + 4.0 / 2) / 2
    assert float(LOSS(outputs, targets)) == pytest.approx(by_hand)
    assert LOSS(outputs, targets, reduction="none").tolist() == [pytest.approx(by_hand)]


def test_runs_and_counts_what_was_written(run) -> None:
    record = run(*SMALL, "until.steps=3")
    assert record.state == DONE, record.message
    losses = np.load(record.folder / "series.npz")["loss"]
    assert np.isfinite(losses).all()
    assert len(set(losses.tolist())) == 3
    assert record.measurements["units"] == 3 * 2 * 4
    assert 0 < record.measurements["seconds"]["rollout"] < record.measurements["seconds"]["learn"]


def test_the_first_policy_and_the_reward_model_stay_as_they_were(monkeypatch, run) -> None:
    kept = []

    def frozen(network):
        kept.append((network, [values.clone() for values in network.parameters()]))
        return network.eval().requires_grad_(False)

    monkeypatch.setattr(rlhf, "frozen", frozen)
    assert run(*SMALL, "until.steps=2").state == DONE
    assert len(kept) == 2
    for network, before in kept:
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))


def test_a_reward_for_one_token_makes_it_likelier(monkeypatch, run) -> None:
    """The reward model is replaced by the share of one token in the answer: after some steps it is written more."""
    wanted, share = 7, []

    def rewarded(tokens):
        found = (tokens[:, -8:] == wanted).float().mean(1)
        share.append(float(found.mean()))
        return (100 * found)[:, None]

    original = rlhf.Rlhf.build_network

    def build(self, *arguments):
        network = original(self, *arguments)
        self.reward_model = rewarded
        return network

    monkeypatch.setattr(rlhf.Rlhf, "build_network", build)
    words = ["batch=32", "method.new_tokens=8", "until.steps=15", "benchmark.model.vocabulary=256"]
    quick = [
        "benchmark.data.sequence=4",
        "optimizer.learning_rate=0.005",
        "method.penalty=0.0",
        "benchmark.model.layers=1",
    ]
    assert run(*SMALL[:4], *words, *quick).state == DONE
    assert np.mean(share[-5:]) > 5 * max(np.mean(share[:5]), 1 / 256)
