"""Recordings in their standard files, as log-mel spectrograms in memory: the Free Spoken Digit Dataset."""

import io
import re
import wave
import zipfile
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fourfold.data.sources import find, reading
from fourfold.data.tensors import Sets, TensorData, choose

RATE = 8000  # samples a second
WINDOW = 256  # samples that a frame looks at
TRANSFORM = 512  # samples of a frame's Fourier transform: zeros follow, so that each mel band holds a frequency
RANGE = 80.0  # decibels below the loudest point of a recording that are told apart
TEST_TAKES = 5  # of each digit and speaker, the first ones


class Recording(NamedTuple):
    """One file: who says which digit, for which time, under which name."""

    speaker: str
    digit: int
    take: int
    name: str


def spoken_digits(
    data_dir: str, seed: int, source: str, mels: int, frames: int, hop: int, samples: int | None = None
) -> Sets:
    """Free Spoken Digit Dataset (Jackson et al. 2018): 2700 + 300 clips [1, mels, frames] of 10 digits by 6 speakers.

    A clip is the first ``frames`` * ``hop`` samples of a recording, at 8000 a second, silence after its end. Takes 0 to
    4 of each digit and speaker are for testing, as its authors ask for; domains are speakers in alphabetical order.
    """
    (path,) = find(source, data_dir)
    with reading(path, source), zipfile.ZipFile(path) as archive:
        found = recordings(archive.namelist())
        clips = torch.stack([waveform(archive.read(one.name), frames * hop) for one in found])
    inputs = torch.cat([spectrograms(part, mels, hop) for part in clips.split(500)]).unsqueeze(1)
    speakers = sorted({one.speaker for one in found})
    targets = torch.tensor([one.digit for one in found])
    domains = torch.tensor([speakers.index(one.speaker) for one in found])
    held_out = torch.tensor([one.take < TEST_TAKES for one in found])
    train, test = (TensorData(inputs[own], targets[own], domains=domains[own]) for own in (~held_out, held_out))
    return Sets(choose(train, samples, seed), test, 10, (1, mels, frames))


def recordings(names: list[str]) -> list[Recording]:
    """The files DIGIT_SPEAKER_TAKE.wav among some names, in order.

    Raises ValueError unless every speaker says every digit equally often, more often than is held out.
    """
    matches = [match for match in (re.search(r"(?:^|/)(\d)_([a-z]+)_(\d+)\.wav$", name) for name in names) if match]
    found = sorted(Recording(match[2], int(match[1]), int(match[3]), match.string) for match in matches)
    takes = {one.take for one in found}
    expected = {
        (speaker, digit, take) for speaker in {one.speaker for one in found} for digit in range(10) for take in takes
    }
    if len(takes) <= TEST_TAKES or [one[:3] for one in found] != sorted(expected):
        raise ValueError(f"{len(found)} recordings, not each speaker's of each digit")
    return found


def waveform(content: bytes, samples: int) -> Tensor:
    """The first ``samples`` of a WAV file, silence after its end: [samples] in [-1, 1].

    Raises ValueError for another format than one channel of 16 bits at 8000 samples a second.
    """
    with wave.open(io.BytesIO(content)) as file:
        form = (file.getnchannels(), 8 * file.getsampwidth(), file.getframerate())
        if form != (1, 16, RATE):
            raise ValueError(f"channels, bits and samples a second are {form}, not (1, 16, {RATE})")
        played = np.frombuffer(file.readframes(samples), "<i2")
    found = torch.zeros(samples)
    found[: len(played)] = torch.from_numpy(played.astype(np.float32) / 2**15)
    return found


def spectrograms(clips: Tensor, mels: int, hop: int) -> Tensor:
    """Power in mel bands [n, mels, samples // hop] of clips [n, samples], low bands first, as bytes.

    255 is a recording's loudest point, 0 what is 80 decibels below it or more. Bands are triangles, evenly spaced on
    the mel scale m = 2595 log10(1 + f / 700) (O'Shaughnessy 1987), frames centred on each ``hop``-th sample.
    """
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(TRANSFORM // 2 + 1, mels, 0.0, RATE / 2, RATE, norm=None, mel_scale="htk")
    spectra = torch.stft(
        clips,
        TRANSFORM,
        hop,
        WINDOW,
        torch.hann_window(WINDOW),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    power = torch.from_numpy(bank).float().t() @ spectra[..., : clips.shape[1] // hop].abs().square()
    decibels = 10 * power.clamp(min=1e-10).log10()
    loudest = decibels.amax(dim=(1, 2), keepdim=True)
    return ((decibels - loudest) / RANGE + 1).clamp(0, 1).mul(255).round().to(torch.uint8)
