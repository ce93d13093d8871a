"""The exact identities of difference target propagation (Ernoult et al. 2022), on every kind of layer."""

from typing import Any

import pytest
import torch
from bench import FAST, LOSS_OF, batch, gradients_of, pictures, relative_difference, rule, two_layers
from torch import Tensor, nn

from fourfold.benchmarks.layered import lenet, residual_network, simple_vgg
from fourfold.rules import jacobian_matching as forms
from fourfold.rules.cost import PER_ITERATION, multiply_adds, step_cost
from fourfold.rules.diagnostics import alignment, backprop_gradients
from fourfold.rules.feedback import FeedbackBlock
from fourfold.rules.layers import blocks_of
from fourfold.rules.tape import record


def network(name: str, activation: str = "elu", side: int = 8, normalisation: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    shape = (3, side, side)
    if name == "lenet":
        return lenet(shape, 5, [4, 6], 12, activation, 1.0).double()
    if name == "simple_vgg":
        return simple_vgg(shape, 5, [4, 4, 6, 6, 8], activation, 1.0).double()
    return residual_network(shape, 5, [4, 6, 8], [1, 2, 1], activation, normalisation, 1.0).double()


# Blocks with every layer that has a feedback counterpart: (block, shape of one sample, known to mirror).
BLOCKS: dict[str, tuple[Any, tuple[int, ...], bool]] = {
    "linear": (lambda: [nn.Linear(7, 5)], (7,), True),
    "flatten": (lambda: [nn.Flatten(), nn.Linear(12, 5), nn.ELU()], (3, 2, 2), True),
    "convolution": (lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.ELU()], (3, 6, 6), True),
    "stride, odd sides": (lambda: [nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Tanh()], (3, 7, 6), True),
    "dilation": (lambda: [nn.Conv2d(3, 4, 3, dilation=2), nn.Sigmoid()], (3, 7, 7), True),
    "groups": (lambda: [nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.GELU()], (4, 5, 5), True),
    "pooling": (lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)], (3, 6, 6), True),
    "overlapping pooling": (lambda: [nn.Conv2d(3, 4, 5, padding=2), nn.ELU(), nn.MaxPool2d(3, 2, 1)], (3, 8, 8), True),
    "average": (lambda: [nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AvgPool2d(2)], (3, 6, 6), True),
    "global average": (lambda: [nn.Conv2d(3, 4, 3), nn.LeakyReLU(), nn.AdaptiveAvgPool2d(1)], (3, 6, 6), True),
    "group norm": (lambda: [nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()], (3, 6, 6), False),
    "batch norm": (lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()], (3, 6, 6), False),
    "layer norm": (lambda: [nn.Linear(7, 5), nn.LayerNorm(5), nn.Softplus()], (7,), False),
}
PAIRS = [(name, inversion) for name, (*_, both) in BLOCKS.items() for inversion in ("gated", "mirror")[: 1 + both]]


def made_block(name: str, inversion: str, start: str = "random", dtype: torch.dtype = torch.float32) -> Any:
    """(feedback block, inputs, outputs, tape) of one of BLOCKS."""
    torch.manual_seed(2)
    build, shape, _ = BLOCKS[name]
    block = nn.Sequential(*build()).to(dtype)
    x = torch.randn(9, *shape, dtype=dtype)
    with torch.no_grad():
        y, tape = record(block, x)
    return FeedbackBlock(block, 2, inversion, False, start), x, y, tape


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def noise(x: Tensor, y: Tensor, sigma: float, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """eps and eta."""
    return forms.normal_like(x, sigma, draws), forms.normal_like(y, sigma, draws)


@pytest.mark.parametrize(("name", "inversion"), PAIRS)
def test_the_linear_gradient_is_that_of_the_loss(name: str, inversion: str) -> None:
    back, x, y, tape = made_block(name, inversion)
    probes = noise(x, y, 0.2, stream())
    exact = forms.reference(back, x, y, tape, *probes)[0]
    assert relative_difference(forms.linear(back, x, y, tape, *probes)[0], exact) < 1e-5


@pytest.mark.parametrize("name", BLOCKS)
def test_a_gated_copy_of_the_weights_is_the_transposed_jacobian(name: str) -> None:
    back, x, y, tape = made_block(name, "gated", "symmetric", torch.float64)
    error = torch.randn_like(y)
    z = x.clone().requires_grad_()
    (exact,) = torch.autograd.grad(back.block(z), z, error)
    torch.testing.assert_close(back(tape, error), exact)


@pytest.mark.parametrize("activation", ["elu", "relu", "gelu"])
@pytest.mark.parametrize("name", ["lenet", "simple_vgg", "residual_network"])
def test_gated_symmetric_feedback_gives_the_gradients_of_backprop(name: str, activation: str) -> None:
    net, (x, y) = network(name, activation), pictures()
    exact = backprop_gradients(net, x, y, LOSS_OF)
    for beta in (0.7, 0.005):
        found = gradients_of(rule("dtp", net, inversion="gated", beta=beta, **FAST), net, x, y, LOSS_OF)
        assert found.keys() == exact.keys()
        assert max(relative_difference(found[key], exact[key]) for key in exact) < 1e-9


def test_normalised_stages_too_and_running_averages_move_once_a_step() -> None:
    net, (x, y) = network("residual_network", "relu", normalisation=True), pictures()
    exact = backprop_gradients(net, x, y, LOSS_OF)
    before = net[0][1].running_mean.clone()
    made = rule("dtp", net, inversion="gated", **{**FAST, "iterations": 3, "feedback_rate": 1e-12})
    found = gradients_of(made, net, x, y, LOSS_OF)
    assert max(relative_difference(found[key], exact[key]) for key in exact) < 1e-6
    moved = net[0][1].running_mean - before
    with torch.no_grad():
        batch_mean = net[0][0](x).mean((0, 2, 3))
    torch.testing.assert_close(moved, 0.1 * (batch_mean - before))


@pytest.mark.parametrize("name", ["dtp", "target_propagation", "vanilla_dtp", "drl", "parallel_dtp"])
def test_the_last_layers_gradient_is_that_of_backprop_whatever_the_feedback(name: str) -> None:
    net, (x, y) = network("lenet"), pictures()
    exact, found = backprop_gradients(net, x, y, LOSS_OF), gradients_of(rule(name, net), net, x, y, LOSS_OF)
    assert relative_difference(found["3.0.weight"], exact["3.0.weight"]) < 1e-12
    assert relative_difference(found["3.0.bias"], exact["3.0.bias"]) < 1e-12
    assert relative_difference(found["0.0.weight"], exact["0.0.weight"]) > 0.1


def test_local_losses_do_not_depend_on_other_layers() -> None:
    net, (x, _) = network("lenet"), pictures()
    made = rule("dtp", net)
    passes = made.forward(x)
    for n, one in enumerate(passes):
        for m, block in enumerate(made.blocks):
            found = torch.autograd.grad(
                one.outputs.sum(), list(block.parameters()), allow_unused=True, retain_graph=True
            )
            assert all((gradient is not None) == (n == m) for gradient in found)


@pytest.mark.parametrize("inversion", ["mirror", "gated"])
def test_a_feedback_bias_has_no_gradient(inversion: str) -> None:
    back, x, y, tape = made_block("convolution", inversion, dtype=torch.float64)
    biased = FeedbackBlock(back.block, 2, inversion, True, "random")
    probes = noise(x, y, 0.2, stream())
    weight, bias = forms.reference(biased, x, y, tape, *probes)
    assert bias.abs().max() < 1e-12 * weight.abs().max()
    assert not forms.linear(biased, x, y, tape, *probes)[1].any()


def test_orthogonal_probes_are_orthogonal_and_of_the_same_size() -> None:
    probes = forms.orthogonal_like(torch.zeros(50, 4, 5), 0.3, stream()).flatten(1)
    first = probes[:20] @ probes[:20].T
    torch.testing.assert_close(first, 0.3**2 * 20 * torch.eye(20), rtol=1e-4, atol=1e-5)
    assert probes.square().mean().sqrt().item() == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize("formulation", ["reference", "linear", "orthogonal", "solve", "correlated"])
def test_every_formulation_turns_the_feedback_weights_to_the_forward_weights(formulation: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ELU(), nn.Flatten(), nn.Linear(16, 12), nn.ELU(), nn.Linear(12, 5))
    x, y = pictures(64, 4, dtype=torch.float32)
    noise = 0.02 if formulation == "correlated" else 0.1
    iterations = 10 if formulation in ("correlated", "solve") else 150
    made = rule("dtp", net, inversion="gated", formulation=formulation, iterations=iterations, noise=noise)
    before = [angle_of(made, n) for n in made.feedback]
    for _ in range(3):
        gradients_of(made, net, x, y, LOSS_OF)
    after = [angle_of(made, n) for n in made.feedback]
    assert min(before) > 60
    assert max(after) < (1 if formulation == "correlated" else 12)


def angle_of(made: Any, n: int) -> float:
    return float(alignment(made.feedback[n].weights[0], made.feedback[n].layers[0].weight).angle)


@torch.no_grad()
def correlated_steps(back: Any, x: Tensor, tape: Any, sigma: float, count: int) -> list[Tensor]:
    """Steps from where the feedback is, each with noise of its own."""
    rates, before, draws = forms.correlated_rates(back, tape, sigma), back.block(x), stream()
    probes = [forms.normal_like(x, sigma, draws) for _ in range(count)]
    return [forms.correlated_step(back, x, before, tape, eps, rates) for eps in probes]


def test_correlated_probes_expect_what_the_loss_does_and_rest_at_the_forward_weights() -> None:
    back, x, y, tape = made_block("pooling", "gated", "symmetric", torch.float64)
    (rest,) = correlated_steps(back, x, tape, 1e-5, 1)
    assert rest.norm() < 1e-3 * back.weights[0].norm()
    back.weights[0].mul_(-1).add_(0.1)
    step = torch.zeros_like(back.weights[0])
    for one in correlated_steps(back, x, tape, 1e-3, 400):
        step += one / 400
    draws = [forms.linear(back, x, y, tape, *noise(x, y, 1e-3, g))[0] for g in [stream()] for _ in range(400)]
    down = -torch.stack(draws).mean(0)
    rates = step.flatten(1).norm(dim=1) / down.flatten(1).norm(dim=1)  # each channel has a rate of its own
    torch.testing.assert_close(step, down * rates.view(-1, 1, 1, 1), rtol=0.0, atol=0.15 * float(step.abs().max()))


def test_frozen_lower_blocks_need_no_feedback() -> None:
    net, (x, y) = network("lenet"), pictures()
    for parameter in net[:2].parameters():
        parameter.requires_grad_(False)
    made = rule("dtp", net, inversion="gated", **FAST)
    assert list(made.feedback) == [3]
    found, exact = gradients_of(made, net, x, y, LOSS_OF), backprop_gradients(net, x, y, LOSS_OF)
    assert found.keys() == exact.keys()
    assert max(relative_difference(found[key], exact[key]) for key in exact) < 1e-9


def test_later_iterations_take_over() -> None:
    net, (x, y) = two_layers(), batch()
    made = rule("dtp", net, iterations=1, later_iterations=0, later_after=2)
    weights: list[Tensor] = []
    for _ in range(4):
        made.gradients(net, x, y, LOSS_OF)
        weights.append(made.feedback[1].weights[0].clone())
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[3])


def test_feedback_that_is_close_enough_rests_until_the_next_look_finds_it_away() -> None:
    net, (x, y) = two_layers(), batch()
    made = rule("dtp", net, inversion="gated", start="symmetric", train_above=20.0, look_every=2)
    back = made.feedback[1]
    made.gradients(net, x, y, LOSS_OF)
    assert torch.equal(back.weights[0], net[2].weight)
    with torch.no_grad():
        back.weights[0].mul_(-1)
    made.gradients(net, x, y, LOSS_OF)  # not looked at: still at rest
    assert torch.equal(back.weights[0], -net[2].weight)
    made.gradients(net, x, y, LOSS_OF)
    assert not torch.equal(back.weights[0], -net[2].weight)


def test_new_feedback_learns_before_the_network_takes_its_first_step_and_a_resumed_one_is_not_new() -> None:
    net, (x, y) = network("lenet"), pictures()
    made = rule("fast_dtp", net)
    assert all(angle_of(made, n) > 80 for n in made.feedback)
    made.gradients(net, x, y, LOSS_OF)
    lowest, *rest = [angle_of(made, n) for n in made.feedback]
    assert lowest < 45
    assert max(rest) < 2
    again = rule("fast_dtp", net)
    again.load_state_dict(made.state_dict())
    for one in (made, again):
        one.gradients(net, x, y, LOSS_OF)
    for n, back in made.feedback.items():
        assert torch.equal(back.weights[0], again.feedback[n].weights[0])


def test_arithmetic_in_multiples_of_backprop() -> None:
    vgg = blocks_of(simple_vgg((3, 32, 32), 10, [128, 128, 256, 256, 512], "elu", 1.0), "dtp")
    small = blocks_of(lenet((3, 32, 32), 10, [32, 64], 512, "elu", 1.0), "dtp")
    x = torch.zeros(1, 3, 32, 32)
    of_vgg, of_lenet = multiply_adds(vgg, x), multiply_adds(small, x)
    assert [round(count / 1e6, 2) for count in of_vgg] == [3.54, 37.75, 18.87, 9.44, 4.72, 0.01]
    a, b = PER_ITERATION["original"], PER_ITERATION["linear"]
    assert step_cost(of_vgg, [20, 30, 35, 55, 20], a) == pytest.approx(71.3, abs=0.1)
    assert step_cost(of_lenet, [41, 51, 24], a) == pytest.approx(103.7, abs=0.1)
    assert step_cost(of_vgg, [20, 30, 35, 55, 20], b) == pytest.approx(36.5, abs=0.1)
    assert step_cost(of_lenet, [41, 51, 24], b) == pytest.approx(52.7, abs=0.1)


@pytest.mark.parametrize("name", ["dtp", "target_propagation", "vanilla_dtp"])
def test_a_loss_of_two_means_nudges_mirror_feedback_by_twice_beta(name: str) -> None:
    """As that of replay with ``weighting: sum``: documented, since the published beta is that of one mean."""
    net, (x, y) = two_layers(), batch()
    twice = gradients_of(rule(name, net, iterations=0, beta=0.5), net, x, y, lambda o, t: 2 * LOSS_OF(o, t))
    once = gradients_of(rule(name, net, iterations=0, beta=1.0), net, x, y, LOSS_OF)
    torch.testing.assert_close(twice["2.weight"], 2 * once["2.weight"])
    torch.testing.assert_close(twice["0.weight"], 2 * once["0.weight"])
