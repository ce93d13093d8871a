"""Methods with fast weights against what can be worked out by hand: second order, modulation, boundaries, buffers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.models import conv4
from fourfold.benchmarks.objectives import cross_entropy
from fourfold.methods.continual_maml import update_weight
from fourfold.methods.inner_loop import adapt, copies, head_of, loss_at, losses_of_tasks
from fourfold.settings.stream import Observation
from learning import Bench, member

SHORT = {"ways": 3, "shots": 2}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batch(seed: int, count: int = 6) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=draw).double(), torch.randint(3, (count,), generator=draw)


def meta_loss(net: nn.Module, start: Any, rates: Any, first_order: bool = False, steps: int = 2) -> Tensor:
    (support, told), (query, answers) = batch(1), batch(2)
    names = tuple(start)
    theta = adapt(loss_at(net, cross_entropy, support, told), start, rates, steps, names, first_order)
    return loss_at(net, cross_entropy, query, answers)(theta)


def test_the_second_order_gradient_is_that_of_finite_differences() -> None:
    net = network()
    start = copies(dict(net.named_parameters()))
    rates = {name: torch.tensor(0.3, dtype=torch.float64, requires_grad=True) for name in start}
    loss = meta_loss(net, start, rates)
    found = torch.autograd.grad(loss, [*start.values(), *rates.values()])
    moved = [*start.values(), *rates.values()]
    for value, gradient in zip(moved, found, strict=True):
        for at in range(min(3, value.numel())):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    value.view(-1)[at] += sign * 1e-5
                    sides.append(float(meta_loss(net, start, rates)))
                    value.view(-1)[at] -= sign * 1e-5
            assert float(gradient.view(-1)[at]) == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=1e-8)
    first = torch.autograd.grad(meta_loss(net, start, rates, first_order=True), list(start.values()))
    assert not torch.allclose(first[0], found[0], rtol=0.01)  # the second order is not nothing here


class Attends(nn.Module):
    """Attention of a sequence [batch, 4] to itself, as language models compute it."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(1, 6), nn.Linear(2, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        query, key, value = self.wide(inputs[..., None])[:, None].chunk(3, dim=-1)
        return self.out(F.scaled_dot_product_attention(query, key, value)[:, 0, -1])


def test_the_second_order_gradient_goes_through_attention() -> None:
    torch.manual_seed(0)
    net = Attends().double()
    start = copies(dict(net.named_parameters()))
    rates = {name: torch.tensor(0.3, dtype=torch.float64) for name in start}

    def outer(*values: Tensor) -> Tensor:
        return meta_loss(net, dict(zip(start, values, strict=True)), rates)

    assert torch.autograd.gradcheck(outer, tuple(start.values()), atol=1e-5)


def test_the_first_order_gradient_is_that_at_the_adapted_weights() -> None:
    net = network()
    start = copies(dict(net.named_parameters()))
    rates = {name: torch.tensor(0.3, dtype=torch.float64) for name in start}
    found = torch.autograd.grad(meta_loss(net, start, rates, first_order=True), list(start.values()))
    support, told = batch(1)
    theta = copies(adapt(loss_at(net, cross_entropy, support, told), start, rates, 2, tuple(start), True))
    query, answers = batch(2)
    plain = torch.autograd.grad(loss_at(net, cross_entropy, query, answers)(theta), list(theta.values()))
    for one, other in zip(found, plain, strict=True):
        assert torch.allclose(one, other)


@pytest.mark.parametrize("first_order", [True, False])
def test_tasks_at_once_are_tasks_one_after_another(first_order: bool) -> None:
    torch.manual_seed(1)
    net = conv4((1, 8, 8), 3, channels=4, blocks=2, width=1.0).double()
    start = dict(net.named_parameters())
    rates = {name: torch.tensor(0.1, dtype=torch.float64) for name in start}
    shown, asked = torch.randn(2, 3, 6, 1, 8, 8).double()
    told, answers = torch.randint(3, (2, 3, 6))
    results = []
    for vectorised in (True, False):
        losses, outputs = losses_of_tasks(
            net,
            cross_entropy,
            start,
            rates,
            (shown, told, asked, answers),
            steps=2,
            adapted=tuple(start),
            first_order=first_order,
            vectorised=vectorised,
        )
        results.append([losses, outputs, *torch.autograd.grad(losses.mean(), list(start.values()))])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_the_head_alone_is_adapted() -> None:
    """ANIL, and whatever else has ``adapted: head``."""
    assert member("method/anil")["adapted"] == "head"
    made = Bench("cmaml", "osaka", setting_values=SHORT, adapted="head", steps=3)
    before = made.parameters()
    made.method.modulation = 0.0  # type: ignore[attr-defined]
    made.learn_all()
    head = head_of(made.method.network)  # type: ignore[attr-defined]
    assert head == ("5.weight", "5.bias")
    fast = made.method.fast  # type: ignore[attr-defined]
    for name, value in before.items():
        assert torch.equal(fast[name], value) == (name not in head)


def test_the_weight_of_an_update() -> None:
    assert float(update_weight(torch.tensor(2.0), 0.5)) == pytest.approx(1 - 2.718281828**-1)
    assert float(update_weight(torch.tensor(2.0), 1000.0)) == 1.0
    assert float(update_weight(torch.tensor(2.0), 0.0)) == 0.0


def observed(made: Bench, count: int) -> list[Observation]:
    return [step.reveal() for step, _ in zip(made.experience(0)._steps(), range(count), strict=False)]


def test_maml_leaves_its_slow_weights_and_starts_each_batch_from_them() -> None:
    made = Bench("cmaml", "osaka", setting_values=SHORT, modulation=0.0, inner_steps=1, inner_rate=0.5)
    before = made.parameters()
    for observation in observed(made, 3):
        made.method.observe(observation)
    assert all(torch.equal(value, before[name]) for name, value in made.parameters().items())
    net = made.method.network  # type: ignore[attr-defined]
    F.cross_entropy(net(observation.inputs), observation.targets).backward()
    for name, parameter in net.named_parameters():
        assert torch.allclose(made.method.fast[name], before[name] - 0.5 * parameter.grad, atol=1e-6)  # type: ignore[attr-defined]


def test_a_meta_update_is_the_gradient_through_the_batch_before() -> None:
    """With an SGD of rate 0.1 outside: phi moves by -0.1 g(L) dL/dphi, L the loss after adapting to the last batch."""
    from learning import digits

    made = Bench(
        "cmaml",
        "osaka",
        benchmark=digits(optimizer="sgd"),
        setting_values=SHORT,
        modulation=0.7,
        learned_rates=False,
        inner_steps=1,
        inner_rate=0.5,
    )
    first, second = observed(made, 2)
    made.method.observe(first)
    net = made.method.network  # type: ignore[attr-defined]
    begun = made.parameters()
    start = copies(begun)
    rates = {name: torch.tensor(0.5) for name in start}
    theta = adapt(loss_at(net, cross_entropy, first.inputs, first.targets), start, rates, 1, tuple(start), False)
    loss = loss_at(net, cross_entropy, second.inputs, second.targets)(theta)
    gradients = torch.autograd.grad(loss, list(start.values()))
    weight = 1 - torch.exp(-0.7 * loss.detach())
    made.method.observe(second)
    for (name, value), gradient in zip(made.parameters().items(), gradients, strict=True):
        assert torch.allclose(value, begun[name] - 0.1 * weight * gradient, atol=1e-6)


@pytest.mark.parametrize("above", [True, False])
def test_the_boundary_test_compares_the_fall_of_the_loss_with_the_threshold(above: bool) -> None:
    """The fall is computed beside the method; a threshold just under it finds a change, one just over it does not."""
    made = Bench("cmaml", "osaka", setting_values=SHORT, inner_steps=1, inner_rate=0.5, threshold=99.0)
    first, second = observed(made, 2)
    made.method.observe(first)
    net = made.method.network  # type: ignore[attr-defined]
    at = loss_at(net, cross_entropy, second.inputs, second.targets)
    slow = {name: value.detach() for name, value in net.named_parameters()}
    candidate = adapt(at, slow, {name: torch.tensor(0.5) for name in slow}, 1, tuple(slow), True)
    fall = float(at(made.method.fast) - at(candidate))  # type: ignore[attr-defined]
    made.method.threshold = fall - 1e-4 if above else fall + 1e-4  # type: ignore[attr-defined]
    before = made.parameters()
    made.method.observe(second)
    unchanged = all(torch.equal(value, before[name]) for name, value in made.parameters().items())
    assert unchanged == above  # no meta-update from an adaptation to another context
    noted = made.run.meter._notes["detected"][1]
    assert noted == [0.0, float(above)]


class TestProlonged:
    """PAP: the fast weights go on; the buffer fills; a change empties it and starts anew."""

    def made(self, **values: Any) -> Bench:
        defaults = {"inner_steps": 1, "inner_rate": 0.5, "threshold": 99.0, "learned_rates": False}
        return Bench("cmaml_pap", "osaka", setting_values=SHORT, **{**defaults, **values})

    def step(self, made: Bench, values: dict[str, Tensor], observation: Observation) -> dict[str, Tensor]:
        rates = {name: torch.tensor(0.5) for name in values}
        at = loss_at(made.method.network, cross_entropy, observation.inputs, observation.targets)  # type: ignore[attr-defined]
        return adapt(at, values, rates, 1, tuple(values), True)

    def close(self, made: Bench, values: dict[str, Tensor]) -> bool:
        fast = made.method.fast  # type: ignore[attr-defined]
        return all(torch.allclose(fast[name], value, atol=1e-6) for name, value in values.items())

    def test_fast_weights_go_on_from_batch_to_batch(self) -> None:
        made = self.made()
        slow = made.parameters()
        values = slow
        for observation in observed(made, 4):
            made.method.observe(observation)
            values = self.step(made, values, observation)
        assert self.close(made, values)
        assert len(made.method.buffer) == 4  # type: ignore[attr-defined]
        assert all(torch.equal(value, slow[name]) for name, value in made.parameters().items())  # no meta-update yet

    @pytest.mark.parametrize("restart", ["next", "now"])
    def test_a_change_makes_one_meta_update_and_a_new_start(self, restart: str) -> None:
        made = self.made(restart=restart, lost="keep")
        batches = observed(made, 6)
        for observation in batches[:4]:
            made.method.observe(observation)
        old, slow = dict(made.method.fast), made.parameters()  # type: ignore[attr-defined]
        made.method.threshold = -99.0  # type: ignore[attr-defined]  # every batch shows a change now
        made.method.observe(batches[4])
        made.method.threshold = 99.0  # type: ignore[attr-defined]
        assert not made.method.buffer  # type: ignore[attr-defined]
        assert any(not torch.equal(value, slow[name]) for name, value in made.parameters().items())
        fresh = made.parameters()
        # next: the old weights have taken in the batch that showed the change; now: the new slow weights have
        assert self.close(made, self.step(made, old if restart == "next" else fresh, batches[4]))
        after = dict(made.method.fast)  # type: ignore[attr-defined]
        made.method.observe(batches[5])
        assert self.close(made, self.step(made, fresh if restart == "next" else after, batches[5]))

    def test_the_buffer_teaches_by_its_halves(self) -> None:
        """Batch i of the first half is adapted to, batch i of the second judges; the mean of the losses is learned."""
        from learning import digits

        made = self.made(benchmark=digits(optimizer="sgd"), modulation=1000.0, buffer=4)
        batches = observed(made, 4)
        begun = made.parameters()
        for observation in batches:
            made.method.observe(observation)  # the fourth fills the buffer
        assert not made.method.buffer  # type: ignore[attr-defined]
        net = made.method.network  # type: ignore[attr-defined]
        start = copies(begun)
        rates = {name: torch.tensor(0.5) for name in start}
        losses = []
        for support, query in zip(batches[:2], batches[2:], strict=True):
            at = loss_at(net, cross_entropy, support.inputs, support.targets)
            theta = adapt(at, start, rates, 1, tuple(start), False)
            losses.append(loss_at(net, cross_entropy, query.inputs, query.targets)(theta))
        gradients = torch.autograd.grad(torch.stack(losses).mean(), list(start.values()))
        for (name, value), gradient in zip(made.parameters().items(), gradients, strict=True):
            assert torch.allclose(value, begun[name] - 0.1 * gradient, atol=1e-6)

    @pytest.mark.parametrize("lost", ["restart", "keep"])
    @pytest.mark.parametrize("away", [1.0, float("inf")])
    def test_fast_weights_that_ran_away_start_anew(self, lost: str, away: float) -> None:
        """Their last layer is so large that a step of adaptation makes the loss far worse, or no number at all."""
        made = self.made(lost=lost, inner_rate=0.5)
        batches = observed(made, 4)
        for observation in batches[:2]:
            made.method.observe(observation)
        fast = dict(made.method.fast)  # type: ignore[attr-defined]
        made.method.fast = {name: value * 1e4 * away for name, value in fast.items()}  # type: ignore[attr-defined]
        made.method.observe(batches[2])
        again = self.step(made, made.parameters(), batches[2])
        assert self.close(made, again) == (lost == "restart")
        assert bool(made.method.buffer) == (lost == "keep")  # type: ignore[attr-defined]
        made.method.observe(batches[3])
        assert self.close(made, self.step(made, again, batches[3])) == (lost == "restart")
        assert sum(made.run.meter._notes["detected"][1]) == 0, "no change of context was found"

    def test_a_full_buffer_is_more_than_two_batches_a_sample(self) -> None:
        made = self.made()
        batch = made.method.told(observed(made, 1)[0])  # type: ignore[attr-defined]
        assert made.method.buffer_size(batch) == 2 * 3 * 2 + 1  # type: ignore[attr-defined]
        assert self.made(buffer=7).method.buffer_size(batch) == 7  # type: ignore[attr-defined]
