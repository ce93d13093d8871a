"""The MNIST family from its standard files: gzipped IDX."""

import gzip
import io
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from fourfold.data.sources import find
from fourfold.data.tensors import Sets, TensorData, agree, choose
from fourfold.errors import Unavailable

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(data_dir: str, seed: int, source: str, samples: int | None = None) -> Sets:
    """60,000 + 10,000 pictures [1, 28, 28] of 10 classes, from four files.

    source: mnist (LeCun et al. 1998) | fashion_mnist (Xiao et al. 2017) | kmnist (Clanuwat et al. 2018).
    Raises Unavailable if a file is missing or damaged.
    """
    names = tuple(f"{part}.gz" for part in PARTS)
    images, labels, test_images, test_labels = (read_idx(path) for path in find(source, data_dir, names))
    train = TensorData(images.unsqueeze(1), labels.long())
    test = TensorData(test_images.unsqueeze(1), test_labels.long())
    return Sets(choose(train, samples, seed), test, classes=10, shape=(1, 28, 28))


def emnist(data_dir: str, seed: int, source: str, split: str, classes_used: int, samples: int | None = None) -> Sets:
    """EMNIST (Cohen et al. 2017): letters and digits [1, 28, 28]; ``split`` is one of its six, from gzip.zip.

    The files hold each picture on its side, and the letters count from 1: both are put right.
    Raises Unavailable if the file is missing or damaged, Refused if the split has another number of classes.
    """
    (path,) = find(source, data_dir)
    found = {}
    with zipfile.ZipFile(path) as archive:
        for part in ("train", "test"):
            for kind in ("images-idx3", "labels-idx1"):
                name = f"gzip/emnist-{split}-{part}-{kind}-ubyte.gz"
                try:
                    found[part, kind] = read_idx(path, io.BytesIO(archive.read(name)))
                except KeyError as error:
                    raise Unavailable(f"{path}: has no {name}; get it anew") from error
    first = int(found["train", "labels-idx1"].min())
    sets = {
        part: TensorData(
            found[part, "images-idx3"].transpose(1, 2).unsqueeze(1).contiguous(),
            found[part, "labels-idx1"].long() - first,
        )
        for part in ("train", "test")
    }
    agree("classes_used", classes_used, int(sets["train"].targets.max()) + 1)
    return Sets(choose(sets["train"], samples, seed), sets["test"], classes_used, (1, 28, 28))


def read_idx(path: Path, stream: BinaryIO | None = None) -> Tensor:
    """The bytes of one gzipped IDX file (``stream``: its bytes, from an archive) as uint8, of the shape in its header.

    Raises Unavailable if it is damaged.
    """
    try:
        with gzip.open(path if stream is None else stream) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise Unavailable(f"{path}: damaged ({error}); get it anew") from error
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape.astype(int))
    return torch.from_numpy(values.copy())
