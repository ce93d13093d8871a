"""tiered-ImageNet's own files: pickles of labels and of PNG files, or packed arrays; and pickles that are no data."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold.data import pickles
from fourfold.data.tiered_imagenet import tiered_imagenet
from fourfold.errors import Unavailable

CLASSES = {"train": 4, "val": 2}


def png(array: np.ndarray) -> np.ndarray:
    """As cv2.imencode gives it: the file's bytes as an array [k, 1], the array's channels in reverse in it."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(array[:, :, ::-1].copy()).save(file, format="PNG")
    return np.frombuffer(file.getvalue(), dtype=np.uint8)[:, None]


def authors_files(root: Path, packed: bool, protocol: int = 2) -> None:
    """A miniature: three pictures a class, class by class but in turn; red, green and blue differ."""
    folder = root / "tiered_imagenet"
    folder.mkdir()
    for split, classes in CLASSES.items():
        labels = np.tile(np.arange(classes), 3)
        images = np.zeros((len(labels), 84, 84, 3), dtype=np.uint8)
        images[:] = (10 * labels + np.arange(3).repeat(classes))[:, None, None, None] + np.array([0, 50, 100])
        texts = [f"n{label:08}" for label in labels]
        told = {"label_specific": labels, "label_general": labels // 2, "label_specific_str": texts}
        (folder / f"{split}_labels.pkl").write_bytes(pickle.dumps(told, protocol))
        if packed:
            np.savez(folder / f"{split}_images.npz", images=images)
        else:
            encoded = [png(one) for one in images]
            (folder / f"{split}_images_png.pkl").write_bytes(pickle.dumps(encoded, protocol))


@pytest.mark.parametrize(("packed", "protocol"), [(True, 2), (False, 2), (False, 4)])
def test_the_authors_files_become_classes_by_their_numbers(packed: bool, protocol: int, tmp_path: Path) -> None:
    authors_files(tmp_path, packed, protocol)
    sets = tiered_imagenet(str(tmp_path), 0, "tiered_imagenet", "train", 1, 2, 64)
    assert (sets.train.inputs.shape, len(sets.test)) == ((6, 3, 64, 64), 0)
    assert sets.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert sets.train.inputs[:, :, 0, 0].tolist() == [[v, v + 50, v + 100] for v in (10, 11, 12, 20, 21, 22)]
    few = tiered_imagenet(str(tmp_path), 0, "tiered_imagenet", "val", 0, 2, 64, samples_a_class=2)
    assert few.train.inputs[:, 0, 0, 0].tolist() == [0, 1, 10, 11]
    with pytest.raises(Unavailable, match=r"train_labels.pkl: 4 classes, 6 expected"):
        tiered_imagenet(str(tmp_path), 0, "tiered_imagenet", "train", 3, 3, 64)


def test_files_that_are_not_as_they_should_be_are_one_line(tmp_path: Path) -> None:
    authors_files(tmp_path, packed=False)
    folder = tmp_path / "tiered_imagenet"

    def train() -> Any:
        return tiered_imagenet(str(tmp_path), 0, "tiered_imagenet", "train", 0, 4, 64)

    images, labels = folder / "train_images_png.pkl", folder / "train_labels.pkl"
    kept = images.read_bytes()
    images.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(Unavailable, match=r"train_images_png.pkl: not a readable pickle of arrays"):
        train()
    images.write_bytes(pickle.dumps([np.zeros(9, dtype=np.uint8)] * 12, 2))
    with pytest.raises(Unavailable, match=r"train_images_png.pkl: a picture in it is damaged"):
        train()
    images.write_bytes(pickle.dumps([], 2))
    with pytest.raises(Unavailable, match=r"not the 12 pictures that train_labels.pkl tells of"):
        train()
    images.unlink()
    with pytest.raises(Unavailable, match=r"neither train_images.npz nor train_images_png.pkl is here"):
        train()
    (folder / "train_images.npz").write_bytes(b"PK")
    with pytest.raises(Unavailable, match=r"train_images.npz: not a readable file of images"):
        train()
    labels.write_bytes(pickle.dumps({"label_specific": ["a"]}, 2))
    with pytest.raises(Unavailable, match="no whole numbers under label_specific"):
        train()
    labels.unlink()
    with pytest.raises(Unavailable, match="0 classes, 4 expected"):  # folders of pictures, then
        train()
    with pytest.raises(Unavailable, match=r"tiered_imagenet is not here.*SPLIT_labels.pkl"):
        tiered_imagenet(str(tmp_path / "nowhere"), 0, "tiered_imagenet", "train", 0, 4, 64)


class Calls:
    """Pickled, it asks for a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.asked = (function, arguments)

    def __reduce__(self) -> Any:
        return self.asked


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(protocol: int, tmp_path: Path) -> None:
    path, trace = tmp_path / "train_labels.pkl", tmp_path / "trace"
    calls = [
        Calls(os.mkdir, str(trace)),
        Calls(eval, f"__import__('os').mkdir({str(trace)!r})"),
        Calls(getattr, "text", "upper"),
        Calls(np.load, str(path)),
        Calls(np.dtype, [("pointer", "O")]),
    ]
    for call in calls:
        for content in (call, {"label_specific": call}, [np.zeros(2), call]):
            path.write_bytes(pickle.dumps(content, protocol))
            with pytest.raises(Unavailable, match=r"train_labels.pkl: (asks for .*; nothing was run|not a readable)"):
                pickles.read(path)
    assert not trace.exists()


def test_arrays_of_objects_and_structures_are_no_plain_data(tmp_path: Path) -> None:
    path = tmp_path / "some.pkl"
    for content in (np.array([{}, []], dtype=object), np.zeros(2, dtype=[("a", "i4")]), np.array(["2001-01-01"], "M8")):
        path.write_bytes(pickle.dumps(content, 2))
        with pytest.raises(Unavailable, match=r"some.pkl: asks for .*; nothing was run"):
            pickles.read(path)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_and_plain_values_come_back_as_they_were(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "some.pkl"
    arrays = {
        "whole": np.arange(6, dtype=">i8").reshape(2, 3),
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "truth": np.array([True, False]),
        "texts": np.array(["a", "bcd"]),
    }
    path.write_bytes(pickle.dumps({**arrays, "number": np.int64(7), "list": ["a", 1], "bytes": b"\xff"}, protocol))
    found = pickles.read(path)
    for name, array in arrays.items():
        assert np.array_equal(found[name], array), name
    assert (int(found["number"]), found["list"], found["bytes"]) == (7, ["a", 1], b"\xff")


def test_a_stream_runs_on_the_authors_files(run: Callable[..., Any], tmp_path: Path) -> None:
    authors_files(tmp_path, packed=False)
    small = {"known": (0, 2), "train_rest": (2, 2), "validation": (0, 2)}
    words = [f"data_dir={tmp_path}", "benchmark.data.train_classes=2", "benchmark.data.validation_classes=0"]
    for name, (first, count) in small.items():
        key = f"benchmark.data.modes.{name}"
        words += [f"{key}.classes={count}", f"{key}.data.classes={count}", f"{key}.data.first={first}"]
    words += ["setting.ways=2", "setting.shots=2", "until.steps=3", "benchmark.model.width=0.1"]
    record = run("benchmark=osaka_tiered_imagenet", "setting=osaka", "method=cmaml", *words)
    assert record.state == "done", record.message
