"""tiered-ImageNet (Ren et al. 2018), as its authors' files have it or as folders of pictures."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourfold.data import pickles
from fourfold.data.few_shot import data_folder, picture_folders
from fourfold.data.sources import UNREADABLE
from fourfold.data.tensors import Sets, TensorData
from fourfold.errors import Unavailable

LAYOUT = (
    "put SPLIT_labels.pkl and SPLIT_images_png.pkl or SPLIT_images.npz of train and val there, or folders train/ and "
    "val/ with a folder of pictures a class"
)


def tiered_imagenet(
    data_dir: str,
    seed: int,
    folder: str,
    split: str,
    first: int,
    classes: int,
    image_size: int,
    samples_a_class: int | None = None,
) -> Sets:
    """Classes ``first`` to ``first + classes - 1`` of a split: the authors' files where they are there, else folders.

    The files: SPLIT_labels.pkl, a mapping whose ``label_specific`` [n] numbers the class of each picture from 0 on
    (train 351, val 97, test 160); SPLIT_images.npz with ``images`` [n, 84, 84, 3], or SPLIT_images_png.pkl, a list of
    n PNG files as arrays of bytes, which hold the channels of ``images`` in reverse (OpenCV's order), and are turned
    back. Pictures [3, image_size, image_size] as bytes, the first ``samples_a_class`` of each class, or all for None;
    the test part is empty. Raises Unavailable if files are absent or damaged, or have too few classes.
    """
    place = data_folder(data_dir, folder, LAYOUT)
    if not (place / f"{split}_labels.pkl").is_file():
        return picture_folders(data_dir, seed, folder, split, first, classes, image_size, samples_a_class)
    labels = _labels(place / f"{split}_labels.pkl")
    found = int(labels.max(initial=-1)) + 1
    if found < first + classes:
        raise Unavailable(f"{place / f'{split}_labels.pkl'}: {found} classes, {first + classes} expected")
    chosen = [np.flatnonzero(labels == first + label)[:samples_a_class] for label in range(classes)]
    for label, rows in enumerate(chosen):
        if not len(rows):
            raise Unavailable(f"{place / f'{split}_labels.pkl'}: no pictures of class {first + label}")
    inputs = _pictures(place, split, np.concatenate(chosen), len(labels), image_size)
    targets = torch.arange(classes).repeat_interleave(torch.tensor([len(rows) for rows in chosen]))
    data = TensorData(inputs, targets)
    return Sets(data, TensorData(inputs[:0], targets[:0]), classes, (3, image_size, image_size))


def _labels(path: Path) -> np.ndarray:
    """The class [n] of each picture of a split."""
    content = pickles.read(path)
    labels = np.asarray(content.get("label_specific") if isinstance(content, Mapping) else None)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise Unavailable(f"{path}: no whole numbers under label_specific")
    return labels


def _pictures(place: Path, split: str, rows: np.ndarray, count: int, side: int) -> Tensor:
    """Pictures [n, 3, side, side] at these places of a split of ``count``."""
    packed, encoded = place / f"{split}_images.npz", place / f"{split}_images_png.pkl"
    if packed.is_file():
        pictures, path = _of_arrays(packed), packed
    elif encoded.is_file():
        pictures, path = pickles.read(encoded), encoded
    else:
        raise Unavailable(f"{place}: neither {packed.name} nor {encoded.name} is here")
    if not isinstance(pictures, list | np.ndarray) or len(pictures) != count:
        raise Unavailable(f"{path}: not the {count} pictures that {split}_labels.pkl tells of")
    return torch.stack([_resized(path, pictures[int(row)], side) for row in rows])


def _of_arrays(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as content:
            images: np.ndarray = content["images"]
    except UNREADABLE as error:
        raise Unavailable(f"{path}: not a readable file of images ({type(error).__name__})") from error
    return images


def _resized(path: Path, picture: Any, side: int) -> Tensor:
    """A picture [height, width, 3], or the bytes of its PNG file, as [3, side, side]."""
    from PIL import Image

    try:
        array = np.asarray(picture)
        if array.dtype != np.uint8:
            raise ValueError("no bytes")
        if array.ndim == 3 and array.shape[-1] == 3:
            opened = Image.fromarray(array)
        else:
            with Image.open(io.BytesIO(array.tobytes()), formats=["PNG"]) as encoded:
                opened = Image.fromarray(np.asarray(encoded.convert("RGB"))[:, :, ::-1].copy())
        resized = opened.resize((side, side), Image.Resampling.BOX)
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unavailable(f"{path}: a picture in it is damaged ({error})") from error
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).contiguous()
