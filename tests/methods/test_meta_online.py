"""MetaBGD, MetaCOG, Reptile, La-MAML and many heads, each one step by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fourfold.benchmarks.objectives import cross_entropy
from fourfold.methods.bayesian import bayesian_step
from fourfold.methods.inner_loop import adapt, loss_at
from fourfold.methods.meta_bayesian import MASK, gated
from fourfold.settings.stream import Observation
from learning import Bench, same

SHORT = {"ways": 3, "shots": 2}


def observed(made: Bench, count: int) -> list[Observation]:
    return [step.reveal() for step, _ in zip(made.experience(0)._steps(), range(count), strict=False)]


def at(made: Bench, observation: Observation):  # type: ignore[no-untyped-def]
    return loss_at(made.method.network, cross_entropy, observation.inputs, observation.targets)  # type: ignore[attr-defined]


def test_a_bayesian_step_on_a_quadratic_is_its_closed_form() -> None:
    """L(p) = k/2 (p - c)^2 with p = m + e s: E[dL/dp] = k (m - c) and E[dL/dp e] = k s, exactly."""
    mean, deviation, k, c = torch.tensor([0.3, -1.0]), torch.tensor([0.2, 0.5]), 2.0, 1.5
    noise = torch.linspace(-8, 8, 16001, dtype=torch.float64)
    weights = torch.exp(-(noise**2) / 2) / torch.exp(-(noise**2) / 2).sum()
    gradients = k * (mean[:, None] + noise * deviation[:, None] - c)
    slope, bend = (gradients * weights).sum(1), (gradients * noise * weights).sum(1)
    moved, spread = bayesian_step(mean.double(), deviation.double(), slope, bend, 10.0)
    expected = mean - 10.0 * deviation**2 * k * (mean - c)
    half = deviation**2 * k / 2
    assert torch.allclose(moved, expected.double(), atol=1e-6)
    assert torch.allclose(spread, (deviation * ((1 + half**2).sqrt() - half)).double(), atol=1e-6)
    assert (spread < deviation).all()  # a bowl makes the weights surer


def test_metabgd_without_deviation_is_a_gradient_step_through_the_batch_before() -> None:
    made = Bench(
        "metabgd", "osaka", setting_values=SHORT, rate=1e11, deviation=1e-6, samples=1, inner_steps=1, inner_rate=0.5
    )
    first, second = observed(made, 2)
    made.method.observe(first)
    begun = made.parameters()
    start = {name: value.clone().requires_grad_() for name, value in begun.items()}
    rates = {name: torch.tensor(0.5) for name in start}
    theta = adapt(at(made, first), start, rates, 1, tuple(start), False)
    gradients = torch.autograd.grad(at(made, second)(theta), list(start.values()))
    made.method.observe(second)
    step = 1e11 * 1e-6**2 * len(second.targets)  # the loss counts every sample
    for (name, value), gradient in zip(made.parameters().items(), gradients, strict=True):
        assert torch.allclose(value, begun[name] - step * gradient, atol=1e-5)
    assert max(float((step * gradient).abs().max()) for gradient in gradients) > 1e-3


def test_metacog_adapts_masks_and_the_last_layer() -> None:
    """One inner step by hand: masks m fall by rate (dL/dm + l1 s(m) (1 - s(m))), the last layer is not masked."""
    made = Bench("metacog", "osaka", setting_values=SHORT, mask=0.4, inner_steps=1, inner_rate=5.0, l1=0.01)
    (first,) = observed(made, 1)
    slow = made.parameters()
    body, head = list(slow)[:-2], list(slow)[-2:]
    masks = {name: torch.full_like(slow[name], 0.4).requires_grad_() for name in body}
    last = {name: slow[name].clone().requires_grad_() for name in head}
    penalty = 0.01 * torch.cat([mask.sigmoid().flatten() for mask in masks.values()]).sum()
    loss = at(made, first)({**{name: slow[name] * masks[name].sigmoid() for name in body}, **last}) + penalty
    gradients = dict(zip(slow, torch.autograd.grad(loss, [*masks.values(), *last.values()]), strict=True))
    made.method.observe(first)
    fast = made.method.fast  # type: ignore[attr-defined]
    assert set(fast) == {*slow, *(MASK + name for name in body)}
    for name in body:
        assert torch.equal(fast[name], slow[name])
        assert torch.allclose(fast[MASK + name], 0.4 - 5.0 * gradients[name], atol=1e-6)
    assert all(torch.allclose(fast[name], slow[name] - 5.0 * gradients[name], atol=1e-6) for name in head)
    empty = (first.inputs.flatten(1) == 0).all(0)
    assert empty.any()
    open_now = torch.tensor(0.4).sigmoid()  # the L1 alone moves masks over pixels that are empty in every sample
    assert torch.allclose(fast[MASK + body[0]][:, empty], 0.4 - 5.0 * 0.01 * open_now * (1 - open_now), atol=1e-6)
    weights = gated(fast)
    assert all(torch.allclose(weights[name], slow[name] * fast[MASK + name].sigmoid()) for name in body)
    assert all(torch.equal(weights[name], fast[name]) for name in head)


def test_reptile_goes_a_part_of_the_way() -> None:
    made = Bench("reptile", "osaka", setting_values=SHORT, inner_steps=2, inner_rate=0.5, outer_rate=0.25)
    (first,) = observed(made, 1)
    begun = made.parameters()
    rates = {name: torch.tensor(0.5) for name in begun}
    theta = adapt(at(made, first), begun, rates, 2, tuple(begun), True)
    made.method.observe(first)
    for name, value in made.parameters().items():
        assert torch.allclose(value, begun[name] + 0.25 * (theta[name] - begun[name]), atol=1e-6)
    assert same(dict(made.method.fast), {name: value.detach() for name, value in theta.items()})  # type: ignore[attr-defined]


def test_la_maml_moves_its_step_sizes_first_and_the_weights_by_them() -> None:
    """One part: phi <- phi - max(0, a) dL/dphi, a <- a - r dL/da, L the loss on the batch one step ahead."""
    made = Bench("la_maml", "osaka", setting_values=SHORT, inner_steps=1, inner_rate=0.3, rates_rate=0.7)
    (first,) = observed(made, 1)
    begun = made.parameters()
    start = {name: value.clone().requires_grad_() for name, value in begun.items()}
    rates: dict[str, Tensor] = {name: torch.full_like(value, 0.3).requires_grad_() for name, value in begun.items()}
    loss = at(made, first)(adapt(at(made, first), start, rates, 1, tuple(start), True))
    found = torch.autograd.grad(loss, [*start.values(), *rates.values()])
    made.method.observe(first)
    for number, (name, value) in enumerate(made.parameters().items()):
        rate = 0.3 - 0.7 * found[len(start) + number]
        assert torch.allclose(made.method.rates[name], rate, atol=1e-6)  # type: ignore[attr-defined]
        assert torch.allclose(value, begun[name] - rate.clamp(min=0) * found[number], atol=1e-6)
    assert len(made.method.memory) == len(first.targets)  # type: ignore[attr-defined]


def test_many_heads_over_one_body() -> None:
    """The head that fits a batch best is adapted with the body and kept; the body goes a tenth of the way."""
    made = Bench("itaml", "osaka", setting_values=SHORT, inner_steps=1, inner_rate=0.5, heads=2, outer_rate=0.1)
    method: Any = made.method
    first, second = observed(made, 2)
    begun = made.parameters()
    rates = {name: torch.tensor(0.5) for name in begun}
    theta = adapt(at(made, first), begun, rates, 1, tuple(begun), True)
    method.chance = 100.0  # every loss is better than chance: one head does for all
    method.observe(first)
    assert len(method.heads) == 1
    for name, value in made.parameters().items():
        assert torch.allclose(value, begun[name] + 0.1 * (theta[name] - begun[name]), atol=1e-6)
        assert name not in method.head or torch.allclose(method.heads[0][name], theta[name], atol=1e-6)
    start = {**made.parameters(), **method.heads[0]}
    assert method.losses(method.told(second))[0] == pytest.approx(float(at(made, second)(start)), abs=1e-6)
    theta = adapt(at(made, second), start, rates, 1, tuple(start), True)
    method.observe(second)
    assert len(method.heads) == 1
    assert all(torch.allclose(method.fast[name], theta[name], atol=1e-6) for name in theta)
    method.chance = 0.0  # none is: each batch takes a head of its own, then that of longest ago
    for used in ([2, 3], [4, 3], [4, 5]):
        method.observe(second)
        assert method.used == used
