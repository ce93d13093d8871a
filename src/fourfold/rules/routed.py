"""Backward passes whose errors travel through other weights than the forward pass used."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.rules.layers import LinearMap


class _Linear(torch.autograd.Function):
    """y = x W^T + b; the error of x is the error of y times B in place of W."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, feedback: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, feedback)
        return F.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Any:
        (error,) = errors
        inputs, feedback = ctx.saved_tensors
        of_inputs = error @ feedback.to(error.dtype) if ctx.needs_input_grad[0] else None
        flat = error.flatten(0, -2)
        of_weight = flat.T @ inputs.flatten(0, -2).to(error.dtype) if ctx.needs_input_grad[1] else None
        of_bias = flat.sum(0) if ctx.needs_input_grad[2] else None
        return of_inputs, of_weight, of_bias, None


class _Convolution(torch.autograd.Function):
    """A convolution with W; the error of its inputs is the transposed convolution with B in place of W."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, feedback: Tensor, shape: dict[str, Any]
    ) -> Tensor:
        ctx.save_for_backward(inputs, feedback)
        ctx.shape = shape
        return F.conv2d(inputs, weight, bias, **shape)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Any:
        (error,) = errors
        inputs, feedback = ctx.saved_tensors
        shape = ctx.shape
        # The gradient of the weights does not look at their values, so one call with B serves all three.
        found = torch.ops.aten.convolution_backward(
            error,
            inputs.to(error.dtype),
            feedback.to(error.dtype),
            [feedback.shape[0]] if ctx.needs_input_grad[2] else None,
            shape["stride"],
            shape["padding"],
            shape["dilation"],
            False,
            [0, 0],
            shape["groups"],
            ctx.needs_input_grad[:3],
        )
        return *found, None, None


@contextmanager
def routed(feedback: Mapping[LinearMap, Tensor]) -> Iterator[None]:
    """Within, each layer sends errors back through its feedback weights (of the shape of its own)."""
    for layer, weights in feedback.items():
        layer.forward = partial(_forward, layer, weights)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in feedback:
            del layer.forward


def _forward(layer: LinearMap, feedback: Tensor, inputs: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return _Linear.apply(inputs, layer.weight, layer.bias, feedback)
    shape = {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
    }
    return _Convolution.apply(inputs, layer.weight, layer.bias, feedback, shape)
