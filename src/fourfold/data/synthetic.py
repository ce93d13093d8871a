"""Seeded synthetic data of full shape, for workloads whose real data is too large to ship."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fourfold.data.tensors import Sets, TensorData
from fourfold.randomness import generator


def images(data_dir: str, seed: int, samples: int, classes_used: int, image_size: int, channels: int = 3) -> Sets:
    """Random pictures [channels, size, size] as bytes: a coarse pattern for each class, with noise on top.

    ``samples`` are held in memory and drawn again and again, so there is a signal to learn but no input cost.
    """
    made = torch.stack(list(pictures(seed, samples, classes_used, image_size, channels)))
    data = TensorData(made, torch.arange(samples) % classes_used)
    return Sets(data, data, classes_used, (channels, image_size, image_size))


def pictures(seed: int, samples: int, classes: int, size: int, channels: int = 3) -> Iterator[Tensor]:
    """The pictures one by one, [channels, size, size] bytes; number n is of class n modulo ``classes``."""
    draw = generator(seed, "synthetic images")
    patterns = torch.randint(0, 256, (classes, channels, 7, 7), generator=draw).float()
    for number in range(samples):
        pattern = patterns[number % classes][None]
        coarse = torch.nn.functional.interpolate(pattern, size=(size, size), mode="nearest")[0]
        noise = torch.randint(-64, 65, coarse.shape, generator=draw, dtype=torch.int16)
        yield (coarse.to(torch.int16) + noise).clamp_(0, 255).to(torch.uint8)
