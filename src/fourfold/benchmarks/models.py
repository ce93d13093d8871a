"""Small networks of the learning papers, built from plain layers."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(shape: Sequence[int], outputs: int, hidden: Sequence[int], width: float) -> nn.Sequential:
    """Fully connected layers with ReLU: [batch, *shape] -> [batch, outputs] (van de Ven & Tolias 2019: 400, 400)."""
    sizes = [math.prod(shape), *(max(1, round(units * width)) for units in hidden)]
    layers: list[nn.Module] = [nn.Flatten()]
    for into, out in pairwise(sizes):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


def conv(shape: Sequence[int], outputs: int, channels: Sequence[int], hidden: int, width: float) -> nn.Sequential:
    """Convolution 3x3, ReLU, max-pooling 2 for each entry of channels, then one hidden layer."""
    layers: list[nn.Module] = []
    into, (height, breadth) = shape[0], shape[1:]
    for count in channels:
        out = max(1, round(count * width))
        layers += [nn.Conv2d(into, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        into, height, breadth = out, height // 2, breadth // 2
    units = max(1, round(hidden * width))
    layers += [nn.Flatten(), nn.Linear(into * height * breadth, units), nn.ReLU(), nn.Linear(units, outputs)]
    return nn.Sequential(*layers)


def conv4(shape: Sequence[int], outputs: int, channels: int, blocks: int, width: float) -> nn.Sequential:
    """Convolution 3x3, batch norm, ReLU, max-pooling 2, ``blocks`` times, then one linear layer (Vinyals et al. 2016).

    Batch norm keeps no running statistics: a batch is normalised by itself, in training and evaluation alike.
    """
    count = max(1, round(channels * width))
    layers: list[nn.Module] = []
    into, (height, breadth) = shape[0], shape[1:]
    for _ in range(blocks):
        layers += [nn.Conv2d(into, count, 3, padding=1), nn.BatchNorm2d(count, track_running_stats=False)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        into, height, breadth = count, height // 2, breadth // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(into * height * breadth, outputs))


def parameter_count(network: nn.Module, trained: bool = False) -> int:
    """Parameters, each counted once: all of them, or those that are trained."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad or not trained)
