"""Checkpoints of whole cells: where they are written, when they are used, and when they are not."""

import errno
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourfold import checkpoint, keeper, stopping
from fourfold.composition import cell_name, compose, plain
from fourfold.experience import Run as Cell
from fourfold.record import Record, read, read_series
from fourfold.stopping import listening
from learning import untimed

Run = Callable[..., Any]
WORDS = ["benchmark=digits", "hardware=cpu", "setting=class_incremental", "method=replay", "until.steps=40"]
OFTEN = "checkpoint.steps=5"


class Ended(BaseException):
    """Stands for kill -9: nothing of the cell's own runs after it."""


@pytest.fixture
def interrupted(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Runs a cell up to its 21st step and ends it there; returns its folder."""

    def run_until(*more: str, end: Callable[[], None] | None = None) -> Path:
        words = [*WORDS, *more]
        tick = Cell.tick

        def ticking(cell: Cell, *arguments: Any) -> None:
            tick(cell, *arguments)
            if cell.meter.steps == 21:
                monkeypatch.setattr(Cell, "tick", tick)
                if end is None:
                    raise Ended
                end()

        monkeypatch.setattr(Cell, "tick", ticking)
        with listening(100):
            if end is None:
                with pytest.raises(Ended):
                    run(*words)
            else:
                run(*words)
        return tmp_path / "cells" / cell_name(plain(compose(words)))

    return run_until


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]


def results(found: Record, folder: Path) -> dict[str, Any]:
    series = untimed(read_series(folder))
    figures = {name: found.measurements[name] for name in ("steps", "units", "stopped_by", "bytes")}
    return {"evaluations": found.evaluations, **figures, **{name: values.tolist() for name, values in series.items()}}


def test_a_killed_cell_goes_on_to_the_record_of_one_that_was_not(run: Run, interrupted: Callable[..., Path]) -> None:
    folder = interrupted(OFTEN)
    assert checkpoint.exists(folder)
    found = run(*WORDS, OFTEN)
    assert [entry["steps"] for entry in found.resumed] == [16]
    mine = results(found, folder)
    assert not checkpoint.exists(folder), "a cell that is done leaves none behind"
    alone = run(*WORDS, "checkpoint.seconds=null")
    assert alone.resumed == []
    np.testing.assert_equal(mine, results(alone, folder))


@pytest.mark.parametrize("method", ["cmaml", "online_sgd"])
def test_a_stream_that_is_drawn_as_it_goes_gives_the_same_curve(
    method: str, run: Run, interrupted: Callable[..., Path]
) -> None:
    words = ["benchmark=osaka_glyphs", "setting=osaka", f"method={method}", "scale=smoke"]
    folder = interrupted(*words, OFTEN)
    found = run(*WORDS, *words, OFTEN)
    assert [entry["steps"] for entry in found.resumed] == [20]
    mine = results(found, folder)
    assert len(mine["score"]) == 40
    np.testing.assert_equal(mine, results(run(*WORDS, *words), folder))


def test_time_is_added_up_over_interruptions(run: Run, interrupted: Callable[..., Path]) -> None:
    interrupted(OFTEN)
    found = run(*WORDS, OFTEN)
    assert set(found.measurements["seconds"]) >= {"setup", "learn", "evaluate", "checkpoint"}
    series = read_series(found.folder)
    assert len(series["step_seconds"]) == 40
    assert (series["step_seconds"] > 0).all()
    assert found.measurements["seconds"]["learn"] >= series["step_seconds"].sum()
    assert found.resumed[0]["started"] < found.started < found.resumed[0]["at"]


@pytest.mark.parametrize("words", [["checkpoint.seconds=null"], [OFTEN, "until=steady"], [OFTEN, "method=inference"]])
def test_no_checkpoint_where_it_is_off_a_rate_is_measured_or_nothing_is_learned(
    words: list[str], interrupted: Callable[..., Path]
) -> None:
    assert not checkpoint.exists(interrupted(*words))


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    run: Run, interrupted: Callable[..., Path], said: Callable[[], list[str]]
) -> None:
    folder = interrupted(OFTEN)
    newest = folder / checkpoint.NEWEST
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    found = run(*WORDS, OFTEN)
    assert [entry["steps"] for entry in found.resumed] == [13]
    (line,) = said()
    assert "a damaged checkpoint" in line
    assert "set aside as checkpoint.set-aside.pt" in line


@pytest.mark.parametrize("size", [0, 100, -10])
def test_truncated_checkpoints_are_set_aside_and_the_cell_starts_anew(
    size: int, run: Run, interrupted: Callable[..., Path], said: Callable[[], list[str]]
) -> None:
    folder = interrupted(OFTEN)
    for name in (checkpoint.NEWEST, checkpoint.BEFORE):
        (folder / name).write_bytes((folder / name).read_bytes()[:size])
    found = run(*WORDS, OFTEN)
    assert (found.state, found.resumed) == ("done", [])
    assert len(said()) == 2


def test_a_checkpoint_runs_no_code(run: Run, interrupted: Callable[..., Path], said: Callable[[], list[str]]) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(folder / "broken into"),)

    folder = interrupted(OFTEN)
    (folder / checkpoint.BEFORE).unlink()
    torch.save({"identity": {}, "content": Bad()}, folder / checkpoint.NEWEST)
    assert run(*WORDS, OFTEN).resumed == []
    assert not (folder / "broken into").exists()
    assert "a damaged checkpoint (UnpicklingError)" in said()[0]


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("format", 0, "a checkpoint of format 0, not 1"),
        ("torch", "1.0", "a checkpoint of torch 1.0, not "),
        ("configuration", "abc", "a checkpoint of configuration abc, not "),
    ],
)
def test_a_checkpoint_of_another_format_version_or_configuration_is_set_aside(
    key: str, value: Any, line: str, run: Run, interrupted: Callable[..., Path], said: Callable[[], list[str]]
) -> None:
    folder = interrupted(OFTEN)
    (folder / checkpoint.BEFORE).unlink()
    content = torch.load(folder / checkpoint.NEWEST, weights_only=True)
    content["identity"][key] = value
    torch.save(content, folder / checkpoint.NEWEST)
    found = run(*WORDS, OFTEN)
    assert (found.state, found.resumed) == ("done", [])
    assert line in said()[0]


def test_a_checkpoint_that_does_not_fit_the_method_is_set_aside(
    run: Run, interrupted: Callable[..., Path], said: Callable[[], list[str]]
) -> None:
    folder = interrupted(OFTEN)
    (folder / checkpoint.BEFORE).unlink()
    content = torch.load(folder / checkpoint.NEWEST, weights_only=True)
    del content["content"]["method"]["memory"]
    torch.save(content, folder / checkpoint.NEWEST)
    found = run(*WORDS, OFTEN)
    assert found.resumed == []
    assert "does not fit (KeyError: 'memory')" in said()[0]
    mine = results(found, folder)
    np.testing.assert_equal(mine, results(run(*WORDS), folder))


def test_a_full_disk_costs_the_checkpoint_not_the_cell(
    run: Run, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    assert run(*WORDS, OFTEN).state == "done"
    (line,) = said()
    assert "no checkpoint can be written (No space left on device)" in line


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """The kernel's own word, through torch's writer; what was there before stays as it was."""
    checkpoint.save(tmp_path, {"configuration": "a"}, {"one": torch.zeros(3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(OSError, match="large"):
            checkpoint.save(tmp_path, {"configuration": "a"}, {"one": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    found, said = checkpoint.load(tmp_path, {"configuration": "a"}, torch.device("cpu"))
    assert said == []
    assert found is not None
    assert len(found["one"]) == 3
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NEWEST]


def test_what_breaks_by_itself_starts_anew_and_what_ran_out_of_time_goes_on(
    run: Run, interrupted: Callable[..., Path]
) -> None:
    def alarm() -> None:
        os.kill(os.getpid(), signal.SIGALRM)

    folder = interrupted(end=alarm)
    late = checkpoint.exists(folder)
    assert late, "the time limit is told at once, and obeyed after a checkpoint"
    found = run(*WORDS)
    assert [entry["steps"] for entry in found.resumed] == [21]

    def bug() -> None:
        raise ValueError("broken")

    assert not checkpoint.exists(interrupted(OFTEN, end=bug))


@pytest.mark.parametrize(
    ("number", "state", "reason", "message"),
    [
        (signal.SIGINT, "interrupted", "interrupted", "ended by the user after 21 steps; rerun=missing goes on from"),
        (signal.SIGTERM, "interrupted", "interrupted", "ended by the user after 21 steps"),
        (signal.SIGUSR2, "interrupted", "preempted", "Slurm takes the node back after 21 steps"),
        (signal.SIGALRM, "failed", "timeout", "took longer than timeout=100 s after 21 steps; rerun=missing goes on"),
    ],
)
def test_a_signal_ends_a_cell_once_its_checkpoint_is_written(
    number: int, state: str, reason: str, message: str, run: Run, interrupted: Callable[..., Path]
) -> None:
    folder = interrupted(end=lambda: os.kill(os.getpid(), number))
    found = read(folder)
    assert (found.state, found.reason) == (state, reason)
    assert message in str(found.message)
    assert found.traceback is None
    assert found.measurements["steps"] == 21
    assert [entry["steps"] for entry in run(*WORDS).resumed] == [21]


def test_the_second_request_does_not_wait(run: Run, interrupted: Callable[..., Path]) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    folder = interrupted(end=twice)
    assert read(folder).state == "interrupted"
    assert not checkpoint.exists(folder)


def test_a_request_is_pressed_where_the_cell_does_not_come_to_a_checkpoint(
    interrupted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "GRACE", 0.1)

    def stuck() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    begun = time.monotonic()
    folder = interrupted(end=stuck)
    assert time.monotonic() - begun < 30
    assert read(folder).state == "interrupted"


def test_in_a_slurm_job_sigterm_only_hurries_a_checkpoint(
    interrupted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    save = keeper.FileKeeper.save
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setattr(keeper.FileKeeper, "save", lambda self: written.append(self.place.step) or save(self))  # type: ignore[func-returns-value]
    folder = interrupted(end=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert read(folder).state == "done"
    assert written == [5], "the third context's fifth step is the cell's 21st"
