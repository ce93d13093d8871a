"""Kill -9 at ten random moments of a cell, as often as it takes: the record is that of a cell that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold import record
from learning import untimed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).resolve().parents[1]
WORDS = ["benchmark=digits", "hardware=cpu", "until.steps=900", "checkpoint.steps=15", "tracking=off"]
CELLS = [
    ("replay", "class_incremental"),
    ("ewc", "task_incremental"),
    ("si", "domain_incremental"),
    ("packnet", "task_incremental"),
    ("icarl", "class_incremental"),
    ("dgr", "class_incremental"),
]
KILLS = 10
# A cell forked from this process, so that ten of them do not import torch ten times; it tells when it begins.
FORKED = """
import os, sys
from pathlib import Path
from fourfold.composition import cell_name, compose, plain
from fourfold.experiment import run_cell
import fourfold.keeper, torch

torch.set_num_threads(1)
words = sys.argv[1:]
cell = plain(compose([*words, "progress=off"]))
folder = Path(cell["output_dir"]) / "cells" / cell_name(cell)
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        run_cell(cell, folder, words)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Cells:
    """Runs one cell again and again in processes of their own."""

    def __init__(self, output: Path, *words: str) -> None:
        command = [sys.executable, "-c", FORKED, *WORDS, *words, f"output_dir={output}"]
        self.server: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.output = output

    def run(self, end: float | None) -> bool:
        """One attempt, killed after so many seconds; whether it came to its end before."""
        print("run", file=self.server.stdin, flush=True)
        child = int(self.server.stdout.readline())
        if end is not None:
            time.sleep(end)
            if not list(self.output.glob("cells/*/record.json")):
                os.kill(child, signal.SIGKILL)
        return int(self.server.stdout.readline()) == 0

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait(60)

    def result(self) -> tuple[record.Record, dict[str, Any]]:
        (folder,) = (self.output / "cells").iterdir()
        return record.read(folder), untimed(record.read_series(folder))


@pytest.mark.parametrize(("method", "setting"), CELLS)
def test_ten_kills_leave_the_same_record(method: str, setting: str, tmp_path: Path) -> None:
    words = (f"method={method}", f"setting={setting}")
    alone = Cells(tmp_path / "alone", *words)
    begun = time.monotonic()
    assert alone.run(None)
    took = time.monotonic() - begun
    alone.close()

    killed = Cells(tmp_path / "killed", *words)
    draw, kills = random.Random(f"{method} {setting}"), 0
    while kills < KILLS and not killed.run(draw.uniform(0.03, 0.17) * took):
        kills += 1
    if kills == KILLS:
        assert killed.run(None)
    killed.close()

    (expected, series), (found, again) = alone.result(), killed.result()
    print(f"{method}: {kills} kills, resumed {[entry['steps'] for entry in found.resumed]} of {len(series['loss'])}")
    assert kills >= 1
    assert found.resumed
    assert (found.state, expected.state) == ("done", "done")
    assert found.evaluations == expected.evaluations
    assert found.measurements["bytes"] == expected.measurements["bytes"]
    np.testing.assert_equal(series, again)


def test_repeating_an_interrupted_sweep_finishes_it(tmp_path: Path, run: Callable[..., Any]) -> None:
    """The launcher is told to stop, then killed; the third command has nothing left to lose."""
    words = [
        *WORDS,
        "setting=class_incremental",
        "method=replay,finetune",
        "until.steps=4000",
        f"output_dir={tmp_path}",
    ]

    def sweep(*more: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(ROOT / "run.py"), "-m", *words, *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)

    def checkpoints() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/checkpoint.pt")}

    def wait_for_a_new_one() -> None:
        before, end = checkpoints(), time.monotonic() + 300
        while checkpoints().items() <= before.items():
            assert time.monotonic() < end
            time.sleep(0.05)

    first = sweep()
    wait_for_a_new_one()
    first.send_signal(signal.SIGTERM)
    printed, _ = first.communicate(timeout=300)
    assert first.returncode == 130, printed
    assert "rerun=missing goes on from the last checkpoints" in printed

    second = sweep("rerun=missing")
    wait_for_a_new_one()
    second.kill()
    second.wait()

    third = sweep("rerun=missing")
    printed, _ = third.communicate(timeout=900)
    assert third.returncode == 0, printed
    found = {one.axes["method"]: one for one in map(record.read, (tmp_path / "cells").iterdir())}
    assert {one.state for one in found.values()} == {"done"}
    assert max(len(one.resumed) for one in found.values()) >= 1
    assert not checkpoints()
