"""Penalties on what mattered: closed forms, ablations, one step by hand."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fourfold.benchmarks.models import conv, mlp
from fourfold.methods.gradients import gradient_of_each, sum_of_powers
from fourfold.methods.regularization import log_probability
from learning import Bench, digits, same

LINEAR = digits(model="linear", optimizer="sgd")
PENALTIES = ("ewc", "online_ewc", "si", "mas", "rwalk")


def linear_fisher(weight: Tensor, bias: Tensor, x: Tensor, allowed: Tensor) -> dict[str, Tensor]:
    """E_x p_c (1 - p_c) x_i^2 for a softmax regression: the exact diagonal Fisher information in closed form.

    d log p(y|x) / dW_ci = (1[y = c] - p_c) x_i, and E_y (1[y = c] - p_c)^2 = p_c (1 - p_c).
    """
    p = (x @ weight.T + bias).masked_fill(~allowed, -1e9).softmax(1)
    spread = p * (1 - p)
    return {"weight": spread.T @ x.square() / len(x), "bias": spread.mean(0)}


def test_exact_fisher_of_a_linear_model_is_the_closed_form() -> None:
    made = Bench("ewc", "class_incremental", benchmark=LINEAR, strength=1.0, samples=10**6)
    made.learn(0, steps=20)
    made.begin(1)
    for _, observation in zip(range(10), made.observations(1), strict=False):
        made.method.observe(observation)
    data = made.stream.train.batch(made.stream.contexts[1].train)
    values = list(made.parameters().values())
    expected = linear_fisher(*values, data.inputs.flatten(1), made.method.seen)
    found = made.method.information(made.experience(1))
    for name, value in expected.items():
        assert torch.allclose(found[f"1.{name}"], value, atol=1e-7, rtol=1e-4)
        assert value.abs().max() > 1e-4


@pytest.mark.parametrize("power", [1, 2])
def test_powers_of_each_samples_gradient_are_the_same_by_outer_products(power: int) -> None:
    network = mlp((1, 4, 4), outputs=3, hidden=[7, 5], width=1.0)
    convolutions = conv((1, 4, 4), outputs=3, channels=[2], hidden=4, width=1.0)
    inputs, weights = torch.rand(9, 1, 4, 4), torch.rand(9, 2)
    labels, allowed = torch.arange(18).view(2, 9) % 3, torch.ones(9, 3, dtype=torch.bool)
    for one in (network, convolutions):  # the second has more than fully connected layers
        found = sum_of_powers(one, log_probability, power, weights, inputs, [(label, allowed) for label in labels])
        each = [gradient_of_each(one, log_probability, inputs, label, allowed) for label in labels]
        assert set(found) == set(dict(one.named_parameters()))
        for name, value in found.items():
            shape = (-1, *(1 for _ in value.shape))
            parts = [each[k][name].abs() ** power * weights[:, k].view(shape) for k in range(2)]
            assert torch.allclose(value, sum(parts).sum(0), atol=1e-6)


def test_empirical_fisher_of_a_linear_model_is_the_closed_form() -> None:
    made = Bench("ewc", "domain_incremental", benchmark=LINEAR, fisher="empirical", samples=10**6)
    made.learn(0)
    shown = torch.cat([o.inputs.flatten(1) for o in made.experience(0).sample(10**6, "fisher", 50)])
    labels = torch.cat([o.targets for o in made.experience(0).sample(10**6, "fisher", 50)])
    weight, bias = made.parameters().values()
    error = F.one_hot(labels, 2) - (shown @ weight.T + bias).softmax(1)
    expected = torch.einsum("bc,bi->ci", error.square(), shown.square()) / len(shown)
    assert torch.allclose(made.method.information(made.experience(0))["1.weight"], expected, atol=1e-7, rtol=1e-4)


def test_sampled_fisher_tends_to_the_exact_one() -> None:
    exact, sampled = (
        Bench("ewc", "domain_incremental", benchmark=LINEAR, fisher=kind) for kind in ("exact", "sampled")
    )
    for made in (exact, sampled):
        made.learn(0, steps=3)
    total = None
    for number in range(60):
        sampled.method.contexts_ended = number  # another stream of draws each time
        found = sampled.method.information(sampled.experience(0))["1.weight"]
        total = found if total is None else total + found
    expected = exact.method.information(exact.experience(0))["1.weight"]
    assert torch.allclose(total.sum(1) / 60, expected.sum(1), rtol=0.1)


@pytest.mark.parametrize("method", PENALTIES)
@pytest.mark.parametrize("setting", ["class_incremental", "task_incremental"])
def test_without_strength_it_is_finetune_bit_for_bit(method: str, setting: str) -> None:
    plain, off = Bench("finetune", setting), Bench(method, setting, strength=0.0)
    for made in (plain, off):
        for phase in range(3):
            made.learn(phase)
    assert same(plain.parameters(), off.parameters())


def gradient_by_hand(made: Bench, observation: object) -> dict[str, Tensor]:
    """The gradient of the cross entropy alone, over the outputs seen so far, in the order of the parameters."""
    network = made.method.network
    seen = made.method.seen.clone()
    seen[observation.targets] = True
    scores = network(observation.inputs).masked_fill(~seen, -1e9)
    found = torch.autograd.grad(F.cross_entropy(scores, observation.targets), list(network.parameters()))
    return dict(zip(dict(network.named_parameters()), found, strict=True))


def test_one_step_of_ewc_by_hand() -> None:
    """p <- p - rate (g + strength sum_k F_k (p - p_k)), after two contexts."""
    made = Bench("ewc", "class_incremental", benchmark=LINEAR, strength=3.0)
    fishers, optima = [], []
    for phase in range(2):
        made.begin(phase)
        for _, observation in zip(range(4), made.observations(phase), strict=False):
            made.method.observe(observation)
        fishers.append(made.method.information(made.experience(phase)))
        optima.append(made.parameters())
        made.end(phase)
    made.begin(2)
    first, second = (observation for _, observation in zip(range(2), made.observations(2), strict=False))
    made.method.observe(first)
    before = made.parameters()
    gradient = gradient_by_hand(made, second)
    made.method.observe(second)
    for name, value in made.parameters().items():
        pull = sum(fisher[name] * (before[name] - at[name]) for fisher, at in zip(fishers, optima, strict=True))
        assert torch.allclose(value, before[name] - 0.1 * (gradient[name] + 3.0 * pull), atol=1e-6)
        assert pull.abs().max() > 1e-6


class Traced:
    """A bench whose steps are followed: the plain gradient and the parameters before each."""

    def __init__(self, method: str, **values: Any) -> None:
        self.bench = Bench(method, "class_incremental", benchmark=LINEAR, **values)
        self.gradients: list[dict[str, Tensor]] = []
        self.points: list[dict[str, Tensor]] = []

    def steps(self, phase: int, count: int) -> None:
        self.gradients, self.points = [], []
        self.bench.begin(phase)
        for _, observation in zip(range(count), self.bench.observations(phase), strict=False):
            self.gradients.append(gradient_by_hand(self.bench, observation))
            self.points.append(self.bench.parameters())
            self.bench.method.observe(observation)
        self.points.append(self.bench.parameters())

    def path(self, gradients: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """sum -g (p' - p) over the steps, a value for each entry of each parameter."""
        steps = zip(gradients, self.points[:-1], self.points[1:], strict=True)
        each = [{name: -g * (after[name] - before[name]) for name, g in step.items()} for step, before, after in steps]
        return {name: sum((values[name] for values in each), torch.zeros(())) for name in each[0]}

    def next_step_is(self, pull: dict[str, Tensor], strength: float) -> None:
        """Asserts that a step of the second phase is p - rate (g + strength * pull * (p - anchor))."""
        anchor = self.bench.parameters()
        self.bench.end(0)
        self.steps(1, 2)
        before, after = self.points[1:]
        for name, value in after.items():
            total = self.gradients[1][name] + strength * pull[name] * (before[name] - anchor[name])
            assert torch.allclose(value, before[name] - 0.1 * total, atol=1e-6)
            assert (strength * pull[name] * (before[name] - anchor[name])).abs().max() > 1e-5


@pytest.mark.parametrize("path_of", ["loss", "total"])
def test_si_by_hand(path_of: str) -> None:
    """w = sum -g dp; importance = w / (moved^2 + damping); its penalty's gradient is 2 c importance (p - p*)."""
    made = Traced("si", strength=2.0, damping=0.1, path_of=path_of)
    made.steps(0, 4)
    path = made.path(made.gradients)
    start, last = made.points[0], made.points[-1]
    importance = {name: path[name] / ((last[name] - start[name]) ** 2 + 0.1) for name in path}
    made.next_step_is(importance, 2 * 2.0)
    penalised = [
        {name: g + 4.0 * importance[name] * (at[name] - last[name]) for name, g in gradient.items()}
        for gradient, at in zip(made.gradients, made.points, strict=False)
    ]
    found, other = made.bench.method.path, made.path(made.gradients if path_of == "total" else penalised)
    for name, value in made.path(made.gradients if path_of == "loss" else penalised).items():
        assert torch.allclose(found[name], value, atol=1e-7)
        assert not torch.allclose(found[name], other[name], atol=1e-6)


def test_mas_of_a_linear_model_is_the_closed_form() -> None:
    """d |Wx + b|^2 / dW = 2 z x', over the outputs seen."""
    made = Traced("mas", strength=0.5, samples=10**6)
    made.steps(0, 4)
    data = made.bench.stream.train.batch(made.bench.stream.contexts[0].train)
    weight, bias = made.points[-1].values()
    x = data.inputs.flatten(1)
    z = (x @ weight.T + bias) * made.bench.method.seen
    expected = {"1.weight": (2 * z[:, :, None] * x[:, None]).abs().mean(0), "1.bias": (2 * z).abs().mean(0)}
    found = made.bench.method.sensitivity(made.bench.experience(0))
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in found)
    made.next_step_is(expected, 2 * 0.5)


def test_rwalk_by_hand() -> None:
    """A moving average of g^2, and the path's score over stretches of one step, each scaled to at most 1."""
    made = Traced("rwalk", strength=3.0, rate=0.5, stretch=1, damping=0.01)
    made.steps(0, 3)
    fisher = {name: torch.zeros_like(p) for name, p in made.points[0].items()}
    score = {name: torch.zeros_like(p) for name, p in made.points[0].items()}
    for number, gradient in enumerate(made.gradients):
        for name in fisher:
            moved = made.points[number + 1][name] - made.points[number][name]
            fisher[name] = 0.5 * fisher[name] + 0.5 * gradient[name] ** 2
            score[name] += (-gradient[name] * moved).clamp(min=0) / (0.5 * fisher[name] * moved**2 + 0.01)
    largest = [max(float(value.max()) for value in values.values()) for values in (fisher, score)]
    made.next_step_is({name: fisher[name] / largest[0] + score[name] / largest[1] for name in fisher}, 2 * 3.0)


def test_online_ewc_keeps_one_information_and_the_last_optimum() -> None:
    made = Bench("online_ewc", "class_incremental", benchmark=LINEAR, strength=1.0, decay=0.5)
    found = []
    for phase in range(2):
        made.begin(phase)
        for _, observation in zip(range(4), made.observations(phase), strict=False):
            made.method.observe(observation)
        found.append(made.method.information(made.experience(phase)))
        made.end(phase)
    penalty = made.method.penalty
    assert all(torch.allclose(penalty.importance[n], 0.5 * found[0][n] + found[1][n]) for n in penalty.importance)
    assert same(penalty.anchor, made.parameters())
