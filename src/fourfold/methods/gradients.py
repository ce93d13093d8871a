"""Gradients beside those of the step: on other samples, or of each sample apart."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fourfold.methods.finetune import Finetune
from fourfold.settings.stream import Observation


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def gradient_on(method: Finetune, observation: Observation) -> dict[str, Tensor]:
    """The gradient of the plain loss on other samples, found by the method's rule beside its updates.

    Leaves ``.grad`` empty.
    """
    parameters = trained(method.network)
    _clear(parameters)
    for term in Finetune.terms(method, observation):
        method.rule.gradients_beside(method.network, term.inputs, term.targets, term.loss_of)
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()}
    _clear(parameters)
    return found


def gradient_of_each(
    network: nn.Module, value_of: Callable[..., Tensor], inputs: Tensor, *others: Tensor
) -> dict[str, Tensor]:
    """d value_of(outputs [1, ...], others...) / d parameters for each sample apart: {name: [batch, *shape]}.

    By reverse-mode differentiation, whatever the method's rule.
    """
    values = {name: p.detach() for name, p in trained(network).items()}

    def value(own: Mapping[str, Tensor], sample: Tensor, *rest: Tensor) -> Tensor:
        outputs = functional_call(network, dict(own), (sample[None],))
        return value_of(outputs, *(other[None] for other in rest))

    each: Any = vmap(grad(value), in_dims=(None, 0, *(0 for _ in others)), randomness="different")
    return each(values, inputs, *others)


def sum_of_powers(
    network: nn.Module,
    value_of: Callable[..., Tensor],
    power: int,
    weights: Tensor,
    inputs: Tensor,
    others: Sequence[tuple[Tensor, ...]],
) -> dict[str, Tensor]:
    """sum_k sum_b weights_bk |d value_bk / d p|^power for each parameter p, over samples b and their K values.

    ``value_of(outputs, *others[k])`` adds up the k-th value of all samples; weights: [batch, K].

    Where all trained parameters are in fully connected layers, the gradient of a sample is an outer product of what
    comes back to a layer and what went in, so that its powers can be summed without forming it.
    """
    quick = _outer_products(network, value_of, power, weights, inputs, others)
    if quick is None:
        found = {name: torch.zeros_like(p) for name, p in trained(network).items()}
        for column, own in zip(weights.T, others, strict=True):
            if bool((column > 0).any()):
                for name, g in gradient_of_each(network, value_of, inputs, *own).items():
                    found[name] += torch.einsum("b...,b->...", g.abs().pow(power), column)
        return found
    found = {}
    for layer, (given, back) in quick.items():
        found[f"{layer}.weight"] = back.T @ given.abs().pow(power)
        found[f"{layer}.bias"] = back.sum(0)
    return {name: found[name] for name in trained(network)}


def _outer_products(
    network: nn.Module,
    value_of: Callable[..., Tensor],
    power: int,
    weights: Tensor,
    inputs: Tensor,
    others: Sequence[tuple[Tensor, ...]],
) -> dict[str, tuple[Tensor, Tensor]] | None:
    """For each layer its inputs [batch, in] and the weighted sum of the powers of the gradients of its outputs
    [batch, out]; None where that is not all.

    The samples must not touch each other within the network: evaluation mode.
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    if not set(trained(network)) <= {f"{name}.{part}" for name in layers for part in ("weight", "bias")}:
        return None
    calls: list[tuple[str, Tensor, Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda _, given, out, name=name: calls.append((name, given[0], out)))
        for name, layer in layers.items()
    ]
    try:
        with torch.enable_grad():
            outputs = network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if sorted(name for name, _, _ in calls) != sorted(layers) or any(given.dim() != 2 for _, given, _ in calls):
        return None
    outs = [out for _, _, out in calls]
    sums = [torch.zeros_like(out) for out in outs]
    for column, own in zip(weights.T, others, strict=True):
        if bool((column > 0).any()):
            with torch.enable_grad():
                value = value_of(outputs, *own)
            for total, back in zip(sums, torch.autograd.grad(value, outs, retain_graph=True), strict=True):
                total.addcmul_(back.abs().pow_(power), column[:, None])
    return {name: (given.detach(), total) for (name, given, _), total in zip(calls, sums, strict=True)}


def dot(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    """The inner product of two gradients, []."""
    return torch.stack([(one[name] * other[name]).sum() for name in one]).sum()


def _clear(parameters: Mapping[str, nn.Parameter]) -> None:
    for parameter in parameters.values():
        parameter.grad = None
