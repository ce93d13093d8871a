"""Feedback blocks: for each forward block F, a block G from the space of its outputs back to that of its inputs.

A feedback weight omega has the shape of the forward weight theta of its layer and is applied transposed, so that
"the Jacobian of G is the transposed Jacobian of F" reads omega = theta, for convolutions and fully connected layers.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.layered import Residual
from fourfold.errors import Refused
from fourfold.rules.layers import (
    SHAPE_ONLY,
    LinearMap,
    grown,
    initial_weights,
    leaves,
    linear_maps,
    named,
    random_stream,
)
from fourfold.rules.tape import ACTIVATIONS, AVERAGES, NORMS, Entry, Tape, mirrored, transposed_derivative

COUNTERPARTS = {
    "mirror": (nn.Linear, nn.Conv2d, nn.MaxPool2d, Residual, *ACTIVATIONS, *AVERAGES, *SHAPE_ONLY),
    "gated": (nn.Linear, nn.Conv2d, nn.MaxPool2d, Residual, *ACTIVATIONS, *AVERAGES, *SHAPE_ONLY, *NORMS),
}


class FeedbackBlock:
    """G of one block, applied at a recorded pass of F.

    inversion: mirror, as in the official code: z -> activation(z), unpooling that overwrites; or gated: the transposed
    derivative of F at the pass in all but the weights, so that G is linear and can be exactly F's transposed Jacobian.
    biases: whether G adds one after each linear map; under L-DRL they cancel.
    """

    def __init__(self, block: nn.Sequential, number: int, inversion: str, biases: bool, start: str) -> None:
        self.block = block
        self.number = number
        self.inversion = inversion
        self.layers = list(linear_maps(block).values())
        check_supported(block, number, inversion)
        self.weights = [self._first(layer, position, start) for position, layer in enumerate(self.layers)]
        self.biases = [_bias(layer) for layer in self.layers] if biases else []

    def _first(self, layer: LinearMap, position: int, start: str) -> Tensor:
        if start == "symmetric":
            return layer.weight.detach().clone()
        stream = random_stream("cpu", "feedback", self.number, position, *layer.weight.shape)
        # torch's own start for the layer that maps back: a transposed convolution's fan-in is that of the
        # convolution, a linear layer's is the forward layer's number of outputs.
        fan = layer.out_features if isinstance(layer, nn.Linear) else None
        return initial_weights(layer.weight.detach(), stream, fan)

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.weights, *self.biases]

    @property
    def label(self) -> str:
        return f"block {self.number} ({', '.join(type(layer).__name__ for layer in self.layers)})"

    @property
    def plain(self) -> bool:
        """Whether F is: a change of shape, one linear map, then layers without weights of its own."""
        kinds = list(leaves(self.block))
        at = next((number for number, layer in enumerate(kinds) if isinstance(layer, nn.Linear | nn.Conv2d)), 0)
        after = all(not isinstance(layer, (nn.Linear, nn.Conv2d, Residual)) for layer in kinds[at + 1 :])
        return len(self.layers) == 1 and all(isinstance(layer, SHAPE_ONLY) for layer in kinds[:at]) and after

    def __call__(self, tape: Tape, values: Tensor, parameters: list[Tensor] | None = None) -> Tensor:
        """G(values) at a pass: [batch, outputs of F] -> [batch, inputs of F]."""
        mine = self.parameters if parameters is None else parameters
        weights, biases = mine[: len(self.layers)], mine[len(self.layers) :]
        by_layer: dict[nn.Module, tuple[Tensor, Tensor | None]] = {
            layer: (weights[number], biases[number] if biases else None) for number, layer in enumerate(self.layers)
        }
        return self._back(tape.entries, values, by_layer)

    def before_weights(self, tape: Tape, values: Tensor) -> Tensor:
        """phi(values): the part of a plain G that its weights come after; G(values) = back(phi(values))."""
        return self._back(self.after(tape), values, {})

    def after(self, tape: Tape) -> list[Entry]:
        """The entries of a plain F that come after its linear map."""
        return tape.entries[self.at(tape) + 1 :]

    def at(self, tape: Tape) -> int:
        """Which entry of a plain F is its linear map."""
        return next(number for number, entry in enumerate(tape.entries) if entry.layer is self.layers[0])

    def _back(
        self, entries: list[Entry], values: Tensor, weights: dict[nn.Module, tuple[Tensor, Tensor | None]]
    ) -> Tensor:
        step = transposed_derivative if self.inversion == "gated" else mirrored
        for entry in reversed(entries):
            if isinstance(entry.layer, nn.Linear | nn.Conv2d):
                weight, bias = weights[entry.layer]
                values = back_through(entry.layer, weight, bias, values, entry.inputs.shape)
            elif entry.branches is not None:
                main, short = (self._back(tape.entries, values, weights) for tape in entry.branches)
                values = main + short
            else:
                values = step(entry, values)
        return values

    def grow(self, block: nn.Sequential) -> bool:
        """Takes the place of a block whose layers may have got more units; what there was is kept. Whether they had."""
        self.block, self.layers = block, list(linear_maps(block).values())
        grew = False
        for number, layer in enumerate(self.layers):
            if layer.weight.shape != self.weights[number].shape:
                self.weights[number] = grown(self.weights[number], self._first(layer, number, "random"))
                if self.biases:
                    self.biases[number] = grown(self.biases[number], _bias(layer))
                grew = True
        return grew


def back_through(layer: LinearMap, weight: Tensor, bias: Tensor | None, values: Tensor, shape: torch.Size) -> Tensor:
    """The transposed linear map with weights of the forward layer's shape; ``shape`` is that of the result."""
    if isinstance(layer, nn.Linear):
        return F.linear(values, weight.T, bias)
    rest = [
        shape[2 + i]
        - (
            (values.shape[2 + i] - 1) * layer.stride[i]
            - 2 * int(layer.padding[i])
            + layer.dilation[i] * (layer.kernel_size[i] - 1)
            + 1
        )
        for i in range(2)
    ]
    padding = [int(side) for side in layer.padding]
    return F.conv_transpose2d(values, weight, bias, layer.stride, padding, rest, layer.groups, layer.dilation)


def forward_through(layer: LinearMap, weight: Tensor, values: Tensor) -> Tensor:
    """The layer's linear map with other weights and without bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(values, weight)
    return F.conv2d(values, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def weight_gradient(layer: LinearMap, inputs: Tensor, errors: Tensor) -> Tensor:
    """The sum over the batch of the products of inputs and errors that a layer's weight gradient is."""
    kind = layer.weight.dtype
    errors, inputs = errors.to(kind), inputs.to(kind)
    if isinstance(layer, nn.Linear):
        return errors.flatten(0, -2).T @ inputs.flatten(0, -2)
    return torch.ops.aten.convolution_backward(
        errors,
        inputs,
        layer.weight.detach(),
        None,
        layer.stride,
        [int(side) for side in layer.padding],
        layer.dilation,
        False,
        [0, 0],
        layer.groups,
        [False, True, False],
    )[1]


def unknowns(layer: LinearMap) -> int:
    """How many inputs one output of the layer looks at."""
    return math.prod(layer.weight.shape[1:])


def check_supported(block: nn.Module, number: int, inversion: str) -> None:
    """Raises Refused for a layer that has no feedback counterpart, naming it and those that have one."""
    for layer in leaves(block):
        if not isinstance(layer, COUNTERPARTS[inversion]):
            known = ", ".join(sorted(kind.__name__ for kind in COUNTERPARTS[inversion]))
            hint = "; method.rule.inversion=gated knows it" if isinstance(layer, COUNTERPARTS["gated"]) else ""
            raise Refused(
                f"block {number} has a {named(layer)}, which has no {inversion} feedback counterpart"
                f"{hint}; these have: {known}"
            )
        if isinstance(layer, Residual):
            for part in (layer.main, layer.shortcut, layer.activation):
                check_supported(part, number, inversion)


def _bias(layer: LinearMap) -> Tensor:
    size = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    return torch.zeros(size).to(layer.weight.detach())
