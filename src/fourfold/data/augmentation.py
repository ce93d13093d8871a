"""Training samples changed at random as they are drawn; those that are judged stay as they are."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fourfold.errors import Refused

PADDING = {"edge": "replicate", "zeros": "constant"}


def flip_and_crop(pictures: Any, stream: torch.Generator, flip: float, padding: int, fill: str) -> Tensor:
    """Pictures [batch, channels, height, width], each mirrored with probability ``flip``, moved by up to ``padding``.

    Each is cut out, at its own place, of itself with a frame of ``padding`` pixels (He et al. 2016). ``stream`` draws
    on the CPU, so that a batch is the same on every device. Raises Refused for inputs that are no pictures.
    """
    if not isinstance(pictures, Tensor) or pictures.dim() != 4:
        raise Refused("benchmark/augmentation=flip_and_crop: needs pictures [channels, height, width]; choose none")
    batch, channels, height, width = pictures.shape
    mirrored = torch.rand(batch, generator=stream) < flip
    down, right = torch.randint(2 * padding + 1, (2, batch), generator=stream)
    rows = down[:, None] + torch.arange(height)
    across = torch.arange(width)
    columns = right[:, None] + torch.where(mirrored[:, None], across.flip(0), across)
    framed = F.pad(pictures, [padding] * 4, mode=PADDING[fill])
    rows, columns = rows.to(pictures.device), columns.to(pictures.device)
    samples = torch.arange(batch, device=pictures.device)[:, None, None, None]
    layers = torch.arange(channels, device=pictures.device)[None, :, None, None]
    return framed[samples, layers, rows[:, None, :, None], columns[:, None, None, :]]
