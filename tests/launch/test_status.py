"""Looking at a sweep from another shell, and ending it from there: while it runs, and after its launcher died."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from standing_in import RAISE, SLEEP

from fourfold import pulse, record
from fourfold.__main__ import main as command
from fourfold.errors import Refused
from fourfold.launch import cancelling, view
from fourfold.launch.ending import Ending, died
from fourfold.launch.snapshot import of_sweep

Shell = Callable[..., int]

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from standing_in import stand_in
from fourfold.launch.main import main
main(stand_in)
"""


def wait_for(what: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("waited too long")


@pytest.fixture
def started(output: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Launches a sweep in a process of its own; what still runs at the end is ended."""
    processes = []

    def start(*words: str) -> "subprocess.Popen[str]":
        script = SCRIPT.format(tests=str(Path(__file__).parent))
        line = [sys.executable, "-c", script, "-m", *words, "tracking=off"]
        processes.append(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            process.wait(30)


def test_status_and_logs_afterwards(shell: Shell, output: Path, capsys: Any) -> None:
    assert shell("-m", f"seed=0,{RAISE}") == 1
    capsys.readouterr()
    assert command(["status", "--output-dir", str(output)]) == 0
    said = capsys.readouterr().out
    for expected in ("2/2", "1 done", "1 failed", "ValueError: something broke", "took"):
        assert expected in said
    (cell,) = (folder for folder in (output / "cells").iterdir() if f"seed{RAISE}" in folder.name)
    (cell / "cell.log").write_text("one line\n")
    assert command(["logs", f"seed{RAISE}-", "--output-dir", str(output)]) == 0
    assert "one line" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status"], "no sweep in"),
        (["status", "1999"], "no sweep in"),
        (["logs", "nothing"], "no such cell"),
        (["cancel", "nothing"], "no such cell or sweep"),
    ],
)
def test_what_is_not_there(words: list[str], message: str, output: Path, capsys: Any) -> None:
    assert command([*words, "--output-dir", str(output)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_a_running_cell_is_seen_and_cancelled(started: Any, output: Path, capsys: Any) -> None:
    process = started(f"seed={SLEEP},0")
    wait_for(lambda: list(output.glob("cells/*/started")))
    found = of_sweep(output, None)
    assert (found.total, found.counts["running"], found.counts["waiting"]) == (2, 1, 1)
    assert found.launcher is not None
    assert found.launcher.pid == process.pid
    assert str(SLEEP) in view.text(found, 120)
    assert command(["cancel", f"seed{SLEEP}-", "--output-dir", str(output)]) == 0
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in printed
    states = {one.axes["seed"]: one.state for one in map(record.read, (output / "cells").iterdir())}
    assert states == {SLEEP: "interrupted", 0: "done"}


def test_a_sweep_is_cancelled_by_its_launcher(started: Any, output: Path) -> None:
    process = started(f"seed={SLEEP},0")
    wait_for(lambda: list(output.glob("cells/*/started")))
    assert command(["cancel", of_sweep(output, None).id, "--output-dir", str(output)]) == 0
    process.communicate(timeout=120)
    assert process.returncode == 130
    found = of_sweep(output, None)
    assert found.ended is not None
    assert found.counts == {"interrupted": 2}


def test_without_a_launcher_nobody_is_asked(shell: Shell, output: Path, capsys: Any) -> None:
    """The numbers in an old manifest may be those of other people's processes by now."""
    assert shell("-m", "seed=0,1") == 0
    (path,) = (output / "sweeps").glob("*/sweep.json")
    content = json.loads(path.read_text())
    content["ended"] = content["cells"][0]["state"] = None
    (output / content["cells"][0]["folder"] / "record.json").unlink()
    path.write_text(json.dumps(content))
    (path.parent / ".lease").write_text(json.dumps({"host": "here", "pid": os.getpid()}))
    capsys.readouterr()
    assert command(["cancel", content["id"], "--output-dir", str(output)]) == 0
    assert "nothing of it is running" in capsys.readouterr().out
    assert "launcher is gone" in view.text(of_sweep(output, None), 100)


def test_a_cancelled_cell_was_interrupted_however_it_ended(tmp_path: Path) -> None:
    lost = died("7", "lost node", "Slurm job 7 ended as CANCELLED")
    assert cancelling.judged(tmp_path, "cell", lost) is lost
    cancelling.mark(tmp_path, "cell")
    assert cancelling.judged(tmp_path, "cell", lost).state == "interrupted"
    returned = Ending("7", result=object())
    assert cancelling.judged(tmp_path, "cell", returned) is returned


def test_the_pulse_of_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "EVERY", 0.02)
    steps = iter(range(0, 10_000, 10))

    def counted() -> tuple[int, float]:
        done = next(steps)
        return done, done * 32.0

    until = SimpleNamespace(rule={"seconds": None}, last=500.0, share=0.5)
    with pulse.Pulse(tmp_path, counted, "images", until):
        beat = wait_for(lambda: (found := pulse.read(tmp_path)) and found.steps >= 30 and found)
    assert (beat.of, beat.unit) == (1000, "images")
    assert beat.rate > 0
    assert beat.left == pytest.approx((1000 - beat.steps) * 32 / beat.rate, rel=1e-6)
    assert pulse.read(tmp_path) is None


def test_a_budget_bounds_the_time_left(tmp_path: Path) -> None:
    until = SimpleNamespace(rule={"seconds": 60.0}, last=float("inf"), share=1.0)
    writer = pulse.Pulse(tmp_path, lambda: (5, 5.0), "items", until)
    writer.begun = time.monotonic() - 50
    beat = writer.beat()
    assert beat.of is None
    assert beat.left == pytest.approx(10, abs=1)


def test_a_real_cell_leaves_no_pulse(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[pulse.Beat] = []
    original = pulse.Pulse.beat
    monkeypatch.setattr(pulse, "EVERY", 0.05)
    monkeypatch.setattr(pulse.Pulse, "beat", lambda self: seen.append(original(self)) or seen[-1])
    found = run("benchmark=digits", "hardware=cpu", "until.steps=400", "setting=class_incremental")
    assert found.state == "done"
    assert not (found.folder / pulse.PULSE_FILE).exists()
    assert seen[-1].unit == "images"
    assert seen[-1].of == 400


def test_a_broken_manifest(output: Path) -> None:
    (output / "sweeps" / "x").mkdir(parents=True)
    (output / "sweeps" / "x" / "sweep.json").write_text("{")
    with pytest.raises(Refused, match="not a readable manifest"):
        of_sweep(output, None)
