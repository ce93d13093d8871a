"""Records: atomic, finite, versioned."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from fourfold.errors import FourfoldError
from fourfold.record import RECORD_FILE, SERIES_FILE, Record, read, read_series


def record() -> Record:
    return Record("name", {"benchmark": "b"}, {"seed": 0}, ["seed=0"], measurements={"loss": float("nan"), "n": 3})


def test_a_record_comes_back_as_it_was_and_nan_is_null(tmp_path: Path) -> None:
    record().write(tmp_path, {"loss": np.asarray([1.0, np.nan])})
    again = read(tmp_path)
    assert again.measurements == {"loss": None, "n": 3}
    assert again.state == "interrupted", "until it says otherwise"
    np.testing.assert_array_equal(read_series(tmp_path)["loss"], [1.0, np.nan])
    assert sorted(os.listdir(tmp_path)) == [RECORD_FILE, SERIES_FILE], "no temporary file is left"


def test_a_write_that_breaks_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record().write(tmp_path)

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    changed = record()
    changed.state = "done"
    with pytest.raises(OSError, match="No space"):
        changed.write(tmp_path)
    monkeypatch.undo()
    assert read(tmp_path).state == "interrupted"
    assert os.listdir(tmp_path) == [RECORD_FILE]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', "null"])
def test_a_damaged_record_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD_FILE).write_text(content)
    with pytest.raises(FourfoldError, match="not a readable record") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_record_of_the_future_is_not_guessed_at(tmp_path: Path) -> None:
    path = record().write(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(FourfoldError, match="newer"):
        read(tmp_path)


def test_no_series_is_empty_and_a_damaged_one_is_one_line(tmp_path: Path) -> None:
    assert read_series(tmp_path) == {}
    (tmp_path / SERIES_FILE).write_bytes(b"not an archive")
    with pytest.raises(FourfoldError, match="not a readable series"):
        read_series(tmp_path)
