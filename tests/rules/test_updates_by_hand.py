"""Each rule's update on a two-layer network is the one that its equation gives."""

import pytest
import torch
from bench import LOSS_OF, batch, output_error, rule, two_layers
from torch import Tensor, nn

from fourfold.rules.forward_forward import goodness, overlaid, standardised


def parts(network: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden activity and the outputs."""
    h = torch.tanh(x @ network[0].weight.T + network[0].bias)
    return h, h @ network[2].weight.T + network[2].bias


def check(network: nn.Sequential, x: Tensor, hidden_error: Tensor, e: Tensor, h: Tensor) -> None:
    """The gradients are the products of inputs and errors; hidden_error is that of h."""
    delta = hidden_error * (1 - h * h)
    torch.testing.assert_close(network[2].weight.grad, e.T @ h)
    torch.testing.assert_close(network[2].bias.grad, e.sum(0))
    torch.testing.assert_close(network[0].weight.grad, delta.T @ x)
    torch.testing.assert_close(network[0].bias.grad, delta.sum(0))


def test_feedback_alignment_sends_errors_through_fixed_weights() -> None:
    network, (x, y) = two_layers(), batch()
    made = rule("feedback_alignment", network)
    _outputs, loss = made.gradients(network, x, y, LOSS_OF)
    h, o = parts(network, x)
    e = output_error(o, y)
    check(network, x, e @ made.feedback["2"], e, h)
    torch.testing.assert_close(loss, LOSS_OF(o, y).detach())
    assert not torch.equal(made.feedback["2"], network[2].weight)


def test_feedback_alignment_of_a_convolution_is_the_transposed_convolution() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, padding=1, groups=2)
    network = nn.Sequential(first, second, nn.Flatten()).double()
    x, y = torch.randn(3, 2, 6, 6).double(), torch.randint(54, (3,))
    made = rule("feedback_alignment", network)
    outputs, _ = made.gradients(network, x, y, LOSS_OF)
    e = output_error(outputs.detach(), y).view(3, 6, 3, 3)
    back = nn.functional.conv_transpose2d(e, made.feedback["1"], padding=1, groups=2)
    torch.testing.assert_close(first.weight.grad, torch.nn.grad.conv2d_weight(x, first.weight.shape, back, 2, 1))
    torch.testing.assert_close(first.bias.grad, back.sum((0, 2, 3)))


@pytest.mark.parametrize("magnitude", ["uniform", "fixed", "batch"])
def test_sign_symmetry_uses_the_signs_of_the_weights(magnitude: str) -> None:
    network, (x, y) = two_layers(), batch()
    made = rule("sign_symmetry", network, magnitude=magnitude)
    made.gradients(network, x, y, LOSS_OF)
    h, o = parts(network, x)
    e = output_error(o, y)
    b = network[2].weight.detach().sign() * made.feedback["2"]
    assert (made.feedback["2"] >= 0).all()
    check(network, x, e @ b, e, h)
    if magnitude == "uniform":
        assert made.feedback["2"].unique().numel() == 1


def test_kolen_pollack_gives_both_directions_the_same_change_and_decay() -> None:
    network, (x, y) = two_layers(), batch()
    made = rule("kolen_pollack", network, decay=0.1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    before = made.feedback["2"] - network[2].weight.detach()
    for _ in range(4):
        optimizer.zero_grad()
        made.gradients(network, x, y, LOSS_OF)
        h, o = parts(network, x)
        check(network, x, output_error(o, y) @ made.feedback["2"], output_error(o, y), h)
        optimizer.step()
    made.follow()
    torch.testing.assert_close(made.feedback["2"] - network[2].weight.detach(), before * 0.9**5)


def test_direct_feedback_alignment_sends_the_outputs_error_to_the_layer() -> None:
    network, (x, y) = two_layers(), batch()
    made = rule("direct_feedback_alignment", network)
    made.gradients(network, x, y, LOSS_OF)
    h, o = parts(network, x)
    e = output_error(o, y)
    check(network, x, e @ made.feedback["0"], e, h)


@pytest.mark.parametrize("inversion", ["mirror", "gated"])
def test_dtp_moves_layers_to_the_difference_targets(inversion: str) -> None:
    network, (x, y) = two_layers(nn.Tanh()), batch()
    network = nn.Sequential(*network, nn.Tanh(), nn.Linear(3, 3).double())
    made = rule("dtp", network, inversion=inversion, iterations=0)
    made.gradients(network, x, y, LOSS_OF)
    h1, z2 = parts(network, x)
    h2 = z2.tanh()
    e = output_error(h2 @ network[4].weight.T + network[4].bias, y)
    v2, v3 = made.feedback[1].weights[0], made.feedback[2].weights[0]
    d3 = -0.7 * len(x) * e  # t_N - s_N
    d2 = d3 @ v3  # of h2; the last block has no activation
    back = (h2 + d2).tanh() @ v2 - h2.tanh() @ v2 if inversion == "mirror" else (d2 * (1 - h2 * h2)) @ v2
    expected = {4: (d3, h2), 2: (d2 * (1 - h2 * h2), h1), 0: (back * (1 - h1 * h1), x)}
    for at, (delta, below) in expected.items():
        torch.testing.assert_close(network[at].weight.grad, -(delta.T @ below) / (0.7 * len(x)))


@pytest.mark.parametrize("name", ["target_propagation", "vanilla_dtp"])
def test_targets_with_and_without_the_difference(name: str) -> None:
    network, (x, y) = two_layers(), batch()
    made = rule(name, network, iterations=0, beta=0.3)
    made.feedback[1].biases[0].normal_()
    made.gradients(network, x, y, LOSS_OF)
    h, o = parts(network, x)
    e, back = output_error(o, y), made.feedback[1]
    t2 = o - 0.3 * len(x) * e
    t1 = t2 @ back.weights[0] + back.biases[0]
    if name == "vanilla_dtp":
        t1 = t1 + h - (o @ back.weights[0] + back.biases[0])
    check(network, x, (h - t1) / (0.3 * len(x)), e, h)


@pytest.mark.parametrize("name", ["target_propagation", "vanilla_dtp"])
def test_feedback_learns_to_reconstruct(name: str) -> None:
    network, (x, _y) = two_layers(), batch()
    made = rule(name, network, noise=1e-6)
    passes = made.forward(x)
    found = made.feedback_gradients(1, made.feedback[1], passes, made.stream(1))
    h, o = (value.detach() for value in parts(network, x))
    missed = o @ made.feedback[1].weights[0] + made.feedback[1].biases[0] - h
    torch.testing.assert_close(found[0], 2 / len(x) * o.T @ missed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], 2 / len(x) * missed.sum(0), rtol=1e-4, atol=1e-5)


def test_drl_learns_the_damped_inverse_of_a_linear_network() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).double()
    x, y = batch(400)
    made = rule("drl", network, iterations=1, decay=0.5, feedback_rate=0.01)
    for _ in range(600):
        network.zero_grad()
        made.gradients(network, x, y, LOSS_OF)
    j = network[1].weight.detach()  # loss: |V^T J eps - eps|^2 + 0.5 |V|^2, least at V = (J J^T + 0.5 I)^-1 J
    expected = torch.linalg.solve(j @ j.T + 0.5 * torch.eye(3).double(), j)
    assert (made.feedback[1].weights[0] - expected).norm() < 0.1 * expected.norm()


def test_ddtp_linear_learns_the_same_inverse_and_sends_errors_through_it() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).double()
    x, y = batch(400)
    made = rule("ddtp_linear", network, iterations=300, decay=0.5, feedback_rate=0.01)
    outputs, _ = made.gradients(network, x, y, LOSS_OF)
    j = network[1].weight.detach()
    expected = torch.linalg.solve(j @ j.T + 0.5 * torch.eye(3).double(), j)
    assert (made.feedback["0"] - expected).norm() < 0.1 * expected.norm()
    e = output_error(outputs.detach(), y)
    torch.testing.assert_close(network[0].weight.grad, (e @ made.feedback["0"]).T @ x)


def test_parallel_dtp_averages_its_draws() -> None:
    network, (x, _y) = two_layers(), batch()
    made = rule("parallel_dtp", network, samples=3)
    passes = made.forward(x)
    made.steps += 1
    with torch.no_grad():
        made.train_feedback(passes)
    from fourfold.rules.jacobian_matching import normal_like, reference

    stream, back, one = made.stream(1), rule("parallel_dtp", network).feedback[1], passes[1]
    x, y = one.inputs, one.outputs.detach()
    noises = [(normal_like(x, 0.2, stream), normal_like(y, 0.2, stream)) for _ in range(3)]
    draws = [reference(back, x, y, one.tape, eps, eta)[0] for eps, eta in noises]
    torch.testing.assert_close(made.feedback[1].weights[0].grad, torch.stack(draws).mean(0))


def test_pepita_compares_two_forward_passes() -> None:
    network, (x, y) = two_layers(), batch()
    made = rule("pepita", network)
    made.gradients(network, x, y, LOSS_OF)
    h, o = parts(network, x)
    e = output_error(o, y)
    changed = x - len(x) * e @ made.projection
    other, _ = parts(network, changed)
    torch.testing.assert_close(network[2].weight.grad, e.T @ other)
    torch.testing.assert_close(network[0].weight.grad, (h - other).T @ changed / len(x))
    torch.testing.assert_close(network[0].bias.grad, (h - other).mean(0))


def test_forward_forward_raises_goodness_for_right_labels_only() -> None:
    network, (x, y) = two_layers(), batch()
    made = rule("forward_forward", network)
    made.gradients(network, x, y, LOSS_OF)
    made.steps = 1
    wrong = made.wrong(torch.zeros(6, 3), y)
    assert (wrong != y).all()
    weight, bias = (p.detach().clone().requires_grad_() for p in network[0].parameters())

    def good(labels: Tensor) -> Tensor:
        return goodness(torch.tanh(standardised(overlaid(x, labels, 3)) @ weight.T + bias))

    loss = (nn.functional.softplus(1 - good(y)) + nn.functional.softplus(good(wrong) - 1)).mean()
    loss.backward()
    torch.testing.assert_close(network[0].weight.grad, weight.grad)
    torch.testing.assert_close(network[0].bias.grad, bias.grad)
    scores = made.predict(network, x)
    torch.testing.assert_close(scores[:, 1], good(torch.ones_like(y)).detach())
