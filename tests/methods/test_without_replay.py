"""SLDA, BGD, CWR*, AR1 and the bounds."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fourfold.benchmarks.interface import Term
from learning import Bench, digits, same

LINEAR = digits(model="linear", optimizer="sgd")


@pytest.mark.parametrize("setting", ["class_incremental", "continual"])
def test_slda_is_the_closed_form_whatever_the_order(setting: str) -> None:
    made = Bench("slda", setting, shrinkage=0.01)
    for phase in made.stream.phases:
        a_pass = -(-len(phase.indices) // 16)
        made.learn(phase.index, steps=a_pass)
    x = made.stream.train.batch(torch.arange(300)).inputs.flatten(1).double()
    y = made.stream.train.targets
    means = torch.stack([x[y == label].mean(0) for label in range(10)])
    covariance = (x - means[y]).T @ (x - means[y]) / 300
    precision = torch.linalg.inv(0.99 * covariance + 0.01 * torch.eye(64))
    weight = precision @ means.T
    bias = -0.5 * (means * (precision @ means.T).T).sum(1)
    test = made.stream.test.batch(made.stream.contexts[0].test).inputs.flatten(1).double()
    assert torch.allclose(made.scores(0).double(), test @ weight + bias, atol=1e-2, rtol=1e-3)


def test_one_step_of_bgd_by_hand() -> None:
    made = Bench("bgd", "continual", benchmark=LINEAR, rate=2.0, deviation=0.1, samples=3)
    first, observation = (o for _, o in zip(range(2), made.observations(0), strict=False))
    made.method.observe(first)
    seen = made.method.seen.clone()
    seen[observation.targets] = True
    means, deviation = list(made.parameters().values()), [d.clone() for d in made.method.deviation.values()]
    state = made.method.draw.get_state()
    slope, bend = [torch.zeros_like(m) for m in means], [torch.zeros_like(m) for m in means]
    for _ in range(3):
        noise = [made.method._noise(m) for m in means]
        at = [(m + n * d).requires_grad_() for m, n, d in zip(means, noise, deviation, strict=True)]
        scores = (observation.inputs.flatten(1) @ at[0].T + at[1]).masked_fill(~seen, -1e9)
        found = torch.autograd.grad(F.cross_entropy(scores, observation.targets, reduction="sum"), at)
        for number, g in enumerate(found):
            slope[number] += g / 3
            bend[number] += g * noise[number] / 3
    made.method.draw.set_state(state)
    made.method.observe(observation)
    for number, (m, d) in enumerate(zip(made.parameters().values(), made.method.deviation.values(), strict=True)):
        old = deviation[number]
        assert torch.allclose(m, means[number] - 2.0 * old**2 * slope[number], atol=1e-6)
        expected = old * (1 + (0.5 * old * bend[number]) ** 2).sqrt() - 0.5 * old**2 * bend[number]
        assert torch.allclose(d, expected, atol=1e-7)


def test_bgd_without_deviation_is_gradient_descent() -> None:
    """With rate deviation^2 = 0.1 / 16 and hardly any deviation it is SGD at rate 0.1 on means of 16 samples."""
    plain = Bench("finetune", "continual", benchmark=LINEAR)
    sure = Bench("bgd", "continual", benchmark=LINEAR, rate=0.1e10 / 16, deviation=1e-5, samples=1)
    for made in (plain, sure):
        for _, observation in zip(range(5), made.observations(0), strict=False):
            made.method.observe(observation)
    for one, other in zip(plain.parameters().values(), sure.parameters().values(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_bgd_on_a_quadratic_is_its_closed_form() -> None:
    """L = sum over the batch of |W x + b - c|^2 / 2: E[dL/dp] is the slope at the mean, E[dL/dp e] the diagonal of the
    Hessian times the deviation. Draws that are rows of a Hadamard matrix have exactly the moments of N(0, 1) that these
    need: columns of mean 0, orthogonal to each other."""
    rate, deviation, goal = 3.0, 0.03, 1.5
    made = Bench("bgd", "continual", benchmark=LINEAR, rate=rate, deviation=deviation, samples=128)
    signs = torch.ones(1, 1)
    for _ in range(7):
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
    rows = (own for row in signs for own in (row[1:65].expand(10, 64), row[65].expand(10)))  # of weights, of biases
    made.method._noise = lambda like: next(rows)
    made.method.terms = lambda shown: [
        Term("all", shown.inputs, shown.targets, lambda out, _: 0.5 * (out - goal).square().sum(1).mean())
    ]
    (observation,) = (o for _, o in zip(range(1), made.observations(0), strict=False))
    weight, bias = made.parameters().values()
    made.method.observe(observation)
    x = observation.inputs.flatten(1)
    away = x @ weight.T + bias - goal
    slopes = away.T @ x, away.sum(0)
    bends = deviation * x.square().sum(0).expand(10, 64), torch.full((10,), deviation * len(x))
    for mean, slope, bend, m, d in zip(
        (weight, bias), slopes, bends, made.parameters().values(), made.method.deviation.values(), strict=True
    ):
        half = 0.5 * deviation * bend
        assert torch.allclose(m, mean - rate * deviation**2 * slope, atol=1e-5)
        assert torch.allclose(d, deviation * ((1 + half**2).sqrt() - half), atol=1e-7)


def shifted(rows: Tensor) -> Tensor:
    """Less the mean of all weights, biases as they are."""
    return torch.cat([rows[:, :-1] - rows[:, :-1].mean(), rows[:, -1:]], 1)


def test_a_class_that_comes_alone_keeps_its_weights() -> None:
    made = Bench("cwr", "class_incremental", setting_values={"contexts": 10})
    for phase in range(3):
        made.learn(phase)
    rows, past = made.method.head.rows, made.method.head.past
    assert int((past > 0).sum()) == 3
    moved = rows[:, :-1].abs().sum(1) > 0
    assert int(moved[past > 0].sum()) == 2, "the first class had no other to be told from"


def test_cwr_leaves_running_statistics_of_the_layers_below_as_they_were() -> None:
    made = Bench("cwr", "class_incremental", benchmark=digits(model="residual"))
    made.learn(0)
    before = {name: values.clone() for name, values in made.method.network.named_buffers()}
    made.learn(1)
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(values, before[name]) for name, values in made.method.network.named_buffers())


def test_cwr_consolidates_by_hand_and_trains_the_layers_below_once() -> None:
    made = Bench("cwr", "domain_incremental")
    made.begin(0)
    assert all((p == 0).all() for p in list(made.method.network.parameters())[-2:])
    targets = []
    for _, observation in zip(range(4), made.observations(0), strict=False):
        made.method.observe(observation)
        targets.append(observation.targets)
    shown = torch.cat(targets).bincount(minlength=2).float()
    weight, bias = list(made.parameters().values())[-2:]
    rows = torch.cat([weight, bias[:, None]], 1)
    made.end(0)
    first = shifted(rows)
    assert torch.allclose(made.method.head.rows, first)  # nothing before: (0 * 0 + tw - mean) / (0 + 1)
    below = list(made.parameters().values())[:-2]
    made.begin(1)
    targets = []
    for _, observation in zip(range(4), made.observations(1), strict=False):
        if not targets and len(observation.targets.unique()) == 2:
            made.method.head.show(observation.targets[:0])
        made.method.observe(observation)
        targets.append(observation.targets)
    again = torch.cat(targets).bincount(minlength=2).float()
    weight, bias = list(made.parameters().values())[-2:]
    rows = torch.cat([weight, bias[:, None]], 1)
    made.end(1)
    share = (shown / again).sqrt()[:, None]
    assert torch.allclose(made.method.head.rows, (first * share + shifted(rows)) / (share + 1), atol=1e-6)
    assert same(list(made.parameters().values())[:-2], below)


def test_ar1_without_strength_is_cwr_that_freezes_nothing() -> None:
    found = []
    for method, values in (("ar1", {"strength": 0.0}), ("cwr", {}), ("ar1", {"strength": 1000.0})):
        made = Bench(method, "class_incremental", **values)
        made.method.freezes = False
        made.learn(0)
        made.learn(1)
        found.append(made.parameters())
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_ar1_goes_on_training_the_layers_below_and_cuts_their_importance() -> None:
    made = Bench("ar1", "class_incremental", largest=0.01)
    made.learn(0)
    below = list(made.parameters().values())[:-2]
    assert set(made.method.penalty.importance) == set(list(made.parameters())[:-2])
    assert max(float(v.max()) for v in made.method.penalty.importance.values()) <= 0.01
    made.learn(1)
    assert not same(list(made.parameters().values())[:-2], below)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("class_incremental", 50), ("recurring", 50), ("online", 21), ("continual", 19), ("data_incremental", 20)],
)
def test_bounds_take_as_many_steps_as_others(setting: str, expected: int) -> None:
    """Where samples come once the data decide: 300 in batches of 16, which end with each context that is announced."""
    steps = []
    for method in ("finetune", "joint", "cumulative"):
        made = Bench(method, setting, steps=50)
        made.learn_all()
        steps.append(made.run.meter.steps)
    assert steps == [expected] * 3


def test_cumulative_sees_what_came_so_far() -> None:
    made = Bench("cumulative", "class_incremental")
    made.begin(2)
    labels = set()
    for _, step in zip(range(30), made.experience(2).so_far()._steps(), strict=False):
        labels |= set(step.reveal().targets.tolist())
    assert labels == {label for context in made.stream.contexts[:3] for label in context.outputs}
