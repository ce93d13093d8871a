"""Recordings: spectrograms of known tones, the set in its own format on disk, what is missing or damaged."""

import io
import math
import wave
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fourfold.__main__ import main
from fourfold.data import recordings, sources
from fourfold.data.recordings import RATE, spectrograms, spoken_digits
from fourfold.data.tensors import Sets
from fourfold.errors import Unavailable
from learning import make_stream

FOLDER = "free-spoken-digit-dataset-1.0.10/recordings"  # within the archive that is downloaded
SPEAKERS = {"anna": 0.8, "ben": 0.1}  # how loud
TAKES = 7


def tone(frequency: float, seconds: float = 0.5, loud: float = 0.5) -> Tensor:
    return loud * torch.sin(2 * math.pi * frequency * torch.arange(int(seconds * RATE)) / RATE)


def pitch(digit: int) -> float:
    return 400.0 + 300 * digit


def band(frequency: float, mels: int = 32) -> int:
    """The mel band whose middle is nearest."""

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    return round(mel(frequency) / mel(RATE / 2) * (mels + 1)) - 1


def wav(clip: Tensor, channels: int = 1, rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((clip * 2**15).numpy().astype("<i2").repeat(channels).tobytes())
    return stream.getvalue()


def miniature() -> dict[str, bytes]:
    return {
        f"{FOLDER}/{digit}_{speaker}_{take}.wav": wav(tone(pitch(digit), loud=loud))
        for digit in range(10)
        for speaker, loud in SPEAKERS.items()
        for take in range(TAKES)
    }


def archive(members: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return stream.getvalue()


def put(folder: Path, content: bytes) -> str:
    """Writes the set's one file; returns data_dir."""
    (folder / "fsdd").mkdir()
    (folder / "fsdd" / "recordings.zip").write_bytes(content)
    return str(folder)


def load(folder: str, **values: Any) -> Sets:
    return spoken_digits(folder, 0, "fsdd", **{"mels": 32, "frames": 32, "hop": 250, **values})


def test_a_tone_is_bright_in_its_own_band_for_as_long_as_it_sounds() -> None:
    clips = torch.zeros(10, RATE)
    for digit in range(10):
        clips[digit, 2000:6000] = tone(pitch(digit))
    pictures = spectrograms(clips, mels=32, hop=250)
    assert pictures.shape == (10, 32, 32)
    assert pictures.dtype == torch.uint8
    assert pictures[:, :, 16].argmax(1).tolist() == [band(pitch(digit)) for digit in range(10)]
    sounding = [*range(8, 25)]  # frames centred on samples 2000 to 6000
    silent = [frame for frame in range(32) if frame not in [7, *sounding]]  # the window of frame 7 reaches into it
    assert pictures[:, :, silent].max() == 0
    assert pictures.amax(1)[:, 9:24].min() > 250
    assert pictures.amax((1, 2)).tolist() == [255] * 10


def test_a_tone_ten_times_as_weak_is_20_decibels_below() -> None:
    low, high = band(700), band(3000)
    clip = tone(700, 1.0) + tone(3000, 1.0, loud=0.05)
    (picture,) = spectrograms(clip[None], mels=32, hop=250)
    below = (int(picture[low, 16]) - int(picture[high, 16])) / 255 * 80
    assert abs(below - 20) < 1.5


def test_spoken_digits_are_split_by_takes_and_know_their_speakers(tmp_path: Path) -> None:
    sets = load(put(tmp_path, archive({**miniature(), f"{FOLDER}/../README.md": b"not a recording"})))
    assert (sets.classes, sets.shape) == (10, (1, 32, 32))
    assert sets.test.targets.bincount().tolist() == [2 * 5] * 10
    assert sets.train.targets.bincount().tolist() == [2 * (TAKES - 5)] * 10
    assert sets.train.domains.bincount().tolist() == [10 * (TAKES - 5)] * 2
    brightest = sets.train.inputs[:, 0, :, 8].argmax(1)
    assert brightest.tolist() == [band(pitch(digit)) for digit in sets.train.targets.tolist()]
    loud, quiet = (sets.train.inputs[sets.train.domains == speaker, 0, :, 8].int() for speaker in (0, 1))
    assert (loud - quiet)[loud > 128].abs().max() <= 1, "how loud somebody speaks makes no difference"
    batch = sets.train.batch(torch.tensor([0, 1]))
    assert (batch.inputs.min(), batch.inputs.max()) == (0, 1)
    assert len(load(str(tmp_path), samples=7).train) == 7
    assert load(str(tmp_path), mels=16, frames=64, hop=125).shape == (1, 16, 64)


@pytest.mark.parametrize(
    ("setting", "contexts", "outputs"),
    [("class_incremental", 5, 2), ("task_incremental", 2, 5), ("domain_incremental", 2, 10)],
)
def test_contexts_are_digits_or_speakers(setting: str, contexts: int, outputs: int, tmp_path: Path, run: Any) -> None:
    folder = put(tmp_path, archive(miniature()))

    class Spoken:
        name, outputs, facts = "spoken_digits", 10, frozenset({"domains"})

    Spoken.sets = load(folder)  # type: ignore[attr-defined]
    stream = make_stream(setting, Spoken(), contexts=contexts)  # type: ignore[arg-type]
    assert [len(context.outputs or ()) for context in stream.contexts] == [outputs] * contexts
    if setting == "domain_incremental":
        words = ("benchmark=spoken_digits", f"setting={setting}", f"setting.contexts={contexts}", f"data_dir={folder}")
        record = run(*words, "until.steps=4", "scale=smoke", "batch=8")
        assert record.state == "done", record.message
        assert [line.split(",")[0] for line in record.measurements["contexts"]] == [
            "context 0: domain 0",
            "context 1: domain 1",
        ]


LACKING = {name: content for name, content in miniature().items() if not name.endswith("3_ben_6.wav")}
FIRST = f"{FOLDER}/0_anna_0.wav"
DAMAGED = {
    "no archive": (b"garbage", "not a zip file"),
    "no recordings": (archive({"README.md": b""}), "0 recordings"),
    "one is missing": (archive(LACKING), "139 recordings, not each speaker's of each digit"),
    "none to learn from": (
        archive({name: content for name, content in miniature().items() if int(name[-5]) < 5}),
        "100 recordings",
    ),
    "no recording": (archive({**miniature(), FIRST: b"garbage" * 9}), "does not start with RIFF id"),
    "two channels": (archive({**miniature(), FIRST: wav(tone(400), channels=2)}), "(2, 16, 8000), not (1, 16, 8000)"),
    "another rate": (archive({**miniature(), FIRST: wav(tone(400), rate=16000)}), "(1, 16, 16000)"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_recordings_are_unavailable_in_one_line(kind: str, tmp_path: Path) -> None:
    content, why = DAMAGED[kind]
    with pytest.raises(Unavailable) as caught:
        load(put(tmp_path, content))
    message = str(caught.value)
    assert str(tmp_path / "fsdd" / "recordings.zip") in message
    assert why in message
    assert message.endswith("delete it, then `python -m fourfold prepare benchmark=spoken_digits` gets it")
    assert "\n" not in message


def test_prepare_gets_the_recordings(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match=r"recordings.zip of fsdd is missing .* prepare benchmark=spoken_digits"):
        load(str(tmp_path))
    monkeypatch.setattr(sources.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(archive(miniature())))
    assert main(["prepare", "benchmark=spoken_digits", f"data_dir={tmp_path}"]) == 0
    assert "downloaded from https://github.com/Jakobovski/free-spoken-digit-dataset" in capsys.readouterr().out
    assert len(load(str(tmp_path)).train) == 40


@pytest.mark.data
def test_real_recordings_load(real_data: str) -> None:
    sets = load(real_data)
    assert (len(sets.train), len(sets.test)) == (2700, 300)
    assert sets.train.domains.bincount().tolist() == [450] * 6
    assert sets.test.targets.bincount().tolist() == [30] * 10
    assert 0.2 < sets.train.inputs.float().mean() / 255 < 0.3
    ends = sets.train.inputs[:, 0, :, -1].amax(1)
    assert (ends == 0).float().mean() > 0.95, "most digits are said within a second"
    with zipfile.ZipFile(Path(real_data) / "fsdd" / "recordings.zip") as stored:
        played = recordings.waveform(stored.read("recordings/7_theo_3.wav"), RATE)
    assert 0.01 < np.abs(played.numpy()).max() <= 1
