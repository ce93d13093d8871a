"""The input pipeline: compressed pictures decoded, cropped and stacked by worker processes. No model."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from fourfold.benchmarks.interface import Benchmark
from fourfold.benchmarks.libraries import library
from fourfold.data.synthetic import images
from fourfold.randomness import seed_of
from fourfold.recipe import Recipe


class DataLoading(Benchmark):
    """A call takes the next batch of decoded pictures and puts it on the device. Units are images.

    Synthetic JPEGs are held in memory, so that decoding is measured and not a disk.
    """

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        shape = recipe.model
        self.workers: int = shape["workers"]
        self.pictures = Jpegs(encoded(shape["pictures"], shape["stored"], seed), shape["size"])

    def kernel(self, device: torch.device) -> tuple[Callable[[], Tensor], float]:
        """The operation, ready to be called, and the images of one call."""
        loader: DataLoader[Tensor] = DataLoader(
            self.pictures,
            batch_size=self.recipe.batch,
            sampler=RandomSampler(self.pictures, replacement=True, num_samples=2**62),
            num_workers=self.workers,
            pin_memory=device.type != "cpu",
            generator=torch.Generator().manual_seed(seed_of(self.seed, "loading")),
        )
        batches = iter(loader)
        return lambda: next(batches).to(device, non_blocking=True), float(self.recipe.batch)


def encoded(count: int, size: int, seed: int) -> list[bytes]:
    """``count`` synthetic pictures of ``size`` pixels a side as JPEG files."""
    codec = library("PIL.Image", "images")
    files = []
    for number in range(count):
        picture = images("", seed_of(seed, "jpeg", number), 1, 2, size).train.inputs[0]
        file = io.BytesIO()
        codec.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    return files


class Jpegs(Dataset[Tensor]):
    """JPEG files to random crops [3, size, size] of bytes: 8 % to all of the area, half of them mirrored."""

    def __init__(self, files: list[bytes], size: int) -> None:
        self.files = files
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        picture = library("PIL.Image", "images").open(io.BytesIO(self.files[index])).convert("RGB")
        share, x, y, mirrored = torch.rand(4).tolist()
        side = (0.08 + 0.92 * share) ** 0.5
        width, height = side * picture.width, side * picture.height
        left, top = x * (picture.width - width), y * (picture.height - height)
        crop = picture.resize((self.size, self.size), box=(left, top, left + width, top + height))
        values = torch.from_numpy(np.array(crop)).permute(2, 0, 1)
        return values.flip(-1) if mirrored < 0.5 else values.contiguous()
