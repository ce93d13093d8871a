"""Reading pickles of data without running them: arrays, numbers, texts, lists and mappings, and nothing else.

Python's unpickler calls whatever a pickle names. Here each name that pickles of arrays need stands for a small class of
our own, so that NumPy never sees a state that a file made up; any other name ends the reading, uncalled.
"""

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.errors import Unavailable

PLAIN = re.compile(r"[<>|=]?([uifSU]\d+|b1|\?)")  # whole and broken numbers, truth values, texts of fixed length


class Forbidden(pickle.UnpicklingError):
    """A pickle names something that is no data."""


class Kind:
    """Stands for numpy.dtype."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = str(code), "="
        if not PLAIN.fullmatch(self.code):
            raise Forbidden(f"an array of {self.code}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.order, *structure = state[:5]
        if self.order not in ("<", ">", "|", "=") or any(part is not None for part in structure):
            raise Forbidden("an array of structures")

    def made(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


class Array:
    """Stands for numpy.ndarray."""

    def __init__(self, *_: Any) -> None:
        self.found = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        raw = content.encode("latin1") if isinstance(content, str) else content  # Python 2 has one type for both
        self.found = np.frombuffer(raw, kind.made()).reshape(shape, order="F" if fortran else "C")


class Reconstructed:
    """Stands for numpy's _reconstruct: an empty array, whose state follows."""

    def __new__(cls, *_: Any) -> Any:
        return Array()


class Scalar:
    """Stands for numpy's scalar."""

    def __new__(cls, kind: Kind, content: Any) -> Any:
        raw = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(raw, kind.made())[0].item()


class Encoded:
    """Stands for _codecs.encode, by which Python 3 writes bytes for Python 2."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding not in ("latin1", "latin-1"):
            raise Forbidden(f"bytes in {encoding}")
        return text.encode("latin1")


STANDS_FOR: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Kind,
    ("_codecs", "encode"): Encoded,
    ("collections", "OrderedDict"): OrderedDict,
    **{
        (f"numpy.{core}.multiarray", name): ours
        for core in ("core", "_core")
        for name, ours in (("_reconstruct", Reconstructed), ("scalar", Scalar))
    },
}


class DataUnpickler(pickle.Unpickler):
    """An unpickler that knows what ``STANDS_FOR`` has."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STANDS_FOR:
            raise Forbidden(f"{module}.{name}")
        return STANDS_FOR[module, name]


def read(path: Path) -> Any:
    """What a pickle holds: an array, or a list or mapping of arrays and plain values; texts of Python 2 are texts.

    Raises Unavailable where it is damaged or names anything but data, which is not called.
    """
    try:
        with path.open("rb") as file:
            content = DataUnpickler(file, encoding="latin1").load()
    except Forbidden as error:
        raise Unavailable(f"{path}: asks for {error}, which is no plain data; nothing was run") from error
    except Exception as error:  # whatever damaged bytes make of themselves
        raise Unavailable(f"{path}: not a readable pickle of arrays ({type(error).__name__})") from error
    if isinstance(content, dict):
        return {key: _array(value) for key, value in content.items()}
    return [_array(value) for value in content] if isinstance(content, list) else _array(content)


def _array(value: Any) -> Any:
    return value.found if isinstance(value, Array) else value
