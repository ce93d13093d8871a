"""Science: Fourier neural operators, which learn the solution of a differential equation from examples."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.regression import MeanSquaredError

from fourfold.benchmarks.interface import Benchmark, SupervisedObjective
from fourfold.recipe import Recipe


class OperatorLearning(Benchmark):
    """Fields [batch, 1, size, size] to the fields that they become. Units are fields."""

    metric_name = "squared error"

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.objective = SupervisedObjective(relative_error)

    def metric(self) -> MeanSquaredError:
        return MeanSquaredError()


def relative_error(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """|outputs - targets| / |targets| in the Euclidean norm of each sample (Li et al. 2021); [] or [batch]."""
    difference = (outputs.float() - targets.float()).flatten(1).norm(dim=1)
    each = difference / targets.float().flatten(1).norm(dim=1).clamp(min=1e-8)
    return each if reduction == "none" else each.mean()


def in_32_bits(like: Tensor) -> AbstractContextManager[Any]:
    """Autocast turned off on the device of a tensor; there is none to turn off on the meta device."""
    return nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False)


class SpectralConvolution(nn.Module):
    """Multiplies the lowest ``modes`` frequencies of each direction by learned matrices, in 32 bits.

    [batch, width, height, breadth] to the same shape. Weights are kept as pairs of real numbers.
    """

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weights = nn.Parameter(torch.rand(2, width, width, modes, modes, 2) / width**2)  # low and high rows

    def forward(self, fields: Tensor) -> Tensor:
        modes = self.modes
        with in_32_bits(fields):
            waves = torch.fft.rfft2(fields.float())
            low, high = torch.view_as_complex(self.weights.float())
            kept = torch.zeros_like(waves)
            kept[:, :, :modes, :modes] = torch.einsum("bihw,iohw->bohw", waves[:, :, :modes, :modes], low)
            kept[:, :, -modes:, :modes] = torch.einsum("bihw,iohw->bohw", waves[:, :, -modes:, :modes], high)
            return torch.fft.irfft2(kept, s=fields.shape[-2:])


class FourierLayer(nn.Module):
    """A spectral convolution beside a pointwise one."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.spectral = SpectralConvolution(width, modes)
        self.pointwise = nn.Conv2d(width, width, 1)

    def forward(self, fields: Tensor) -> Tensor:
        return self.spectral(fields) + self.pointwise(fields)


class FourierNeuralOperator(nn.Module):
    """Lifts the field and its coordinates to ``width`` channels, applies Fourier layers, projects to one channel."""

    def __init__(self, width: int, modes: int, layers: int, projection: int) -> None:
        super().__init__()
        self.lift = nn.Conv2d(3, width, 1)
        self.layers = nn.ModuleList(FourierLayer(width, modes) for _ in range(layers))
        self.project = nn.Sequential(nn.Conv2d(width, projection, 1), nn.GELU(), nn.Conv2d(projection, 1, 1))

    def forward(self, fields: Tensor) -> Tensor:
        height, breadth = fields.shape[-2:]
        rows = torch.linspace(0, 1, height, device=fields.device).view(1, 1, -1, 1).expand(len(fields), 1, -1, breadth)
        columns = torch.linspace(0, 1, breadth, device=fields.device).view(1, 1, 1, -1).expand_as(rows)
        states = self.lift(torch.cat([fields, rows, columns], dim=1))
        for index, layer in enumerate(self.layers):
            states = layer(states) if index == len(self.layers) - 1 else F.gelu(layer(states))
        return self.project(states)


def fno(width: int, modes: int, layers: int, projection: int) -> nn.Module:
    """The two-dimensional Fourier neural operator (Li et al. 2021)."""
    return FourierNeuralOperator(width, modes, layers, projection)
