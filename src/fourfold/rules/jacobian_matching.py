"""Training a feedback block G to have the transposed Jacobian of its forward block F: the L-DRL loss, in several forms.

    loss = < -2 <eps, G(F(x + eps)) - G(y)> + |G(y + eta) - G(y)|^2 >,   y = F(x), eps and eta ~ N(0, sigma^2)

(Ernoult et al. 2022, in the scale of their code.) With A the Jacobian of G and J that of F it is, to second order,
sigma^2 (|A - J^T|^2 - |J|^2). Each function gives the gradients of the block's parameters for one draw of noise.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fourfold.rules.feedback import FeedbackBlock, forward_through, unknowns, weight_gradient
from fourfold.rules.tape import NORMS, Tape, forward_derivative, frozen_statistics, record

# (block, inputs, outputs, pass, eps, eta) -> gradients of the block's parameters; nothing is read from the device.
Gradients = Callable[[FeedbackBlock, Tensor, Tensor, Tape, Tensor, Tensor], list[Tensor]]
Draw = Callable[[Tensor, float, torch.Generator], Tensor]


def normal_like(like: Tensor, sigma: float, stream: torch.Generator) -> Tensor:
    """Gaussian noise of the shape of ``like``, standard deviation sigma."""
    return torch.randn(like.shape, generator=stream, device=like.device, dtype=like.dtype).mul_(sigma)


def orthogonal_like(like: Tensor, sigma: float, stream: torch.Generator) -> Tensor:
    """Noise of the same variance whose samples are orthogonal to each other, as many at a time as there is room for."""
    batch, size = len(like), like[0].numel()
    parts = []
    for start in range(0, batch, size):
        rows = min(size, batch - start)
        drawn = torch.randn(size, rows, generator=stream, device=like.device, dtype=like.dtype)
        parts.append(torch.linalg.qr(drawn)[0].T * (sigma * math.sqrt(size)))
    return torch.cat(parts).view_as(like)


def noisy_pass(back: FeedbackBlock, noisy: Tensor, clean: Tape) -> tuple[Tensor, Tape]:
    """F(x + eps) and the tape that G reads it with: that pass's own (mirror), the clean pass's (gated)."""
    with torch.no_grad(), frozen_statistics(back.block):
        if back.inversion == "gated":
            return back.block(noisy), clean
        return record(back.block, noisy)


def reference(back: FeedbackBlock, x: Tensor, y: Tensor, tape: Tape, eps: Tensor, eta: Tensor) -> list[Tensor]:
    """The loss as it is written, differentiated by autograd. Any block. x, eps [batch, in..]; y, eta [batch, out..]."""
    with torch.enable_grad():
        parameters = [value.detach().requires_grad_() for value in back.parameters]
        return list(torch.autograd.grad(loss(back, x, y, tape, eps, eta, parameters), parameters))


def loss(
    back: FeedbackBlock, x: Tensor, y: Tensor, tape: Tape, eps: Tensor, eta: Tensor, parameters: list[Tensor]
) -> Tensor:
    """The loss [] of a block with these parameters, for one draw of noise."""
    after, noisy = noisy_pass(back, x + eps, tape)
    clean = back(tape, y, parameters)
    answer, shaken = back(noisy, after, parameters) - clean, back(tape, y + eta, parameters) - clean
    return (shaken.square().sum() - 2 * (eps * answer).sum()) / len(x)


def loss_of_a_draw(
    back: FeedbackBlock,
    x: Tensor,
    y: Tensor,
    tape: Tape,
    sigma: float,
    stream: torch.Generator,
    parameters: list[Tensor],
) -> Tensor:
    """``loss`` for the next noise of a stream."""
    eps, eta = normal_like(x, sigma, stream), normal_like(y, sigma, stream)
    return loss(back, x, y, tape, eps, eta, parameters)


def linear(back: FeedbackBlock, x: Tensor, y: Tensor, tape: Tape, eps: Tensor, eta: Tensor) -> list[Tensor]:
    """The same gradient without a graph, for a plain block: G = L phi with L the transposed map of the weights.

    With a = phi(F(x + eps)) - phi(y), e = phi(y + eta) - phi(y) and w(inputs, errors) the weight gradient of the layer:
    2/B [w(L e, e) - w(eps, a)]. One pass of F, one of L, two weight gradients; G's bias cancels. With orthogonal probes
    its expectation is the same, and its variance less where a layer has one position.
    """
    a, e = answers(back, x, y, tape, eps, eta)
    layer, entry = back.layers[0], tape.entries[back.at(tape)]
    seen = shaped(back, tape, eps)
    sent = back._back([entry], e, {layer: (back.weights[0], None)})
    gradient = weight_gradient(layer, sent, e) - weight_gradient(layer, seen, a)
    return [gradient * (2 / len(x)), *(torch.zeros_like(bias) for bias in back.biases)]


def answers(back: FeedbackBlock, x: Tensor, y: Tensor, tape: Tape, eps: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    """a and e of ``linear``, where the outputs of the linear map are."""
    after, noisy = noisy_pass(back, x + eps, tape)
    if back.inversion == "gated":  # phi is linear there
        return back.before_weights(tape, after - y), back.before_weights(tape, eta)
    clean = back.before_weights(tape, y)
    return back.before_weights(noisy, after) - clean, back.before_weights(tape, y + eta) - clean


def shaped(back: FeedbackBlock, tape: Tape, values: Tensor) -> Tensor:
    """Inputs of a plain block as its linear map sees them."""
    for entry in tape.entries[: back.at(tape)]:
        values = entry.layer(values)
    return values


# formulation -> its gradients, and the noise that they are asked for
DESCENTS: dict[str, tuple[Gradients, Draw]] = {
    "reference": (reference, normal_like),
    "linear": (linear, normal_like),
    "orthogonal": (linear, orthogonal_like),
}


def can_correlate(back: FeedbackBlock) -> bool:
    """Whether ``correlated`` knows the block: a plain gated one without normalisation."""
    layers = back.block.modules()
    return back.inversion == "gated" and back.plain and not any(isinstance(layer, NORMS) for layer in layers)


def every(back: FeedbackBlock, y: Tensor, probes: float) -> int:
    """Of how many samples one is enough, for ``probes`` observations of each unknown of an output channel."""
    wanted = probes * unknowns(back.layers[0]) / math.prod(y.shape[2:])
    return max(1, int(len(y) // max(1.0, wanted)))


def correlated_rates(back: FeedbackBlock, tape: Tape, sigma: float) -> Tensor:
    """What multiplies ``correlated_step`` in each output channel [out, 1, ...]; 0 where a channel is silent."""
    layer, entries = back.layers[0], back.after(tape)
    ones = torch.ones_like(tape.entries[back.at(tape)].outputs)
    weight = back.before_weights(tape, forward_derivative(entries, ones)) if entries else ones
    other = [0, *range(2, ones.dim())]
    total, squares = weight.sum(other), weight.square().sum(other)
    observations = total.square() / squares.clamp_min(1e-30)
    rate = 1 / (1 + unknowns(layer) / observations.clamp_min(1e-30))
    scale = torch.where(total > 0, rate / (sigma * sigma * total.clamp_min(1e-30)), torch.zeros_like(total))
    return scale.view(-1, *[1] * (layer.weight.dim() - 1))


def correlated_step(back: FeedbackBlock, x: Tensor, before: Tensor, tape: Tape, eps: Tensor, rates: Tensor) -> Tensor:
    """A step towards the optimum of the same loss, with both of its halves estimated from the same noise.

    To second order the halves have the gradients -2 sigma^2 N theta and 2 sigma^2 N omega, N the squared derivatives D
    of what follows the linear map, summed. With independent eps and eta the noise of both stays however close omega
    is. Here the second half is estimated with eps as well: with A that derivative,

        g = w(eps, A^T [F(x + eps) - F(x) - A (omega * eps)])

    has the expectation sigma^2 N (theta - omega), and vanishes where omega = theta. The step of an output channel is
    g / (sigma^2 N) / (1 + unknowns / observations), the best of a normalised least-mean-squares filter. One pass of F,
    one of omega, one weight gradient. ``before`` is F(x) without the running averages of a clean pass.
    """
    layer = back.layers[0]
    seen = shaped(back, tape, eps)
    predicted = forward_derivative(back.after(tape), forward_through(layer, back.weights[0], seen))
    surprise = back.before_weights(tape, back.block(x + eps) - before - predicted)
    return weight_gradient(layer, seen, surprise) * rates


class Solver:
    """The loss's normal equations for a fully connected block: omega = (sum e^T e)^-1 (sum a^T eps), with forgetting.

    Sums over draws and batches; ``keep`` is what a new draw leaves of the old sums.
    """

    def __init__(self, layer: nn.Linear, keep: float) -> None:
        self.keep = keep
        self.gram = torch.zeros(layer.out_features, layer.out_features).to(layer.weight.detach())
        self.product = torch.zeros_like(layer.weight.detach())

    def draw(
        self, back: FeedbackBlock, x: Tensor, y: Tensor, tape: Tape, sigma: float, stream: torch.Generator
    ) -> None:
        """Adds one draw."""
        eps, eta = orthogonal_like(x, sigma, stream), orthogonal_like(y, sigma, stream)
        a, e = answers(back, x, y, tape, eps, eta)
        share = (1 - self.keep) / (sigma * sigma)
        self.gram.mul_(self.keep).add_(e.T @ e, alpha=share)
        self.product.mul_(self.keep).add_(weight_gradient(back.layers[0], shaped(back, tape, eps), a), alpha=share)

    def solution(self) -> Tensor:
        """omega [out, in]; a millionth of the mean square is added, so that silent units do no harm."""
        size = len(self.gram)
        ridge = self.gram.diagonal().mean().clamp_min(1e-30) * 1e-6
        return torch.linalg.solve_ex(self.gram + ridge * torch.eye(size).to(self.gram), self.product)[0]


def can_solve(back: FeedbackBlock, largest: int) -> bool:
    """Whether the normal equations are small: a plain fully connected block of at most so many outputs."""
    layer = back.layers[0]
    return back.plain and isinstance(layer, nn.Linear) and layer.out_features <= largest
