"""Pictures kept as JPEG files in memory, decoded and cropped each time that they are drawn, as from a real data set."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fourfold.data.synthetic import pictures
from fourfold.data.tensors import Batch, Sets
from fourfold.data.workers import ready
from fourfold.randomness import generator

QUALITY = 85
CPU = torch.device("cpu")


@dataclass(frozen=True)
class JpegData:
    """JPEG files and class targets [n]. A batch is of random crops [batch, 3, size, size] between 0 and 1, of which the
    order of the batch's indices and the seed decide the places, and nothing else: any process draws the same.
    """

    files: list[bytes]
    targets: Tensor
    size: int
    seed: int
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.files)

    def fetch(self, indices: Tensor) -> Batch:
        """The crops as bytes, on the CPU: what a worker does."""
        chosen = indices.tolist()
        chances = torch.rand(len(chosen), 4, generator=generator(self.seed, "crops", *chosen)).tolist()
        crops = [crop(self.files[index], self.size, chance) for index, chance in zip(chosen, chances, strict=True)]
        return Batch(torch.stack(crops), self.targets[indices.cpu()])

    def batch(self, indices: Tensor) -> Batch:
        return ready(self.fetch(indices), self.device)

    def to(self, device: torch.device) -> "JpegData":
        return replace(self, device=device)


def jpegs(data_dir: str, seed: int, samples: int, classes_used: int, image_size: int, stored: float) -> Sets:
    """The pictures of ``synthetic.images`` as files of a side of ``stored`` times ``image_size``."""
    files = list(encoded(samples, classes_used, round(stored * image_size), seed))
    data = JpegData(files, torch.arange(samples) % classes_used, image_size, seed)
    return Sets(data, data, classes_used, (3, image_size, image_size))


def encoded(count: int, classes: int, size: int, seed: int) -> Iterator[bytes]:
    """``count`` synthetic pictures of ``size`` pixels a side as JPEG files."""
    for picture in pictures(seed, count, classes, size):
        file = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=QUALITY)
        yield file.getvalue()


def crop(file: bytes, size: int, chance: list[float]) -> Tensor:
    """A file to a crop [3, size, size] of bytes: 8 % to all of the area, half of them mirrored (Szegedy et al. 2015).

    chance: four numbers between 0 and 1: the area, the place, mirrored or not.
    """
    picture = Image.open(io.BytesIO(file)).convert("RGB")
    share, x, y, mirrored = chance
    side = (0.08 + 0.92 * share) ** 0.5
    width, height = side * picture.width, side * picture.height
    left, top = x * (picture.width - width), y * (picture.height - height)
    cut = picture.resize((size, size), box=(left, top, left + width, top + height))
    values = torch.from_numpy(np.array(cut)).permute(2, 0, 1)
    return values.flip(-1) if mirrored < 0.5 else values.contiguous()
