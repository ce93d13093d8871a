"""The inner loop of meta-learning: a few steps of gradient descent as a function of where they start.

Everything here is a pure function of parameters given by name, so that it can be differentiated (once more) with
respect to where it started and to its step sizes, and mapped over many tasks at once by torch.func.vmap.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from fourfold.benchmarks.interface import LossOf
from fourfold.errors import Refused

Values = dict[str, Tensor]
LossAt = Callable[[Values], Tensor]


def loss_at(network: nn.Module, loss_of: LossOf, inputs: Tensor, targets: Tensor) -> LossAt:
    """The loss on a batch as a function of the network's parameters."""
    return lambda values: loss_of(functional_call(network, values, (inputs,)), targets)


def adapt(
    loss: LossAt, start: Values, rates: Mapping[str, Tensor], steps: int, adapted: Iterable[str], first_order: bool
) -> Values:
    """theta <- theta - rate * d loss(theta) / d theta, ``steps`` times, for the parameters named ``adapted``.

    start: {name: [...]}; rates: {name: []}, the step size of each adapted parameter. ``first_order`` takes gradients
    for constants, so that the result depends on start and rates alone (Finn, Abbeel & Levine 2017).
    """
    names = tuple(adapted)
    values = dict(start)
    for _ in range(steps):
        fixed = {name: value for name, value in values.items() if name not in names}

        def own_loss(own: Values, fixed: Values = fixed) -> Tensor:
            return loss({**fixed, **own})

        moving = {name: values[name] for name in names}
        gradients = _constant_gradients(own_loss, moving) if first_order else _gradients(own_loss, moving)
        for name in names:
            values[name] = values[name] - rates[name] * gradients[name]
    return values


def _gradients(loss: LossAt, values: Values) -> Values:
    with sdpa_kernel(SDPBackend.MATH):  # fused kernels of attention have no second derivative
        return grad(loss)(values)


def _constant_gradients(loss: LossAt, values: Values) -> Values:
    with torch.no_grad():  # torch.func.grad differentiates all the same; it only is not differentiated once more
        found: Values = grad(loss)(values)
    return {name: gradient.detach() for name, gradient in found.items()}


def losses_of_tasks(
    network: nn.Module,
    loss_of: LossOf,
    start: Values,
    rates: Mapping[str, Tensor],
    tasks: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    steps: int,
    adapted: Iterable[str],
    first_order: bool,
    vectorised: bool,
) -> tuple[Tensor, Tensor]:
    """Loss [tasks] and outputs [tasks, queries, outputs] on each task's query set after adapting to its support.

    tasks: support inputs and targets, query inputs and targets, each [tasks, samples, ...]. ``vectorised``: all at once
    by vmap, else one after another.
    """
    names = tuple(adapted)

    def one(
        begin: Values, sizes: Values, shown: Tensor, told: Tensor, asked: Tensor, answers: Tensor
    ) -> tuple[Tensor, Tensor]:
        values = adapt(loss_at(network, loss_of, shown, told), begin, sizes, steps, names, first_order)
        outputs = functional_call(network, values, (asked,))
        return loss_of(outputs, answers), outputs

    if vectorised:
        every: Any = vmap(one, in_dims=(None, None, 0, 0, 0, 0), randomness="different")
        with nullcontext() if first_order else ComposedBatchNorm():
            return every(start, dict(rates), *tasks)
    found = [one(start, dict(rates), *task) for task in zip(*tasks, strict=True)]
    return torch.stack([loss for loss, _ in found]), torch.stack([outputs for _, outputs in found])


class ComposedBatchNorm(TorchFunctionMode):
    """Within it batch norm without running statistics is put together from elementary operations.

    The fused one's second derivative is wrong under vmap (PyTorch 2.13: by about a percent, without a warning).
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.batch_norm:
            return composed_batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def composed_batch_norm(
    inputs: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """torch.nn.functional.batch_norm for inputs [batch, channels, ...] normalised by themselves.

    Raises Refused where there are running statistics, which tasks at once cannot share.
    """
    if running_mean is not None or not training:
        raise Refused("method.vectorised=on: batch norm with running statistics; choose off")
    others = [0, *range(2, inputs.dim())]
    along = (-1, *(1,) * (inputs.dim() - 2))
    var, mean = torch.var_mean(inputs, others, correction=0, keepdim=True)
    result = (inputs - mean) * torch.rsqrt(var + eps)
    if weight is not None:
        result = result * weight.view(along)
    return result if bias is None else result + bias.view(along)


def copies(values: Mapping[str, Tensor]) -> Values:
    """The same values as new leaves, apart from any graph, that gradients can be asked for."""
    return {name: value.detach().clone().requires_grad_() for name, value in values.items()}


def head_of(network: nn.Module) -> tuple[str, ...]:
    """The parameters of the last fully connected layer."""
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    last = layers[-1]
    return tuple(f"{last}.{name}" if last else name for name, _ in network.get_submodule(last).named_parameters())
