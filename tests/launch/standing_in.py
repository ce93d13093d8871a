"""An experiment that costs nothing: it does what its seed says, here or in a process of its own, without torch."""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle

from fourfold import pulse
from fourfold.launch.ending import blank_record
from fourfold.record import Record

EXIT, KILL, RAISE, SLEEP, DEAF, SLOW, BEAT, FILL, HOLD = 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009


def stand_in(cell: dict[str, Any], folder: Path, overrides: list[str]) -> Record:
    """Writes a record, unless the cell's seed is one of those above."""
    seed = cell["seed"]
    times = os.environ.get("SLURM_RESTART_COUNT", "0")
    if "SLURM_JOB_ID" in os.environ:
        with (folder / "runs").open("a") as runs:
            runs.write(f"{times}\n")
    if seed == HOLD and times == "0":
        (folder / "started").touch()
        time.sleep(600)
    if seed == EXIT:
        os.write(2, b"the last words\n")
        os._exit(3)
    if seed == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == RAISE:
        raise ValueError("something broke")
    if seed == DEAF:
        for number in (signal.SIGALRM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    record = blank_record(cell, folder.name, overrides)
    record.environment = {"process": os.getpid(), "learning_rate": cell["optimizer"]["learning_rate"]}
    if seed in (SLEEP, DEAF):
        (folder / "started").touch()
        time.sleep(600)
    if seed == BEAT:
        beat(folder)
    if seed == FILL:
        fill(folder)
    if seed == SLOW:
        time.sleep(0.5)
    record.state, record.ended = "done", time.time()
    record.write(folder)
    return record


def beat(folder: Path) -> None:
    """A hundred steps a second, until somebody has seen that."""
    pulse.EVERY, begun = 0.1, time.monotonic()

    def count() -> tuple[int, float]:
        steps = int(100 * (time.monotonic() - begun))
        return steps, 32.0 * steps

    until = SimpleNamespace(rule={"seconds": None}, last=100_000, share=1.0)
    with pulse.Pulse(folder, count, "images", until):
        while not (folder / "seen").exists() and time.monotonic() - begun < 60:
            time.sleep(0.05)


def fill(folder: Path) -> None:
    """Leaves no room on the disk."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


cloudpickle.register_pickle_by_value(sys.modules[__name__])
