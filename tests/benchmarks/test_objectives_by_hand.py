"""DLRM, Fourier neural operators, GFlowNet: their parts and losses by hand."""

import math
from itertools import product

import pytest
import torch

from fourfold.benchmarks import flow_network as flow
from fourfold.benchmarks import recommendation, regression, science
from fourfold.data.clicks import clicks
from fourfold.data.fields import allen_cahn, evolve
from fourfold.errors import REFUSED


def test_clicks_cost_their_log_probability():
    scores, targets = torch.tensor([0.0, 2.0]), torch.tensor([1, 0])
    by_hand = [math.log(2), math.log(1 + math.exp(2))]
    assert recommendation.click_loss(scores, targets, reduction="none").tolist() == pytest.approx(by_hand)


def test_interactions_are_the_products_of_all_pairs():
    vectors = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    assert recommendation.interactions(vectors).tolist() == [[11.0, 17.0, 39.0]]


def test_only_rows_that_were_looked_up_have_a_gradient():
    network = recommendation.dlrm(dense=2, tables=2, rows=10, width=4, bottom=[4], top=[4])
    sets = clicks("", 0, 20, dense=2, tables=2, rows=10, members=1)
    batch = sets.train.batch(torch.arange(2))
    recommendation.click_loss(network(batch.inputs), batch.targets).backward()
    gradient = network.tables[0].weight.grad.coalesce()
    assert gradient.indices().flatten().tolist() == sorted(set(batch.inputs["sparse"][:, 0, 0].tolist()))


def test_an_optimizer_that_takes_no_sparse_gradients_is_refused(run):
    record = run("benchmark=dlrm", "optimizer=adam", "hardware=cpu", "tracking=off")
    assert record.state == REFUSED
    assert record.message.startswith("optimizer=adam: the gradients of dlrm's tables are sparse")


def test_absolute_error_of_numbers_and_of_fields():
    assert regression.absolute_error(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]), "none").tolist() == [1.0, 2.0]
    fields = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 1.0]])
    assert regression.absolute_error(*fields, "none").tolist() == [1.5, 0.5]
    assert float(regression.absolute_error(*fields)) == 1.0


def test_relative_error_is_of_norms():
    outputs, targets = torch.tensor([[[3.0, 0.0]], [[1.0, 1.0]]]), torch.tensor([[[0.0, 4.0]], [[1.0, 1.0]]])
    assert science.relative_error(outputs, targets, "none").tolist() == pytest.approx([5 / 4, 0])


def test_a_spectral_convolution_with_unit_weights_keeps_low_frequencies_only():
    layer = science.SpectralConvolution(1, 3)
    with torch.no_grad():
        layer.weights.zero_()
        layer.weights[..., 0] = 1.0  # the complex number 1
        x = torch.arange(16) * 2 * math.pi / 16
        low, high = torch.cos(2 * x), torch.cos(6 * x)
        field = (low[:, None] + low[None] + high[None] + high[:, None])[None, None]
        torch.testing.assert_close(layer(field)[0, 0], low[:, None] + low[None], rtol=1e-4, atol=1e-4)


def test_the_equation_goes_to_its_fixed_points():
    sets = allen_cahn("", 0, samples=4, size=16, steps=20)
    assert sets.train.inputs.shape == (3, 1, 16, 16)
    squares = torch.zeros(16, 9)  # no diffusion: u' = u - u^3 alone
    ended = evolve(torch.tensor([0.5, -0.5, 0.0])[:, None, None].expand(3, 16, 16), squares, 200)
    assert ended[:, 0, 0].tolist() == pytest.approx([1.0, -1.0, 0.0], abs=1e-3)


def line(logits: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A grid of one dimension with 2 cells: stop at once, or grow and then stop. logits: [2, 2, 3]."""
    targets = {
        "states": torch.tensor([[[0], [0]], [[0], [1]]]),
        "actions": torch.tensor([[1, 1], [0, 1]]),
        "log_reward": torch.tensor([0.5, 0.25]).log(),
        "side": torch.tensor(2),
    }
    return {"logits": logits, "log_total": torch.tensor(0.3)}, targets


def test_trajectory_balance_by_hand():
    outputs, targets = line(torch.zeros(2, 2, 3))
    stop_at_once = 0.3 + math.log(0.5) - math.log(0.5)
    grow_and_stop = 0.3 + math.log(0.5) + 0 - math.log(0.25) - 0  # at the edge, stopping is sure; so is its only parent
    assert flow.balance_loss(outputs, targets, "none").tolist() == pytest.approx([stop_at_once**2, grow_and_stop**2])


def test_every_term_of_trajectory_balance_counts():
    """Two dimensions: grow the first, the second, stop; with uneven policies each of four terms differs from 0."""
    states = torch.tensor([[[0, 0], [1, 0], [1, 1], [1, 1]]])
    targets = {
        "states": states,
        "actions": torch.tensor([[0, 1, 2, 2]]),
        "log_reward": torch.tensor([math.log(0.7)]),
        "side": torch.tensor(3),
    }
    logits = torch.tensor([0.1, 0.2, 0.4, 0.3, -0.3]).expand(1, 4, 5)
    total = sum(math.exp(value) for value in (0.1, 0.2, 0.4))
    forward = [math.log(math.exp(value) / total) for value in (0.1, 0.2, 0.4)]
    backward = [0.0, math.log(math.exp(-0.3) / (math.exp(0.3) + math.exp(-0.3)))]  # (1, 0) has one parent, (1, 1) two
    by_hand = (1.5 + sum(forward) - math.log(0.7) - sum(backward)) ** 2
    found = flow.balance_loss({"logits": logits, "log_total": torch.tensor(1.5)}, targets, "none")
    assert found.tolist() == pytest.approx([by_hand], rel=1e-5)


def test_rewards_are_highest_in_the_bands_near_the_corners():
    cells = torch.tensor([[4, 4], [0, 0], [1, 1], [1, 4]])
    assert flow.reward(cells, 8).tolist() == pytest.approx([0.001, 0.501, 2.501, 0.001])


def test_sampled_trajectories_follow_the_policy_and_stay_on_the_grid():
    torch.manual_seed(0)
    network = flow.policy(2, 3, 16, 1)
    with torch.no_grad():
        states, actions = flow.sample(network, torch.rand(5, 200), 2, 3)
    assert states.min() == 0
    assert states.max() == 2
    moved = states[:, 1:] - states[:, :-1]
    assert torch.equal(moved.sum(-1), (actions[:, :-1] < 2).long())
    assert (actions[:, -1] == 2).all(), "every trajectory ends"


@pytest.mark.slow
def test_a_trained_policy_samples_in_proportion_to_the_reward():
    torch.manual_seed(0)
    side = 5
    network = flow.policy(2, side, 64, 2)
    objective = flow.BalanceObjective(2, side, 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    batch = type("Trials", (), {"targets": torch.zeros(64)})()
    for _ in range(600):
        (term,) = objective.terms(network, batch)
        optimizer.zero_grad()
        term.loss_of(network(term.inputs), term.targets).backward()
        optimizer.step()
    cells = torch.tensor(list(product(range(side), repeat=2)))
    rewards = flow.reward(cells, side)
    assert float(network.log_total.exp()) == pytest.approx(float(rewards.sum()), rel=0.1)
    with torch.no_grad():
        states, _ = flow.sample(network, torch.rand(2 * (side - 1) + 1, 5000), 2, side)
    counts = torch.bincount(states[:, -1, 0] * side + states[:, -1, 1], minlength=side**2) / 5000
    assert float((counts - rewards / rewards.sum()).abs().sum()) < 0.15
