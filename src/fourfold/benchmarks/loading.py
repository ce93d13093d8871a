"""The input pipeline: compressed pictures decoded, cropped and stacked by worker processes. No model."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from fourfold.benchmarks.interface import Benchmark
from fourfold.data.jpegs import crop, encoded
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
        files = list(encoded(shape["pictures"], 2, shape["stored"], seed))
        self.pictures = Jpegs(files, shape["size"])

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


class Jpegs(Dataset[Tensor]):
    """JPEG files to random crops [3, size, size] of bytes."""

    def __init__(self, files: list[bytes], size: int) -> None:
        self.files = files
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return crop(self.files[index], self.size, torch.rand(4).tolist())
