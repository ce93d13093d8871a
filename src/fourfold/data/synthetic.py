"""Seeded synthetic data of full shape, for workloads whose real data is too large to ship."""

import torch

from fourfold.data.tensors import Sets, TensorData
from fourfold.randomness import generator


def images(data_dir: str, seed: int, samples: int, classes_used: int, image_size: int, channels: int = 3) -> Sets:
    """Random pictures [channels, size, size] as bytes: a coarse pattern for each class, with noise on top.

    ``samples`` are held in memory and drawn again and again, so there is a signal to learn but no input cost.
    """
    draw = generator(seed, "synthetic images")
    patterns = torch.randint(0, 256, (classes_used, channels, 7, 7), generator=draw).float()
    targets = torch.arange(samples) % classes_used
    coarse = torch.nn.functional.interpolate(patterns, size=(image_size, image_size), mode="nearest")
    noise = torch.randint(-64, 65, (samples, channels, image_size, image_size), generator=draw, dtype=torch.int16)
    pictures = (coarse[targets].to(torch.int16) + noise).clamp_(0, 255).to(torch.uint8)
    data = TensorData(pictures, targets)
    return Sets(data, data, classes_used, (channels, image_size, image_size))
