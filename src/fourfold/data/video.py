"""Seeded synthetic videos of full shape."""

import torch

from fourfold.data.synthetic import images
from fourfold.data.tensors import Sets, TensorData


def videos(data_dir: str, seed: int, samples: int, classes_used: int, image_size: int, frames: int) -> Sets:
    """Clips [frames, 3, size, size] as bytes: a synthetic picture that moves, by as many pixels a frame as its class.

    ``samples`` are held in memory and drawn again and again, so there is no input cost.
    """
    still = images(data_dir, seed, samples, classes_used, image_size).train
    clips = torch.empty(samples, frames, 3, image_size, image_size, dtype=torch.uint8)
    for frame in range(frames):
        for label in range(classes_used):
            which = still.targets == label
            clips[which, frame] = still.inputs[which].roll(frame * (label + 1), dims=-1)
    data = TensorData(clips, still.targets)
    return Sets(data, data, classes_used, (frames, 3, image_size, image_size))
