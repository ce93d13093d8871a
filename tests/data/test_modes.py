"""Streams of several data sets: joined, at one scale, from miniature files in the standard formats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourfold.data import few_shot, modes
from fourfold.errors import Unavailable

DIGITS = {"_target_": "fourfold.data.packaged.digits"}


def two(**values: Any) -> Any:
    part = {"probability": 0.5, "classes": 10, "shape": [1, 8, 8], "part": "train", "data": DIGITS}
    return modes.joined("", 0, {"one": part, "other": {**part, "part": "all"}}, 6, 4, **values)


def test_modes_lie_end_to_end_with_classes_of_their_own() -> None:
    sets = two()
    assert (sets.classes, len(sets.train)) == (20, 1438 + 1797)
    assert [mode.classes.tolist() for mode in sets.modes] == [list(range(10)), list(range(10, 20))]
    assert sets.train.targets[:1438].max() == 9
    assert sets.train.targets[1438:].min() == 10
    assert (sets.meta_train.tolist(), sets.meta_validation.tolist()) == (list(range(6)), list(range(6, 10)))


def test_pictures_of_all_modes_have_one_scale_unless_the_published_one_is_asked_for() -> None:
    first, last = torch.arange(50), torch.arange(2000, 2050)
    agreeing, published = two(), two(published_scale=True)
    assert agreeing.train.batch(last).inputs.max() <= 1
    assert torch.equal(published.train.batch(first).inputs, agreeing.train.batch(first).inputs)
    assert torch.equal(published.train.batch(last).inputs, (agreeing.train.batch(last).inputs * 255).round())


def test_pictures_are_converted_where_asked() -> None:
    pictures = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    pictures[:, :, :4] = 200
    large = modes.converted(pictures, (3, 16, 16))
    assert large.shape == (3, 3, 16, 16)
    assert (large[:, :, :5] == 200).all()
    assert (large[:, :, -5:] == 0).all()
    assert two(convert=[1, 12, 12]).shape == (1, 12, 12)


def test_a_mode_that_is_not_as_said_is_unavailable() -> None:
    part = {"probability": 1.0, "classes": 12, "shape": [1, 8, 8], "part": "train", "data": DIGITS}
    with pytest.raises(Unavailable, match=r"modes.one: 10 classes found, 12 expected"):
        modes.joined("", 0, {"one": part}, 6, 4)


def picture_tree(root: Path) -> None:
    from PIL import Image

    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            folder = root / "tiered_imagenet" / split / f"n{number:08}"
            folder.mkdir(parents=True)
            for shot in range(3):
                array = np.full((20, 24, 3), 40 * number + shot, dtype=np.uint8)
                Image.fromarray(array).save(folder / f"{shot}.png")


def test_folders_of_pictures_become_classes_in_their_order(tmp_path: Path) -> None:
    picture_tree(tmp_path)
    sets = few_shot.picture_folders(str(tmp_path), 0, "tiered_imagenet", "train", 1, 2, 16)
    assert sets.train.inputs.shape == (6, 3, 16, 16)
    assert sets.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert sets.train.inputs[:, 0, 0, 0].tolist() == [40, 41, 42, 80, 81, 82]
    with pytest.raises(Unavailable, match="4 classes, 6 expected"):
        few_shot.picture_folders(str(tmp_path), 0, "tiered_imagenet", "train", 3, 3, 16)
    (tmp_path / "tiered_imagenet/val/n00000000/0.png").write_bytes(b"no picture")
    with pytest.raises(Unavailable, match=r"0.png: damaged"):
        few_shot.picture_folders(str(tmp_path), 0, "tiered_imagenet", "val", 0, 2, 16)
    with pytest.raises(Unavailable, match="tiered_imagenet is not here"):
        few_shot.picture_folders(str(tmp_path / "nowhere"), 0, "tiered_imagenet", "val", 0, 2, 16)


def test_a_stream_of_tiered_imagenet_runs_on_miniature_folders(run: Callable[..., Any], tmp_path: Path) -> None:
    picture_tree(tmp_path)
    small = {"known": (0, 2), "train_rest": (2, 2), "validation": (0, 2)}
    words = [f"data_dir={tmp_path}", "benchmark.data.train_classes=2", "benchmark.data.validation_classes=0"]
    for name, (first, count) in small.items():
        key = f"benchmark.data.modes.{name}"
        words += [f"{key}.classes={count}", f"{key}.data.classes={count}", f"{key}.data.first={first}"]
    words += ["setting.ways=2", "setting.shots=2", "until.steps=4", "benchmark.model.width=0.1"]
    record = run("benchmark=osaka_tiered_imagenet", "setting=osaka", "method=cmaml", *words)
    assert record.state == "done", record.message
    assert record.measurements["contexts"] == ["context 0: known", "context 1: train_rest", "context 2: validation"]


def test_files_of_synbols_are_read_by_an_attribute(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "synbols").mkdir()
    told = [{"char": "abc"[k % 3], "font": f"f{k % 2}", "alphabet": "latin" if k < 9 else "thai"} for k in range(12)]
    with h5py.File(tmp_path / "synbols/mini.h5py", "w") as file:
        file["x"] = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), dtype=np.uint8)
        file.create_dataset("y", data=[json.dumps(one) for one in told], dtype=h5py.string_dtype())
    by_character = few_shot.synbols(str(tmp_path), 0, "mini.h5py", "char", 0, 3, alphabet="latin")
    assert by_character.shape == (3, 32, 32)
    assert by_character.train.targets.tolist() == [0, 1, 2] * 3
    assert by_character.train.inputs[:, 0, 0, 0].tolist() == list(range(9))
    by_font = few_shot.synbols(str(tmp_path), 0, "mini.h5py", "font", 1, 1, samples_a_class=2)
    assert by_font.train.inputs[:, 0, 0, 0].tolist() == [1, 3]
    with pytest.raises(Unavailable, match="3 kinds of char, 4 expected"):
        few_shot.synbols(str(tmp_path), 0, "mini.h5py", "char", 0, 4)
    with pytest.raises(Unavailable, match="not a file of Synbols"):
        few_shot.synbols(str(tmp_path), 0, "other.h5py", "char", 0, 1)


def test_harmonics_are_sums_of_two_sines_with_the_frequencies_of_their_mode() -> None:
    parts = {
        "known": {"probability": 0.6, "classes": 30, "frequencies": [2, 4]},
        "faster": {"probability": 0.4, "classes": 20, "frequencies": [5, 7]},
    }
    sets = few_shot.harmonics("", 0, parts, points=200, train_classes=20, validation_classes=10)
    assert (len(sets.train), sets.classes, sets.shape) == (10_000, 1, (1,))
    for function, (low, high) in ((3, (2, 4)), (40, (5, 7))):
        own = sets.group == function
        x, y = (sets.train.inputs[own].double(), sets.train.targets[own].double())
        basis = torch.cat([wave(f * x) for f in range(low, high + 1) for wave in (torch.sin, torch.cos)], 1)
        solved = torch.linalg.lstsq(basis, y).solution
        assert torch.allclose(basis @ solved, y, atol=1e-4)  # nothing but these frequencies


def test_harmonics_run_and_are_judged_by_their_error(run: Callable[..., Any]) -> None:
    words = ("setting=osaka", "setting.alpha=0.9", "until.steps=40", "scale=smoke")
    record = run("benchmark=harmonics", "method=cmaml", *words)
    assert record.state == "done", record.message
    from fourfold.metrics import figures
    from fourfold.record import read_series

    found = figures(record, read_series(record.folder))
    assert {"cumulative_squared_error", "cumulative_squared_error_known"} <= set(found)
    assert "online_accuracy" not in found


def test_harmonics_have_functions_that_are_new_to_the_stream(run: Callable[..., Any]) -> None:
    words = ("setting=meta_learning", "method=cmaml", "until.steps=3", "scale=smoke")
    record = run("benchmark=harmonics", *words)
    assert record.state == "done", record.message
    assert record.measurements["contexts"] == ["context 0: known"]
