"""MNIST and Fashion-MNIST from their standard files: gzipped IDX, four of them."""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch

from fourfold.data.tensors import Sets, TensorData, choose, folder_of
from fourfold.errors import Unavailable

# md5 of the decompressed canonical files.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


def mnist(data_dir: str, seed: int, samples: int | None = None) -> Sets:
    """MNIST: 60,000 + 10,000 pictures [1, 28, 28], 10 classes (LeCun, Bottou, Bengio & Haffner 1998)."""
    folder = folder_of("mnist", data_dir, (), "get its four *-ubyte.gz files")
    return _load(folder, MNIST_MD5, seed, samples)


def fashion_mnist(data_dir: str, seed: int, samples: int | None = None) -> Sets:
    """Fashion-MNIST: 60,000 + 10,000 pictures [1, 28, 28], 10 classes (Xiao, Rasul & Vollgraf 2017)."""
    system = ("/usr/share/datasets/fashion-mnist",)
    folder = folder_of("fashion_mnist", data_dir, system, "apt install dataset-fashion-mnist brings it on Debian")
    return _load(folder, FASHION_MNIST_MD5, seed, samples)


def _load(folder: Path, checksums: dict[str, str], seed: int, samples: int | None) -> Sets:
    parts = {name: read_idx(folder / f"{name}.gz", md5) for name, md5 in checksums.items()}
    train = TensorData(parts["train-images-idx3-ubyte"].unsqueeze(1), parts["train-labels-idx1-ubyte"].long())
    test = TensorData(parts["t10k-images-idx3-ubyte"].unsqueeze(1), parts["t10k-labels-idx1-ubyte"].long())
    return Sets(choose(train, samples, seed), test, classes=10, shape=(1, 28, 28))


def read_idx(path: Path, md5: str | None) -> torch.Tensor:
    """The bytes of one gzipped IDX file as a uint8 tensor of the shape in its header.

    Raises Unavailable if it is absent, damaged, or not the canonical file (``md5`` of the decompressed bytes).
    """
    try:
        with gzip.open(path) as file:
            content = file.read()
    except FileNotFoundError as error:
        raise Unavailable(f"{path}: this file of the data set is missing") from error
    except (OSError, EOFError, zlib.error) as error:
        raise Unavailable(f"{path}: damaged ({error}); get it anew") from error
    if md5 is not None and hashlib.md5(content).hexdigest() != md5:
        raise Unavailable(f"{path}: not the canonical file (md5 {md5} expected after gunzip); get it anew")
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape.astype(int))
    return torch.from_numpy(values.copy())
