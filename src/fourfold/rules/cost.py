"""What a step of difference target propagation costs in arithmetic, in multiples of a step of backpropagation."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fourfold.rules.layers import linear_maps

# Linear maps of a block's size c_n that one feedback iteration takes: passes of F and G and weight gradients.
PER_ITERATION = {
    "original": 8,  # as published: F twice, G three times, three weight gradients
    "reference": 7,  # the clean pass is kept
    "linear": 4,  # one F, one G, two weight gradients
    "orthogonal": 4,
    "correlated": 3,  # one F, one pass of omega, one weight gradient
}


@torch.no_grad()
def multiply_adds(blocks: Sequence[nn.Module], inputs: Tensor) -> list[int]:
    """c_n: the multiply-adds of each block's linear maps for one sample; ``inputs`` [1, ...]."""
    counts = [0] * len(blocks)
    values = inputs
    for number, block in enumerate(blocks):

        def count(layer: nn.Module, _: object, outputs: Tensor, number: int = number) -> None:
            positions = math.prod(outputs.shape[2:]) if isinstance(layer, nn.Conv2d) else 1
            counts[number] += layer.weight.numel() * positions  # type: ignore[operator]

        hooks = [layer.register_forward_hook(count) for layer in linear_maps(block).values()]
        values = block(values)
        for hook in hooks:
            hook.remove()
    return counts


def step_cost(
    counts: Sequence[int], iterations: Sequence[float], per_iteration: float, difference_passes: int = 2
) -> float:
    """[a sum K_n c_n + 3 f + d sum c_n] / (3 f - c_1), sums over n >= 2 and f = sum of all c_n.

    ``iterations``: K_n from block 2 up. The denominator is backprop: forward, weight gradients, and input gradients of
    all but the first block. d: passes of G for the targets; 1 where G is linear (gated), 2 else.
    """
    whole, upper = sum(counts), counts[1:]
    feedback = per_iteration * sum(k * c for k, c in zip(iterations, upper, strict=True))
    return (feedback + 3 * whole + difference_passes * sum(upper)) / (3 * whole - counts[0])
