"""Contexts made by a transformation of the inputs: the same samples, seen in another way."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fourfold.data.tensors import Batch
from fourfold.errors import Refused
from fourfold.randomness import generator

Transform = Callable[[Tensor, Tensor], Tensor]  # inputs [batch, ...] and the context of each [batch] -> inputs


@dataclass(frozen=True)
class Transformed:
    """The samples of a data set once for each context: number k * n + i is sample i of n as context k shows it.

    Nothing is stored twice; a batch is transformed when it is drawn.
    """

    data: Any
    contexts: int
    transform: Transform

    def __len__(self) -> int:
        return self.contexts * len(self.data)

    @property
    def targets(self) -> Tensor:
        """[contexts * n], the class of each sample."""
        return self.data.targets.repeat(self.contexts)

    def batch(self, indices: Tensor) -> Batch:
        drawn = self.data.batch(indices % len(self.data))
        if not isinstance(drawn.inputs, Tensor):
            raise Refused("setting.split: this data's inputs are not one tensor; choose classes, samples or none")
        return Batch(self.transform(drawn.inputs, indices // len(self.data)), drawn.targets)

    def to(self, device: torch.device) -> "Transformed":
        return Transformed(self.data.to(device), self.contexts, self.transform)


def permutations(contexts: int, seed: int) -> Transform:
    """A permutation of the pixels for each context, the first of them none (Goodfellow et al. 2014)."""
    tables: dict[tuple[int, torch.device], Tensor] = {}

    def table(pixels: int, device: torch.device) -> Tensor:
        if (pixels, device) not in tables:
            rows = [torch.arange(pixels)]
            rows += [torch.randperm(pixels, generator=generator(seed, "pixels", k)) for k in range(1, contexts)]
            tables[pixels, device] = torch.stack(rows).to(device)
        return tables[pixels, device]

    def permute(inputs: Tensor, context_of: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        return flat.gather(1, table(flat.shape[1], flat.device)[context_of]).view_as(inputs)

    return permute


def rotations(contexts: int, angle: float) -> Transform:
    """Context k turns pictures [batch, channels, height, width] by k / contexts of ``angle`` degrees, bilinearly."""

    def rotate(inputs: Tensor, context_of: Tensor) -> Tensor:
        if inputs.dim() != 4:
            raise Refused("setting.split=rotation: only pictures [channels, height, width] can be rotated")
        turn = context_of * (math.radians(angle) / contexts)
        zero = torch.zeros_like(turn)
        affine = torch.stack([turn.cos(), -turn.sin(), zero, turn.sin(), turn.cos(), zero], 1).view(-1, 2, 3)
        grid = F.affine_grid(affine.to(inputs.dtype), list(inputs.shape), align_corners=False)
        return F.grid_sample(inputs, grid, align_corners=False)

    return rotate
