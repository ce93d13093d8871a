"""The files of real data sets: their names, their checksums, where they may lie, where they come from.

Loaders look only; nothing is ever fetched but by ``prepare``. Nothing here imports torch.
"""

import gzip
import hashlib
import os
import shutil
import struct
import tarfile
import tempfile
import urllib.error
import urllib.request
import wave
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fourfold.errors import Refused, Unavailable, nearest

BLOCK = 1 << 20
PATIENCE = 60  # seconds without a byte after which a download is given up


@dataclass(frozen=True)
class File:
    """One file. ``md5`` is of the file, or of what it holds once gunzipped; None where no checksum is published."""

    name: str
    md5: str | None = None
    url: str | None = None
    of_content: bool = False


@dataclass(frozen=True)
class Source:
    """A data set on disk, in data_dir/``folder`` or one of ``system``.

    remedy: how to get what has no url; benchmark: whose data it is, where the folder is not named after it.
    """

    name: str
    files: tuple[File, ...]
    folder: str
    system: tuple[str, ...] = ()
    remedy: str | None = None
    benchmark: str | None = None

    @property
    def command(self) -> str:
        """What gets it, as a sentence's end."""
        if self.remedy:
            return self.remedy
        return f"`python -m fourfold prepare benchmark={self.benchmark or self.folder}` gets it"


def _idx(name: str, mirror: str, md5: tuple[str, str, str, str], of_content: bool, **more: object) -> Source:
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    files = tuple(File(f"{n}.gz", m, f"{mirror}{n}.gz", of_content) for n, m in zip(names, md5, strict=True))
    return Source(name, files, name, **more)  # type: ignore[arg-type]


_OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
_GITHUB = "https://github.com/"
_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_IMAGENET = "image-net.org gives Imagenet32_train_npz.zip and Imagenet32_val_npz.zip to who signs in; unpack them there"

# Checksums are those that the authors or torchvision publish; of MNIST and Fashion-MNIST they are of the content,
# since several compressions of the same bytes are about.
SOURCES = {
    source.name: source
    for source in (
        _idx(
            "mnist",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            (
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
            of_content=True,
        ),
        _idx(
            "fashion_mnist",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            (
                "f4a8712d7a061bf5bd6d2ca38dc4d50a",
                "9018921c3c673c538a1fc5bad174d6f9",
                "8181f5470baa50b63fa0f6fddb340f0a",
                "15d484375f8d13e6eb1aabb0c3f46965",
            ),
            of_content=True,
            system=("/usr/share/datasets/fashion-mnist",),  # Debian: apt install dataset-fashion-mnist
        ),
        _idx(
            "kmnist",
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            (
                "bdb82020997e1d708af4cf47b453dcf7",
                "e144d726b3acfaa3e44228e80efcd344",
                "5c965bf0a639b31b8f53240b1b52f4d7",
                "7320c461ea6c1c855c0b718fb2a4b134",
            ),
            of_content=False,
        ),
        Source(
            "emnist",
            (
                File(
                    "gzip.zip",
                    "58c8d27c78d21e728a6bc7b3cc06412e",
                    "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
                ),
            ),
            "emnist",
        ),
        Source(
            "cifar10",
            (
                File(
                    "cifar-10-binary.tar.gz",
                    "c32a1d4ab5d03f1284b67883e8d87530",
                    f"{_TORONTO}cifar-10-binary.tar.gz",
                ),
            ),
            "cifar10",
        ),
        Source(
            "cifar10_jpeg",
            (File("cifar10-jpeg-train.zip"), File("cifar10-jpeg-test.zip")),
            "cifar10",
            remedy="zip SPLIT/CLASS/NNNN.jpg of train and test into these two files",
        ),
        Source(
            "cifar100",
            (
                File(
                    "cifar-100-binary.tar.gz",
                    "03b5dce01913d631647c71ecec9e9cb8",
                    f"{_TORONTO}cifar-100-binary.tar.gz",
                ),
            ),
            "cifar100",
        ),
        Source(
            "omniglot",
            tuple(
                File(f"{part}.zip", md5, f"{_OMNIGLOT}{part}.zip")
                for part, md5 in (
                    ("images_background", "68d2efa1b9178cc56df9314c21c6e718"),
                    ("images_evaluation", "6b91aef0f799c5bb55b94e3f2daec811"),
                    ("images_background_small1", "e704a628b5459e08445c13499850abc4"),
                    ("images_background_small2", "b75a71a51d3b13f821f212756fe481fd"),
                )
            ),
            "omniglot",
        ),
        Source(
            "tiny_imagenet",
            (
                File(
                    "tiny-imagenet-200.zip",
                    "90528d7ca1a48142e341f4ef8d21d0de",
                    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                ),
            ),
            "tiny_imagenet",
        ),
        Source(
            "imagenet32",
            (*(File(f"train_data_batch_{number}.npz") for number in range(1, 11)), File("val_data.npz")),
            "imagenet32",
            remedy=_IMAGENET,
        ),
        Source(
            "core50",
            (
                File(
                    "core50_128x128.zip",
                    "745f3373fed08d69343f1058ee559e13",  # as Avalanche, whose maintainers made the set, has it
                    "http://bias.csr.unibo.it/maltoni/download/core50/core50_128x128.zip",
                ),
            ),
            "core50",
        ),
        Source(  # version 1.0.10; any archive with the recordings in it will do
            "fsdd",
            (File("recordings.zip", None, f"{_GITHUB}Jakobovski/free-spoken-digit-dataset/archive/v1.0.10.zip"),),
            "fsdd",
            benchmark="spoken_digits",
        ),
    )
}


def source_of(name: str) -> Source:
    """The source of this name. Raises Refused if there is none."""
    if name not in SOURCES:
        raise Refused(f"benchmark.data.source={name}: choose from {', '.join(SOURCES)}{nearest(name, list(SOURCES))}")
    return SOURCES[name]


def find(source: str, data_dir: str, names: tuple[str, ...] | None = None) -> list[Path]:
    """The verified files of a source, or those of these names, in their order.

    Raises Unavailable for one that is missing or is not what it should be: its path, its checksum, what gets it.
    """
    known = source_of(source)
    files = known.files if names is None else tuple(file for file in known.files if file.name in names)
    return [_verified(known, file, data_dir) for file in files]


# What readers of archives, arrays, pictures and sounds raise for bytes that are not theirs.
UNREADABLE = (
    OSError, ValueError, KeyError, IndexError, EOFError, SyntaxError, NotImplementedError, struct.error, zlib.error,
    zipfile.BadZipFile, tarfile.TarError, wave.Error,
)  # fmt: skip


@contextmanager
def reading(path: Path, source: str) -> Iterator[None]:
    """Around all that is read of a source's file. Raises Unavailable, with what gets it anew, where it cannot be."""
    try:
        yield
    except UNREADABLE as error:
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise Unavailable(f"{path}: damaged ({why}); delete it, then {source_of(source).command}") from error


def places(source: Source, data_dir: str) -> list[Path]:
    """The folders that are looked at, in this order."""
    return [Path(data_dir) / source.folder, *map(Path, source.system)]


def located(source: Source, file: File, data_dir: str) -> Path | None:
    """Where the file is; None if nowhere."""
    return next((folder / file.name for folder in places(source, data_dir) if (folder / file.name).is_file()), None)


def _verified(source: Source, file: File, data_dir: str) -> Path:
    path = located(source, file, data_dir)
    if path is None:
        looked = " or ".join(str(place) for place in places(source, data_dir))
        raise Unavailable(
            f"{file.name} of {source.name} is missing (looked in {looked}; {_checksum(file)}); {source.command}, "
            "or set data_dir or FOURFOLD_DATA"
        )
    problem = damage(path, file)
    if problem:
        raise Unavailable(f"{path}: {problem}; delete it, then {source.command}")
    return path


def _checksum(file: File) -> str:
    if file.md5 is None:
        return "no checksum is published"
    return f"md5 {file.md5}{' after gunzip' if file.of_content else ''}"


def damage(path: Path, file: File) -> str | None:
    """What is wrong with a file, in words; None if it has its checksum, or none is known."""
    if file.md5 is None:
        return None
    try:
        with gzip.open(path) if file.of_content else path.open("rb") as stream:
            found = hashlib.file_digest(stream, "md5").hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        return f"damaged ({error}; {_checksum(file)} expected)"
    return None if found == file.md5 else f"not the canonical file ({_checksum(file)} expected, {found} found)"


# -------------------------------------------------------------------------------------------- prepare


def prepare(name: str, data_dir: str, names: tuple[str, ...] | None = None) -> list[str]:
    """Finds each file of a source, fetches what is missing, verifies all; a line about each.

    Raises Unavailable for a file that cannot be had: then nothing is left half done.
    """
    source = source_of(name)
    lines = []
    for file in source.files:
        if names is not None and file.name not in names:
            continue
        path = located(source, file, data_dir)
        done = "found"
        if path is None:
            path = _fetch(source, file, Path(data_dir) / source.folder)
            done = f"downloaded from {file.url}"
        problem = damage(path, file)
        if problem:
            raise Unavailable(f"{path}: {problem}; delete it, then prepare again")
        verified = "no checksum is published" if file.md5 is None else f"verified, {_checksum(file)}"
        lines.append(f"{path}: {done}; {verified}")
    return lines


def _fetch(source: Source, file: File, folder: Path) -> Path:
    """The file, downloaded beside its place and moved there once it is whole and has its checksum."""
    if file.url is None:
        raise Unavailable(f"{folder / file.name} is missing and cannot be downloaded: {source.remedy}")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as into, urllib.request.urlopen(file.url, timeout=PATIENCE) as stream:
            shutil.copyfileobj(stream, into, BLOCK)
        problem = damage(Path(temporary), file)
        if problem:
            raise Unavailable(f"{file.url}: {problem}")
        os.chmod(temporary, 0o644)
        os.replace(temporary, folder / file.name)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(
            f"{file.url}: cannot be downloaded ({reason}); put the file ({_checksum(file)}) into {folder}"
        ) from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return folder / file.name
