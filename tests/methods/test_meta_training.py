"""Training before the stream: on tasks of the classes kept for it, judged on others, the best epoch kept."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourfold.errors import Unavailable
from fourfold.experience import Experience
from fourfold.methods import kept_weights
from fourfold.record import read_series
from fourfold.stopping import listening
from learning import untimed

SMALL = [
    "benchmark=osaka_glyphs",
    "setting.ways=3",
    "setting.shots=2",
    "setting.alpha=0.8",
    "scale=smoke",
    "until.steps=10",
    "benchmark.data.convert=[1,8,8]",
    "benchmark.model.blocks=2",
    "benchmark.data.modes.characters.data.alphabets=[digits]",
    "benchmark.data.modes.characters.data.characters=10",
    "benchmark.data.modes.characters.classes=10",
    "benchmark.data.modes.characters.data.samples_a_class=12",
    "benchmark.data.modes.invented.data.alphabets=[invented_0]",
    "benchmark.data.modes.invented.data.samples_a_class=4",
    "benchmark.data.modes.invented.classes=40",
    "benchmark.data.train_classes=4",
    "benchmark.data.validation_classes=3",
    "benchmark.data.epochs=2",
    "benchmark.data.epoch_batches=3",
]


def scores(record: Any) -> np.ndarray:
    assert record.state == "done", record.message
    return read_series(record.folder)["score"]


@pytest.mark.parametrize("method", ["maml", "anil", "fine_tuning", "cmaml_pre_um_pap"])
def test_a_method_is_trained_before_the_stream(method: str, run: Callable[..., Any]) -> None:
    record = run(*SMALL, "setting=osaka", f"method={method}")
    assert len(scores(record)) == 10  # the steps before the stream are none of its own
    told = record.measurements["method"]["pretraining"]
    assert (told["epochs"], told["meta_batches"], len(told["validation"])) == (2, 6, 2)
    assert record.measurements["seconds"]["pretrain"] > 0


def test_the_record_says_where_nothing_ends_pre_training_early(run: Callable[..., Any]) -> None:
    """A task of meta_continual takes as many classes as the sequence has: here more than there are to judge by."""
    words = [word for word in SMALL if not word.startswith("setting.")]
    sequence = [
        "setting=meta_continual",
        "setting.samples=2",
        "setting.test_samples=1",
        "method=maml",
        "benchmark.data.validation_classes=2",
    ]
    told = {
        contexts: run(*words, *sequence, f"setting.contexts={contexts}").measurements["method"]["pretraining"]
        for contexts in (2, 3)
    }
    assert "early_stopping" not in told[2]
    assert told[3]["early_stopping"].startswith("none: no validation classes, or fewer than a task takes")
    assert (len(told[2]["validation"]), told[3]["validation"]) == (2, [])


@pytest.mark.parametrize("setting", ["meta_learning", "continual_meta"])
def test_the_neighbours_ask_after_a_support_set(setting: str, run: Callable[..., Any]) -> None:
    record = run(*SMALL, f"setting={setting}", "setting.queries=1", "method=maml")
    assert np.isfinite(scores(record)).all()


def test_kept_weights_are_those_that_training_would_give(run: Callable[..., Any], tmp_path: Path) -> None:
    words = (*SMALL, "setting=osaka", "method=maml")
    plain = run(*words)
    first = run(*words, f"method.keep={tmp_path}/kept")
    (file,) = (tmp_path / "kept").glob("*.pt")
    again = run(*words, f"method.keep={tmp_path}/kept", "setting.alpha=0.81")  # another stream, the same training
    assert "kept" not in first.measurements["method"]["pretraining"]
    assert again.measurements["method"]["pretraining"]["kept"] is True
    assert np.array_equal(scores(plain), scores(first))
    other = run(*words, f"method.keep={tmp_path}/kept", "method.inner_rate=0.2")
    assert "kept" not in other.measurements["method"]["pretraining"]  # other training, another file
    learned = run(*words, f"method.keep={tmp_path}/kept", "method.learned_rates=true")
    assert "kept" not in learned.measurements["method"]["pretraining"]  # step sizes that are learned besides
    (tmp_path / "kept").rename(tmp_path / "moved")
    moved = run(*words, f"method.keep={tmp_path}/moved", "setting.alpha=0.82")
    assert moved.measurements["method"]["pretraining"]["kept"] is True
    file = tmp_path / "moved" / file.name
    file.write_bytes(b"damaged")
    with pytest.raises(Unavailable, match=r"method.keep: .*not a readable pre-training"):
        kept_weights.load(file, {"w": torch.zeros(1)}, {})


@pytest.mark.parametrize("method", [["method=cmaml_pre"], ["method=cmaml_pre_pap", "method.buffer=4"]])
def test_a_stream_is_the_same_after_training_and_after_loading(
    method: list[str], run: Callable[..., Any], tmp_path: Path
) -> None:
    """The outer optimizer goes on learning in the stream: it begins afresh there, with no moments and no gradient."""
    words = (*SMALL, "setting=osaka", *method, f"method.keep={tmp_path}/kept", "until.steps=20")
    trained = run(*words)
    curves = read_series(trained.folder)  # now: the next one has the same folder
    loaded = run(*words)
    again = read_series(loaded.folder)
    assert "kept" not in trained.measurements["method"]["pretraining"]
    assert loaded.measurements["method"]["pretraining"]["kept"] is True
    assert len(curves["loss"]) == 20
    for name in ("score", "loss"):
        assert np.array_equal(curves[name], again[name]), name


class Ended(BaseException):
    """Stands for kill -9: nothing of the cell's own runs after it."""


OML = ["setting=meta_continual", "setting.contexts=3", "setting.samples=2", "benchmark/model=conv", "method=oml"]
IN_A_STREAM = ["setting=osaka", "setting.alpha=0.8"]


@pytest.mark.parametrize(
    "method",
    [
        [*IN_A_STREAM, "method=maml", "method.patience=1"],
        [*IN_A_STREAM, "method=cmaml_pre_um_pap"],
        ["benchmark.data.validation_classes=0", *OML],
    ],
    ids=["maml", "cmaml", "oml"],
)
def test_pre_training_goes_on_where_it_was_interrupted(
    method: list[str], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ("setting.", "benchmark.model") if "method=oml" in method else ()
    words = [*(word for word in SMALL if not word.startswith(other)), *method, "checkpoint.steps=2"]
    alone = run(*words)
    assert alone.state == "done", alone.message
    expected = untimed(read_series(alone.folder))
    drawn, asked = Experience.tasks, list[int]()

    def until_the_last(self: Experience, part: str, number: int, *rest: int) -> Any:
        if part == "train":
            asked.append(number)
            if number == 5 and asked.count(5) == 1:
                raise Ended
        return drawn(self, part, number, *rest)

    monkeypatch.setattr(Experience, "tasks", until_the_last)
    with pytest.raises(Ended):
        run(*words)
    found = run(*words)
    assert asked == [0, 1, 2, 3, 4, 5, 4, 5]  # from the checkpoint after the fourth on
    assert [entry["steps"] for entry in found.resumed] == [0]
    assert found.measurements["method"] == alone.measurements["method"]
    assert found.evaluations == alone.evaluations
    np.testing.assert_equal(untimed(read_series(found.folder)), expected)


def test_pre_training_ends_with_a_checkpoint_when_asked_to(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*SMALL, "setting=osaka", "method=maml"]
    drawn = Experience.tasks

    def asked_to_end(self: Experience, part: str, number: int, *rest: int) -> Any:
        if (part, number) == ("train", 3):
            os.kill(os.getpid(), signal.SIGINT)
        return drawn(self, part, number, *rest)

    monkeypatch.setattr(Experience, "tasks", asked_to_end)
    with listening(100):
        ended = run(*words)
    assert (ended.state, ended.reason) == ("interrupted", "interrupted")
    assert "ended by the user after 4 steps of pre-training; rerun=missing goes on from there" in ended.message
    monkeypatch.setattr(Experience, "tasks", drawn)
    found = run(*words)
    assert found.state == "done"
    assert [entry["steps"] for entry in found.resumed] == [0]
