"""Seeded synthetic speech: log-mel clips of full shape, for workloads whose recordings are too large to ship."""

import torch
from torch import Tensor

from fourfold.data.tensors import Sets, TensorData
from fourfold.randomness import generator


def speech(
    data_dir: str, seed: int, samples: int, classes_used: int, mels: int, frames: int, transcript: int | None = None
) -> Sets:
    """Clips [mels, frames] in [-1, 1]: sounds of equal length, one spectral pattern for each kind, with noise on top.

    With a ``transcript`` a clip is that many sounds and its targets are their kinds [transcript]; without, one sound,
    and its target is the kind. ``samples`` are held in memory as bytes and drawn again and again.
    """
    draw = generator(seed, "synthetic speech")
    sounds = 1 if transcript is None else transcript
    spectra = torch.randint(64, 192, (classes_used, mels), generator=draw)
    said = torch.randint(0, classes_used, (samples, sounds), generator=draw)
    if transcript is None:
        said = (torch.arange(samples) % classes_used)[:, None]
    at = torch.arange(frames) * sounds // frames
    clips = torch.empty(samples, mels, frames, dtype=torch.uint8)
    for clip, kinds in zip(clips, said, strict=True):  # one at a time: the noise of all would not fit in memory
        noise = torch.randint(-48, 49, (mels, frames), generator=draw)
        clip.copy_((spectra[kinds[at]].t() + noise).clamp_(0, 255))
    targets = said if transcript is not None else said[:, 0]
    data = TensorData(clips, targets, to_log_mel)
    return Sets(data, data, classes_used, (mels, frames))


def to_log_mel(features: Tensor) -> Tensor:
    """From [0, 1] to [-1, 1], about the range of Whisper's normalised log-mel features."""
    return features * 2 - 1
