"""Picture sets in their standard files, read without unpacking: CIFAR, ImageNet32, Tiny ImageNet, CORe50, Omniglot.

Pictures become bytes [n, channels, height, width] in memory, once; no pickle is read.
"""

import io
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fourfold.data.decoded import decoded
from fourfold.data.sources import find, reading
from fourfold.data.tensors import Sets, TensorData, agree, choose
from fourfold.errors import Refused, Unavailable

CORE50_TEST_SESSIONS = (3, 7, 10)  # Lomonaco & Maltoni 2017


def cifar(
    data_dir: str, seed: int, source: str, labels: str = "fine", classes_used: int = 10, samples: int | None = None
) -> Sets:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 pictures [3, 32, 32], from the binary archive.

    source: cifar10 | cifar100; labels of cifar100: fine (100 classes) | coarse (20). Raises Refused if
    ``classes_used``, by which a setting splits them, is another number.
    """
    (path,) = find(source, data_dir)
    hundred = source == "cifar100"
    train_names = ["train.bin"] if hundred else [f"data_batch_{number}.bin" for number in range(1, 6)]
    test_names = ["test.bin"] if hundred else ["test_batch.bin"]
    width = 3072 + (2 if hundred else 1)  # a record: its labels, then red, green, blue
    column = 1 if hundred and labels == "fine" else 0
    parts = []
    with reading(path, source):
        content = _members(path)
        for names in (train_names, test_names):
            raw = b"".join(content[name] for name in names)
            records = torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(-1, width).copy())
            parts.append(TensorData(records[:, -3072:].reshape(-1, 3, 32, 32), records[:, column].long()))
    classes = (100 if labels == "fine" else 20) if hundred else 10
    agree("classes_used", classes_used, classes)
    return Sets(choose(parts[0], samples, seed), parts[1], classes, (3, 32, 32))


def cifar10_jpeg(data_dir: str, seed: int, source: str, samples: int | None = None) -> Sets:
    """CIFAR-10 as JPEG, recompressed: close to the original, not equal. Classes in alphabetical order, as there."""
    parts = []
    for path in find(source, data_dir):
        with _zip(path, source) as archive:
            names = [name for name in archive.namelist() if name.endswith(".jpg")]
            labels = _numbered(name.split("/")[-2] for name in names)
            parts.append(TensorData(_pictures(archive, names, "RGB"), labels))
    return Sets(choose(parts[0], samples, seed), parts[1], 10, (3, 32, 32))


def imagenet32(data_dir: str, seed: int, source: str, samples: int | None = None) -> Sets:
    """ImageNet at 32x32 (Chrabaszcz, Loshchilov & Hutter 2017): 1,281,167 + 50,000 pictures of 1000 classes."""
    parts = []
    for path in find(source, data_dir):
        with reading(path, source), np.load(path, allow_pickle=False) as archive:
            pictures = torch.from_numpy(archive["data"].reshape(-1, 3, 32, 32).copy())
            parts.append(TensorData(pictures, torch.from_numpy(archive["labels"].astype(np.int64)) - 1))
    train = TensorData(torch.cat([p.inputs for p in parts[:-1]]), torch.cat([p.targets for p in parts[:-1]]))
    return Sets(choose(train, samples, seed), parts[-1], 1000, (3, 32, 32))


def tiny_imagenet(data_dir: str, seed: int, source: str, samples: int | None = None) -> Sets:
    """Tiny ImageNet: 100,000 + 10,000 pictures [3, 64, 64] of 200 classes; its validation part is for testing."""
    (path,) = find(source, data_dir)
    with _zip(path, source) as archive:
        found = decoded(archive, {}, lambda: _tiny_imagenet(archive))
    train, test = (TensorData(found[f"{part}_inputs"], found[f"{part}_targets"]) for part in ("train", "test"))
    return Sets(choose(train, samples, seed), test, len(train.targets.unique()), (3, 64, 64))


def _tiny_imagenet(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    train = sorted(name for name in archive.namelist() if re.search(r"/train/.*\.JPEG$", name))
    annotations = archive.read("tiny-imagenet-200/val/val_annotations.txt").decode()
    rows = [line.split("\t") for line in annotations.splitlines()]
    words = [name.split("/")[2] for name in train]
    number = {word: index for index, word in enumerate(sorted(set(words)))}
    return {
        "train_inputs": _pictures(archive, train, "RGB"),
        "train_targets": torch.tensor([number[word] for word in words]),
        "test_inputs": _pictures(archive, [f"tiny-imagenet-200/val/images/{row[0]}" for row in rows], "RGB"),
        "test_targets": torch.tensor([number[row[1]] for row in rows]),
    }


def core50(
    data_dir: str,
    seed: int,
    source: str,
    labels: str,
    classes_used: int,
    every: int,
    image_size: int,
    samples: int | None = None,
) -> Sets:
    """CORe50 (Lomonaco & Maltoni 2017): 50 objects in 11 filmed sessions, each ``every``-th frame; domains: sessions.

    labels: objects (50) | categories (10). Sessions 3, 7 and 10 are for testing, as in the paper; session n is domain
    n - 1 of either part.
    """
    (path,) = find(source, data_dir)
    with _zip(path, source) as archive:
        found = decoded(
            archive, {"every": every, "image_size": image_size}, lambda: _core50(archive, every, image_size)
        )
    parts = []
    for held_out in (False, True):
        own = torch.isin(found["sessions"], torch.tensor(CORE50_TEST_SESSIONS)) == held_out
        targets = found["objects"][own] if labels == "objects" else found["objects"][own] // 5
        parts.append(TensorData(found["inputs"][own], targets, domains=found["sessions"][own] - 1))
    classes = 50 if labels == "objects" else 10
    agree("classes_used", classes_used, classes)
    return Sets(choose(parts[0], samples, seed), parts[1], classes, (3, image_size, image_size))


def _core50(archive: zipfile.ZipFile, every: int, image_size: int) -> dict[str, Tensor]:
    matches = [re.search(r"s(\d+)/o(\d+)/C_\d+_\d+_(\d+)\.png$", name) for name in sorted(archive.namelist())]
    frames = [match for match in matches if match and int(match[3]) % every == 0]
    return {
        "inputs": _pictures(archive, [frame.string for frame in frames], "RGB", image_size),
        "objects": torch.tensor([int(frame[2]) - 1 for frame in frames]),
        "sessions": torch.tensor([int(frame[1]) for frame in frames]),
    }


def omniglot(
    data_dir: str, seed: int, source: str, parts: Sequence[str], characters: int, drawings: int, image_size: int
) -> Sets:
    """Omniglot (Lake, Salakhutdinov & Tenenbaum 2015): 20 drawings of each character, ink 255, resized.

    parts: of images_background | images_evaluation | images_background_small1 | images_background_small2, each a ZIP;
    classes are all their characters, one that is in several parts counts once; domains are alphabets. The first
    ``drawings`` of a character are for training, the others for testing. ``seed`` does not matter: nothing is drawn.
    Raises Refused if ``characters``, by which a setting splits them, is not how many there are.
    """
    if not 0 < drawings < 20:
        raise Refused(f"benchmark.data.drawings={drawings}: 1 to 19 of a character's 20 drawings are for training")
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for path in find(source, data_dir, tuple(f"{part}.zip" for part in parts)):
        with _zip(path, source) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".png"))
            pictures = 255 - _pictures(archive, names, "L", image_size)
            for name, picture in zip(names, pictures, strict=True):
                alphabet, character, file = name.split("/")[-3:]
                found.setdefault((alphabet, character), {})[file] = picture
    agree("characters", characters, len(found))
    alphabets = sorted({alphabet for alphabet, _ in found})
    rows = []
    for label, ((alphabet, _), drawn) in enumerate(sorted(found.items())):
        domain = alphabets.index(alphabet)
        rows += [(drawn[file], label, domain, number < drawings) for number, file in enumerate(sorted(drawn))]
    stack, training = torch.stack([row[0] for row in rows]), torch.tensor([row[3] for row in rows])
    labels, domains = (torch.tensor([row[column] for row in rows]) for column in (1, 2))
    made = [TensorData(stack[own], labels[own], domains=domains[own]) for own in (training, ~training)]
    return Sets(made[0], made[1], len(found), (1, image_size, image_size))


# ------------------------------------------------------------------------------------------- archives


@contextmanager
def _zip(path: Path, source: str) -> Iterator[zipfile.ZipFile]:
    """The archive. Raises Unavailable where it, or what is read of it, is damaged."""
    with reading(path, source), zipfile.ZipFile(path) as archive:
        yield archive


def _members(path: Path) -> dict[str, bytes]:
    """The .bin files of a tar archive, by their names without folders."""
    with tarfile.open(path) as archive:
        found = {Path(member.name).name: archive.extractfile(member) for member in archive.getmembers()}
        return {name: file.read() for name, file in found.items() if file is not None and name.endswith(".bin")}


def _pictures(archive: zipfile.ZipFile, names: Sequence[str], mode: str, side: int | None = None) -> Tensor:
    """The pictures of an archive, [n, channels, height, width] bytes; resized to ``side`` by averaging."""
    from PIL import Image

    found = []
    for name in names:
        with Image.open(io.BytesIO(archive.read(name))) as picture:
            converted = picture.convert(mode)
            resized = converted if side is None else converted.resize((side, side), Image.Resampling.BOX)
            found.append(np.asarray(resized))
    if not found:
        raise Unavailable(f"{archive.filename}: holds none of the pictures expected; get it anew")
    stack = torch.from_numpy(np.stack(found))
    return stack.unsqueeze(1) if mode == "L" else stack.permute(0, 3, 1, 2).contiguous()


def _numbered(words: Iterable[str]) -> Tensor:
    """Each word's place in the alphabetical order of all of them."""
    every = list(words)
    number = {word: index for index, word in enumerate(sorted(set(every)))}
    return torch.tensor([number[word] for word in every])
