"""One forward pass through a block, layer by layer, with what its way back needs: shapes, maxima, derivatives."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.layered import Residual
from fourfold.rules.layers import leaves

ACTIVATIONS = (nn.ELU, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus)
AVERAGES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)


@dataclass(eq=False)
class Entry:
    """One layer's part of a pass: inputs and outputs [batch, ...] without graph.

    indices: of the maxima of a pooling; branches: the tapes of a residual sum.
    """

    layer: nn.Module
    inputs: Tensor
    outputs: Tensor
    indices: Tensor | None = None
    branches: "tuple[Tape, Tape] | None" = None

    @cached_property
    def derivative(self) -> Tensor:
        """phi'(z) of an activation, of the shape of its inputs."""
        s = self.outputs
        if isinstance(self.layer, nn.ReLU):
            return (s > 0).to(s.dtype)
        if isinstance(self.layer, nn.ELU):
            return (s + self.layer.alpha).clamp(max=1.0) if self.layer.alpha == 1.0 else self._by_autograd()
        if isinstance(self.layer, nn.Tanh):
            return 1 - s * s
        return self._by_autograd()

    def _by_autograd(self) -> Tensor:
        with torch.enable_grad():
            z = self.inputs.detach().requires_grad_()
            return torch.autograd.grad(self.layer(z).sum(), z)[0]

    def to(self, kind: torch.dtype) -> "Entry":
        """The same in another type of numbers."""
        branches = None if self.branches is None else (self.branches[0].to(kind), self.branches[1].to(kind))
        return Entry(self.layer, self.inputs.to(kind), self.outputs.to(kind), self.indices, branches)

    def some(self, step: int) -> "Entry":
        """The same for every ``step``-th sample."""
        indices = None if self.indices is None else self.indices[::step]
        branches = None if self.branches is None else (self.branches[0].some(step), self.branches[1].some(step))
        return Entry(self.layer, self.inputs[::step], self.outputs[::step], indices, branches)


@dataclass
class Tape:
    """The entries of a block's pass, in the order of its layers."""

    entries: list[Entry] = field(default_factory=list)

    def differentiate(self) -> None:
        """Works out the derivatives of the activations, so that a compiled use of them finds them there."""
        for entry in self.entries:
            if isinstance(entry.layer, ACTIVATIONS):
                _ = entry.derivative

    def to(self, kind: torch.dtype) -> "Tape":
        """The same in another type of numbers."""
        return Tape([entry.to(kind) for entry in self.entries])

    def some(self, step: int) -> "Tape":
        """The same for every ``step``-th sample."""
        return self if step == 1 else Tape([entry.some(step) for entry in self.entries])


def record(block: nn.Module, inputs: Tensor) -> tuple[Tensor, Tape]:
    """The block's outputs, with their graph where gradients are on, and the tape of the pass."""
    tape, x = Tape(), inputs
    for layer in leaves(block):
        if isinstance(layer, Residual):
            (main, of_main), (short, of_short) = record(layer.main, x), record(layer.shortcut, x)
            total = main + short
            tape.entries.append(Entry(layer, x.detach(), total.detach(), branches=(of_main, of_short)))
            x = layer.activation(total)
            tape.entries.append(Entry(layer.activation, total.detach(), x.detach()))
            continue
        if isinstance(layer, nn.MaxPool2d):
            y, indices = F.max_pool2d(
                x, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode, return_indices=True
            )
            tape.entries.append(Entry(layer, x.detach(), y.detach(), indices))
        else:
            y = layer(x)
            tape.entries.append(Entry(layer, x.detach(), y.detach()))
        x = y
    return x, tape


def forward_derivative(entries: list[Entry], tangent: Tensor) -> Tensor:
    """The derivative of layers without weights at the recorded pass, applied to a small change of their inputs."""
    for entry in entries:
        layer = entry.layer
        if isinstance(layer, ACTIVATIONS):
            tangent = tangent * entry.derivative
        elif isinstance(layer, nn.MaxPool2d):
            assert entry.indices is not None
            tangent = tangent.flatten(2).gather(2, entry.indices.flatten(2)).view_as(entry.indices)
        else:  # linear itself: averages, reshapes, padding
            tangent = layer(tangent)
    return tangent


def transposed_derivative(entry: Entry, error: Tensor) -> Tensor:
    """The transpose of a layer's derivative at the recorded pass, applied to an error of its outputs (gated).

    Activations multiply by phi'(z); pooling adds each error where its maximum was; the rest goes through autograd.
    """
    layer = entry.layer
    if isinstance(layer, ACTIVATIONS):
        return error * entry.derivative
    if isinstance(layer, nn.MaxPool2d):
        return torch.ops.aten.max_pool2d_with_indices_backward(
            error.contiguous(),
            entry.inputs.to(error.dtype),
            _pair(layer.kernel_size),
            _pair(layer.stride),
            _pair(layer.padding),
            _pair(layer.dilation),
            layer.ceil_mode,
            entry.indices,
        )
    if isinstance(layer, nn.Flatten | nn.Unflatten | nn.Identity):
        return error.reshape(entry.inputs.shape)
    keep = torch.is_grad_enabled()
    with torch.enable_grad(), frozen_statistics(layer):
        z = entry.inputs.detach().requires_grad_()
        return torch.autograd.grad(layer(z), z, error, create_graph=keep)[0]


def mirrored(entry: Entry, values: Tensor) -> Tensor:
    """A layer's counterpart in the official code: activations again, maxima put back, averages spread."""
    # Where two pooling windows share a maximum, unpooling keeps one of the two values; the transpose would add them.
    layer = entry.layer
    if isinstance(layer, ACTIVATIONS):
        return layer(values)
    if isinstance(layer, nn.MaxPool2d):
        size, positions = entry.inputs.shape, entry.indices
        assert positions is not None
        return F.max_unpool2d(
            values, positions, _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding), list(size)
        )
    if isinstance(layer, AVERAGES):
        return F.adaptive_avg_pool2d(values, list(entry.inputs.shape[2:]))  # type: ignore[arg-type]
    if isinstance(layer, nn.ZeroPad2d):
        return F.pad(values, [-side for side in layer.padding])
    return values.reshape(entry.inputs.shape)


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within, batch normalisation does not learn its running averages from what passes."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False  # neither averages nor batches are counted; evaluation reads them all the same
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
