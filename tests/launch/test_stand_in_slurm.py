"""Sweeps through the Slurm launcher on commands that stand in for Slurm's (tests/cluster has the real ones)."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import standing_in_slurm
from standing_in import EXIT, HOLD

from fourfold import record

WORDS = ["-m", "hydra/launcher=submitit_slurm", "hardware=a100", "hardware.stand_in=true"]
Shell = Callable[..., int]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands, known = tmp_path / "bin", tmp_path / "known"
    commands.mkdir()
    known.mkdir()
    for name in standing_in_slurm.COMMANDS:
        line = f'exec {sys.executable} {standing_in_slurm.__file__} {name} "$@"'
        (commands / name).write_text(f"#!/bin/sh\n{line}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(known))


@pytest.fixture
def then(output: Path) -> Callable[..., threading.Thread]:
    """Runs a command of Slurm's once the cell that holds on has begun."""

    def wait_and_run(*command: str) -> threading.Thread:
        def act() -> None:
            end = time.monotonic() + 60
            while not list(output.glob(f"cells/*seed{HOLD}*/started")) and time.monotonic() < end:
                time.sleep(0.05)
            subprocess.run(command, check=True)

        thread = threading.Thread(target=act)
        thread.start()
        return thread

    return wait_and_run


def states(output: Path) -> dict[int, tuple[str, str | None, list[str]]]:
    """(state, reason, after how many restarts it was run) of each cell, by seed."""
    found = {}
    for folder in (output / "cells").iterdir():
        one = record.read(folder)
        runs = (folder / "runs").read_text().split() if (folder / "runs").exists() else []
        found[one.axes["seed"]] = (one.state, one.reason, runs)
    return found


def jobs(output: Path) -> list[str]:
    latest = max((output / "sweeps").glob("*/sweep.json"))
    return [cell["job"] for cell in json.loads(latest.read_text())["cells"]]


def test_one_array_a_request_and_what_is_not_offered(slurm: None, output: Path, shell: Shell, capsys: Any) -> None:
    assert shell(*WORDS[:2], "hardware=a100,h100", WORDS[3], f"seed=0,{EXIT}") == 1
    found = {(one.axes["hardware"], one.axes["seed"]): one for one in map(record.read, (output / "cells").iterdir())}
    assert found["a100", 0].state == "done"
    assert (found["a100", EXIT].state, found["a100", EXIT].reason) == ("failed", "bug")
    assert {found["h100", seed].state for seed in (0, EXIT)} == {"unavailable"}
    offered = "hardware.launcher.gres=gpu:h100:1: no partition offers that; there is gpu:2, gpu:a100:2"
    assert {found["h100", seed].message for seed in (0, EXIT)} == {offered}
    assert sorted(jobs(output), key=str) == ["1_0", "1_1", None, None]
    assert "Traceback" not in capsys.readouterr().out


def test_a_controller_that_does_not_answer_is_no_fault_of_the_request(
    slurm: None, output: Path, shell: Shell, tmp_path: Path
) -> None:
    """In the words of Slurm 22.05 and later, where neither controller nor configuration is found."""
    said = ["Unable to contact slurm controller (connect failure)"]
    said = [*said * 3, f"Batch job submission failed: {said[0]}"]
    lines = "".join(f"echo 'sbatch: error: {line}' >&2\n" for line in said)
    (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/sh\n{lines}exit 1\n")
    (tmp_path / "bin" / "sinfo").write_text("#!/bin/sh\nexit 1\n")
    assert shell(*WORDS, "seed=0") == 1
    (one,) = map(record.read, (output / "cells").iterdir())
    assert (one.state, one.message) == (
        "unavailable",
        "Slurm's controller does not answer (Batch job submission failed: Unable to contact slurm controller (connect "
        "failure)); `scontrol ping` tells whether it is up, and rerun=missing then runs what was not run",
    )


def test_what_slurm_refuses_is_told_once(slurm: None, output: Path, shell: Shell, tmp_path: Path) -> None:
    line = "sbatch: error: Batch job submission failed: Invalid account"
    (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/sh\necho '{line}' >&2\necho '{line}' >&2\nexit 1\n")
    assert shell(*WORDS, "seed=0") == 1
    (one,) = map(record.read, (output / "cells").iterdir())
    assert one.message is not None
    assert one.message.startswith(
        "Slurm does not take this request (gres=gpu:a100:1, nodes=1, mem_gb=16): Batch job sub"
    )
    assert one.message.count("Invalid account") == 1
    assert "there is partition=main" in one.message


def test_an_allocation_that_gets_notice_goes_on_where_it_was(
    slurm: None, output: Path, shell: Shell, then: Callable[..., threading.Thread]
) -> None:
    """Only its first process hears it."""
    act = then("scancel", "--signal=USR2", "1")
    assert shell(*WORDS, f"seed=0,{EXIT},{HOLD},1", "hydra.launcher.cells_per_job=4") == 1
    act.join()
    assert states(output) == {
        0: ("done", None, ["0"]),
        EXIT: ("failed", "bug", ["0"]),
        HOLD: ("done", None, ["0", "1"]),
        1: ("done", None, ["1"]),
    }
    assert jobs(output) == ["1.0", "1.1", "1.2", "1.3"]


def test_an_allocation_that_is_lost_leaves_the_rest_to_the_next_time(
    slurm: None, output: Path, shell: Shell, then: Callable[..., threading.Thread]
) -> None:
    act = then("scancel", "1")
    assert shell(*WORDS, f"seed=0,{HOLD},1", "hydra.launcher.cells_per_job=3") == 1
    act.join()
    found = states(output)
    assert found[0][:2] == ("done", None)
    assert found[HOLD][:2] == found[1][:2] == ("failed", "lost node")
    assert found[1][2] == []
