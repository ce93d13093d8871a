"""Data of the few-shot papers: folders of pictures by class (tiered-ImageNet), Synbols' HDF5 files, harmonics."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourfold.data.modes import Mode, ModeSets
from fourfold.data.tensors import Sets, TensorData
from fourfold.errors import Unavailable
from fourfold.randomness import generator

PICTURES = (".jpg", ".jpeg", ".png")


def picture_folders(
    data_dir: str,
    seed: int,
    folder: str,
    split: str,
    first: int,
    classes: int,
    image_size: int,
    samples_a_class: int | None = None,
) -> Sets:
    """Classes ``first`` to ``first + classes - 1`` of data_dir/folder/split, one folder of pictures a class.

    In alphabetical order, as tiered-ImageNet (Ren et al. 2018) is laid out: train, val and test, each with a folder for
    every WordNet number. Pictures [3, image_size, image_size] as bytes, the first ``samples_a_class`` of each, or all
    for None; the test part is empty. Raises Unavailable if there are too few classes or a picture cannot be read.
    """
    place = data_folder(data_dir, folder, "lay it out as train/, val/ and test/ with a folder of pictures a class")
    names = sorted(path for path in (place / split).glob("*") if path.is_dir())
    if len(names) < first + classes:
        raise Unavailable(f"{place / split}: {len(names)} classes, {first + classes} expected")
    parts, labels = [], []
    for label, path in enumerate(names[first : first + classes]):
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)[:samples_a_class]
        if not files:
            raise Unavailable(f"{path}: no pictures in it")
        parts += [_picture(file, image_size) for file in files]
        labels += [label] * len(files)
    data = TensorData(torch.stack(parts), torch.tensor(labels))
    return Sets(data, TensorData(data.inputs[:0], data.targets[:0]), classes, (3, image_size, image_size))


def data_folder(data_dir: str, name: str, remedy: str) -> Path:
    """data_dir/name. Raises Unavailable where it is absent, with the remedy."""
    place = Path(data_dir) / name
    if not place.is_dir():
        raise Unavailable(
            f"data set {name} is not here (looked in {place}); {remedy}, or set data_dir or FOURFOLD_DATA"
        )
    return place


def _picture(path: Path, side: int) -> Tensor:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            resized = picture.convert("RGB").resize((side, side), Image.Resampling.BOX)
    except OSError as error:
        raise Unavailable(f"{path}: damaged ({error}); get it anew") from error
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).contiguous()


def synbols(
    data_dir: str,
    seed: int,
    file: str,
    attribute: str,
    first: int,
    classes: int,
    alphabet: str | None = None,
    samples_a_class: int | None = None,
) -> Sets:
    """A file of Synbols (Lacoste et al. 2020) in data_dir/synbols: HDF5 with x [n, height, width, 3] and y, JSON texts.

    The class of a picture is its ``attribute`` (char, font, ...), in alphabetical order, numbers ``first`` to
    ``first + classes - 1`` of them; ``alphabet`` keeps pictures of one alphabet only. The test part is empty.
    Raises Unavailable if the file, the library h5py or classes are lacking.
    """
    path = data_folder(data_dir, "synbols", "make it with the synbols package") / file
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise Unavailable("Synbols' files need the package h5py: pip install h5py") from error
    try:
        with h5py.File(path) as content:
            told = [json.loads(text) for text in content["y"][()]]
            kept = [at for at, one in enumerate(told) if alphabet is None or one.get("alphabet") == alphabet]
            names = sorted({str(told[at][attribute]) for at in kept})
            if len(names) < first + classes:
                raise Unavailable(f"{path}: {len(names)} kinds of {attribute}, {first + classes} expected")
            number = {name: label for label, name in enumerate(names[first : first + classes])}
            rows = _rows(told, kept, attribute, number, samples_a_class)
            pictures = torch.from_numpy(content["x"][()][[at for at, _ in rows]])
    except (OSError, KeyError, ValueError) as error:
        raise Unavailable(f"{path}: not a file of Synbols ({error})") from error
    inputs = pictures.permute(0, 3, 1, 2).contiguous()
    data = TensorData(inputs, torch.tensor([label for _, label in rows]))
    return Sets(data, TensorData(inputs[:0], data.targets[:0]), classes, tuple(inputs.shape[1:]))


def _rows(
    told: list[Any], kept: list[int], attribute: str, number: Mapping[str, int], most: int | None
) -> list[tuple[int, int]]:
    """(place, class) of each picture that is used."""
    counts: dict[int, int] = {}
    rows = []
    for at in kept:
        label = number.get(str(told[at][attribute]))
        if label is not None and (most is None or counts.get(label, 0) < most):
            counts[label] = counts.get(label, 0) + 1
            rows.append((at, label))
    return rows


def harmonics(
    data_dir: str,
    seed: int,
    modes: Mapping[str, Mapping[str, Any]],
    points: int,
    train_classes: int,
    validation_classes: int,
    **of_the_setting: int,
) -> ModeSets:
    """Functions of one number, each the sum of two sines: y = sum_k a_k sin(f_k x + p_k), x in [-2, 2].

    A mode has ``classes`` functions with whole frequencies from its ``frequencies`` [lowest, highest], amplitudes in
    [0.5, 1.5], phases in [0, 2 pi), and ``points`` points of each. Functions stand where classes of pictures do
    elsewhere; targets are numbers [n, 1]. The first ``train_classes`` of the first mode are for pre-training.
    """
    inputs, targets, group, places = [], [], [], []
    first = 0
    for name, mode in modes.items():
        count, (low, high) = mode["classes"], mode["frequencies"]
        draw = generator(seed, "harmonics", name)
        amplitude = 0.5 + torch.rand(count, 2, 1, generator=draw)
        frequency = torch.randint(low, high + 1, (count, 2, 1), generator=draw)
        phase = 2 * torch.pi * torch.rand(count, 2, 1, generator=draw)
        x = 4 * torch.rand(count, points, generator=draw) - 2
        y = (amplitude * torch.sin(frequency * x[:, None] + phase)).sum(1)
        inputs.append(x.reshape(-1, 1))
        targets.append(y.reshape(-1, 1))
        group.append(torch.arange(first, first + count).repeat_interleave(points))
        places.append(Mode(name, float(mode["probability"]), torch.arange(first, first + count)))
        first += count
    data = TensorData(torch.cat(inputs), torch.cat(targets))
    parts = torch.arange(train_classes), torch.arange(train_classes, train_classes + validation_classes)
    return ModeSets(data, data, 1, (1,), tuple(places), *parts, torch.cat(group))
