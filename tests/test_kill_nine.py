"""Kill -9 at ten random moments of a cell, as often as it takes: the record is that of a cell that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chaos import results, start
from fourfold import record
from learning import untimed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).resolve().parents[1]
DIGITS = ["benchmark=digits", "until.steps=900"]
OSAKA = ["benchmark=osaka_glyphs", "setting=osaka", "scale=smoke"]
BRIEFLY = ["benchmark.data.epochs=2", "benchmark.data.epoch_batches=30", "until.steps=150"]  # 60 meta-batches before
CELLS = {
    "replay": [*DIGITS, "setting=class_incremental", "method=replay"],
    "ewc": [*DIGITS, "setting=task_incremental", "method=ewc"],
    "packnet": [*DIGITS, "setting=task_incremental", "method=packnet"],
    "si": [*DIGITS, "setting=domain_incremental", "method=si"],
    "icarl": [*DIGITS, "setting=class_incremental", "method=icarl"],
    "dgr": [*DIGITS, "setting=class_incremental", "method=dgr"],
    "osaka_sgd": [*OSAKA, "method=online_sgd"],
    "osaka_cmaml": [*OSAKA, "method=cmaml"],
    "osaka_maml": [*OSAKA, *BRIEFLY, "method=maml"],
    "osaka_cmaml_pre": [*OSAKA, *BRIEFLY, "method=cmaml_pre"],
}
ALWAYS = ["hardware=cpu", "checkpoint.steps=15", "tracking=off", "progress=off"]
KILLS, LANDED = 10, 8
SAME = (
    "steps",
    "units",
    "parameters",
    "trained_parameters",
    "bytes",
    "stopped_by",
    "fingerprint",
    "contexts",
    "method",
)
# Cells forked from a process that has imported torch. Each says when it has done so many steps of its stream, those of
# earlier attempts included, or, of those of its pre-training, when so many are left (a negative number of steps); what
# it is doing a moment later, when it is killed, is left to chance.
FORKED = """
import json, os, sys
from pathlib import Path
from fourfold.composition import cell_name, compose, plain
from fourfold.experiment import run_cell
from fourfold.keeper import BEFORE_ALL, FileKeeper
import torch

torch.set_num_threads(1)
between_steps = FileKeeper.between_steps
for line in sys.stdin:
    words, steps, before = json.loads(line)
    cell = plain(compose(words))

    def told(keeper):
        global steps
        done = keeper.place.step - before if keeper.place.phase == BEFORE_ALL else keeper.run.meter.steps
        if done >= steps:
            steps = float("inf")
            os.write(1, b"there\\n")
        between_steps(keeper)

    child = os.fork()
    if child == 0:
        if steps is not None:
            FileKeeper.between_steps = told
        run_cell(cell, Path(cell["output_dir"]) / "cells" / cell_name(cell), words)
        os._exit(0)
    print(child, flush=True)
    print("status", os.waitpid(child, 0)[1], flush=True)
"""


class Cells:
    """Runs cells one after another in processes of their own, forked from one."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", FORKED]
        self.server: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def run(
        self, words: list[str], output: Path, kill_at: int | None = None, delay: float = 0.0, before: int = 0
    ) -> int:
        """One attempt, killed so many seconds after that step; its status as the system tells it: 0 or the signal.

        ``before``: steps of pre-training.
        """
        asked = [[*words, *ALWAYS, f"output_dir={output}"], kill_at, before]
        print(json.dumps(asked), file=self.server.stdin, flush=True)
        child = int(self.server.stdout.readline())
        said = self.server.stdout.readline().split()
        if said == ["there"]:
            time.sleep(delay)
            with suppress(ProcessLookupError):  # done by now
                os.kill(child, signal.SIGKILL)
            said = self.server.stdout.readline().split()
        return int(said[1])

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait(60)


@pytest.fixture(scope="module")
def cells() -> Iterator[Cells]:
    found = Cells()
    yield found
    found.close()


def result(output: Path) -> tuple[record.Record, dict[str, Any]]:
    (folder,) = (output / "cells").iterdir()
    return record.read(folder), untimed(record.read_series(folder))


@pytest.mark.parametrize("name", CELLS)
def test_ten_kills_leave_the_same_record(name: str, cells: Cells, tmp_path: Path) -> None:
    words, alone, killed = CELLS[name], tmp_path / "alone", tmp_path / "killed"
    assert cells.run(words, alone) == 0
    expected, series = result(alone)
    steps, luck, landed = expected.measurements["steps"], random.Random(name), 0
    before = ((expected.measurements["method"] or {}).get("pretraining") or {}).get("meta_batches", 0)
    moments = luck.sample(range(1 - before, 0), KILLS // 2 if before else 0)
    moments += luck.sample(range(1, int(0.97 * steps)), KILLS - len(moments))
    for at in sorted(moments):
        status = cells.run(words, killed, at, luck.uniform(0.0, 0.06), before)
        landed += status == signal.SIGKILL and not list(killed.glob("cells/*/record.json"))
        if status == 0:
            break
    else:
        assert cells.run(words, killed) == 0

    found, again = result(killed)
    print(f"\n{name}: {landed} kills, went on after {[entry['steps'] for entry in found.resumed]} of {steps} steps")
    assert landed >= LANDED
    assert found.resumed
    assert (found.state, expected.state) == ("done", "done")
    assert found.evaluations == expected.evaluations
    assert {key: found.measurements[key] for key in SAME} == {key: expected.measurements[key] for key in SAME}
    np.testing.assert_equal(again, series)


def test_repeating_an_interrupted_sweep_finishes_it(tmp_path: Path) -> None:
    """Ctrl-C, Ctrl-C twice, the launcher killed: the command again, each time, ends with what a calm sweep finds."""
    calm, wild = tmp_path / "calm" / "outputs", tmp_path / "wild" / "outputs"
    words = [
        "-m",
        "benchmark=digits",
        "setting=class_incremental",
        "method=replay,finetune",
        "until.steps=4000",
        *ALWAYS,
    ]
    for output in (calm, wild):
        output.parent.mkdir()

    def checkpoints() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in wild.glob("cells/*/checkpoint.pt")}

    def begun() -> "subprocess.Popen[bytes]":
        """The sweep, once a cell has learned for a while."""
        before, end = checkpoints(), time.monotonic() + 300
        sweep = start(wild, [*words, "rerun=missing"])
        while checkpoints().items() <= before.items():
            assert time.monotonic() < end
            assert sweep.poll() is None
            time.sleep(0.02)
        return sweep

    def printed() -> str:
        text = (wild.parent / "printed").read_text()
        (wild.parent / "printed").write_text("")
        return text

    assert start(calm, words).wait(timeout=900) == 0

    first = begun()
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=300) == 130, printed()
    said = printed()
    assert " interrupted" in said
    assert "; to go on from the last checkpoints: python " in said
    assert said.rstrip().endswith(" rerun=missing")
    assert "Traceback" not in said
    assert checkpoints()

    second = begun()
    for _ in range(2):
        second.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert second.wait(timeout=300) == 130, printed()
    said = printed()
    assert "; to go on from the last checkpoints: python " in said
    assert "Traceback" not in said

    third = begun()
    third.kill()
    third.wait()

    assert start(wild, [*words, "rerun=missing"]).wait(timeout=900) == 0, printed()
    assert results(wild) == results(calm)
    assert any(record.read(folder).resumed for folder in (wild / "cells").iterdir())
    assert not checkpoints()
