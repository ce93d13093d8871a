"""Data sets: read as their files say, refuse what is damaged, choose by seed."""

import gzip
import inspect
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import get_object

from fourfold.data import idx
from fourfold.data.packaged import digits
from fourfold.data.synthetic import images
from fourfold.data.tensors import TensorData, choose, with_validation
from fourfold.data.text import text
from fourfold.errors import Unavailable
from learning import member, names


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def test_idx_files_are_read_as_their_header_says(tmp_path: Path) -> None:
    values = np.arange(24).reshape(2, 3, 4)
    write_idx(tmp_path / "x.gz", values)
    np.testing.assert_array_equal(idx.read_idx(tmp_path / "x.gz").numpy(), values)


def test_a_file_cut_short_is_damaged(tmp_path: Path) -> None:
    write_idx(tmp_path / "x.gz", np.random.default_rng(0).integers(0, 256, (50, 50)))
    content = (tmp_path / "x.gz").read_bytes()
    (tmp_path / "x.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(Unavailable, match="damaged"):
        idx.read_idx(tmp_path / "x.gz")


def test_bytes_become_numbers_between_0_and_1_when_drawn() -> None:
    data = TensorData(torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8), torch.tensor([0, 1]))
    torch.testing.assert_close(data.batch(torch.tensor([1, 0])).inputs, torch.tensor([[0.2, 0.4], [0.0, 1.0]]))


def test_a_choice_depends_on_the_seed_only() -> None:
    whole = digits("", 0).train
    first, again, other = (choose(whole, 100, seed) for seed in (0, 0, 1))
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    assert choose(whole, 10**6, 0) is whole


def test_digits_keep_training_and_test_apart() -> None:
    sets = digits("", 0)
    assert (len(sets.train), len(sets.test), sets.shape) == (1438, 359, (1, 8, 8))
    assert 0 <= sets.train.inputs.min() < sets.train.inputs.max() <= 1


def test_synthetic_images_have_full_shape_and_are_seeded() -> None:
    first, again = (images("", 3, samples=8, classes_used=4, image_size=32) for _ in range(2))
    assert first.train.batch(torch.arange(8)).inputs.shape == (8, 3, 32, 32)
    assert torch.equal(first.train.inputs, again.train.inputs)


def test_text_targets_are_the_next_bytes(tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("abcdefghij" * 40)
    sets = text(str(tmp_path), 0, sequence=10, megabytes=1.0, folder="books")
    batch = sets.train.batch(torch.tensor([0, 1]))
    assert bytes(batch.inputs[0].tolist()) == b"abcdefghij"
    assert bytes(batch.targets[0].tolist()) == b"bcdefghija"


def test_the_standard_library_is_text_that_is_always_here() -> None:
    assert len(text("", 0, sequence=128, megabytes=0.5).train) > 3000


def test_an_empty_folder_of_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="too little text"):
        text(str(tmp_path), 0, sequence=10, megabytes=1.0, folder="none")


def test_validation_takes_a_seeded_tenth_of_the_training_samples(run: Callable[..., Any]) -> None:
    sets = digits("", 0)
    held = with_validation(sets, 0.1, 0)
    assert (len(held.train), len(held.test)) == (1294, 144)
    together = torch.cat([held.train.inputs, held.test.inputs]).flatten(1)
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, sets.train.inputs.flatten(1).tolist()))
    assert not torch.equal(held.test.inputs, with_validation(sets, 0.1, 1).test.inputs)
    record = run("benchmark=digits", "evaluate_on=validation", "until=steps", "until.steps=2", "scale=smoke")
    assert record.evaluations[-1]["samples"] == 144


def test_validation_is_refused_where_nothing_can_be_held_out(run: Callable[..., Any]) -> None:
    record = run("benchmark=matmul", "evaluate_on=validation")
    assert record.state == "refused"
    assert "evaluate_on=validation" in record.message


def test_every_data_set_takes_the_values_of_its_yaml() -> None:
    """A key of its own that its function does not know would end every cell on it."""
    common = {"data_dir", "seed"}
    for name in names("benchmark/data"):
        node = member(f"benchmark/data/{name}")
        if node["_target_"] is None:
            continue
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            continue
        known, own = set(parameters), set(node) - {"_target_", "limits", "classes", "sizes", "normalise"}
        assert own <= known - common, f"{name}: {', '.join(own - known)}"
