"""One sweep over different hardware on a real Slurm: each cell on a node of its own kind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fourfold import record

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
# The emulated nodes have 4 CPUs and 4000 MiB, the machine beneath them less.
SMALL = ["hardware.stand_in=true", "hardware.launcher.mem_gb=1.8", "hardware.launcher.cpus_per_task=1"]
SHORT = ["until.steps=5", "scale=smoke", "tracking=off"]
STAND_IN = """
import os, signal, sys, time
from fourfold.launch.main import main
from fourfold.launch.ending import blank_record

def run(cell, folder, overrides):
    seed = cell["seed"]
    if seed == 1001:
        os._exit(3)
    if seed == 1002:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 1004:
        (folder / "started").touch()
        time.sleep(600)
    found = blank_record(cell, folder.name, overrides)
    names = ("SLURM_JOB_ID", "SLURMD_NODENAME", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_NUM_NODES")
    found.environment = {"job": {name: os.environ.get(name) for name in names}}
    found.state, found.ended = "done", time.time()
    if os.environ["SLURM_PROCID"] == "0":
        found.write(folder)
    return found

if __name__ == "__main__":
    main(run)
"""


def launch(output: Path, words: list[str], script: Path = ROOT / "run.py") -> "subprocess.Popen[str]":
    environment = {**os.environ, "FOURFOLD_OUTPUT": str(output), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), "-m", "hydra/launcher=submitit_slurm", *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=output.parent
    )
    LAUNCHERS.append(process)
    return process


LAUNCHERS: list["subprocess.Popen[str]"] = []


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """A launcher does not outlive its test: it cancels its jobs."""
    yield
    while LAUNCHERS:
        process = LAUNCHERS.pop()
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=120)


def finish(process: "subprocess.Popen[str]", status: int, seconds: float = 500) -> str:
    printed, _ = process.communicate(timeout=seconds)
    assert process.returncode == status, printed
    return printed


def records(output: Path) -> list[record.Record]:
    return [record.read(folder) for folder in sorted((output / "cells").iterdir())]


def sacct(field: str) -> dict[str, str]:
    """A field of every job and array element in the accounting database."""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", f"--format=JobID,{field}"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(line.split("|", 1) for line in lines)  # type: ignore[misc]


def manifest(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(next((output / "sweeps").glob("*/sweep.json")).read_text())
    return content


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A program like run.py whose experiment costs nothing."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    return tmp_path / "stand_in.py"


def test_each_cell_runs_on_a_node_of_its_own_kind(slurm: Path, output: Path) -> None:
    """The real experiment, two kinds of hardware, one sweep."""
    words = ["benchmark=digits", "method=finetune,replay", "setting=class_incremental", "hardware=a100,mi300"]
    finish(launch(output, [*words, *SMALL, *SHORT]), 0)
    found = records(output)
    assert len(found) == 4
    where = sacct("NodeList")
    jobs = {cell["cell"]: cell["job"] for cell in manifest(output)["cells"]}
    for one in found:
        kind = {"a100": "a100", "mi300": "mi300x"}[one.axes["hardware"]]
        assert (one.state, one.evidence) == ("done", "simulated")
        assert one.environment["job"]["SLURMD_NODENAME"].rpartition("-")[0] == kind
        assert where[jobs[one.cell]].rpartition("-")[0] == kind
    assert len({job.partition("_")[0] for job in jobs.values()}) == 2, "one array for each kind of request"


def test_dead_cells_and_refused_requests_take_no_others_with_them(slurm: Path, output: Path, script: Path) -> None:
    process = launch(output, ["hardware=a100,h100", "seed=0,1001,1002,1003", *SMALL, *SHORT], script)
    printed = finish(process, 1)
    states = {(one.axes["hardware"], one.axes["seed"]): (one.state, one.reason) for one in records(output)}
    assert states[("a100", 0)][0] == states[("a100", 1003)][0] == "done"
    assert states[("a100", 1001)] == ("failed", "bug")
    assert states[("a100", 1002)] == ("failed", "lost node")
    assert {states[("h100", seed)][0] for seed in (0, 1001, 1002, 1003)} == {"unavailable"}
    assert "gpu:h100:1" in printed
    assert "Traceback" not in printed


def test_a_job_that_is_cancelled_from_outside_is_noticed(slurm: Path, output: Path, script: Path) -> None:
    process = launch(output, ["hardware=mi300", "seed=1004,0", *SMALL, *SHORT], script)
    wait_for(lambda: list(output.glob("cells/*seed1004*/started")))
    job = next(cell["job"] for cell in wait_for(lambda: _submitted(output)) if "1004" in cell["cell"])
    subprocess.run(["scancel", job], check=True)
    finish(process, 1)
    states = {one.axes["seed"]: (one.state, one.reason) for one in records(output)}
    assert states == {1004: ("failed", "lost node"), 0: ("done", None)}


def test_control_c_cancels_its_own_jobs_only(slurm: Path, output: Path, script: Path) -> None:
    other = subprocess.run(
        ["sbatch", "--parsable", "--mem=100", "--output=/dev/null", "--wrap", "sleep 300"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    try:
        process = launch(output, ["hardware=a100", "seed=1004,0", *SMALL, *SHORT], script)
        wait_for(lambda: list(output.glob("cells/*seed1004*/started")))
        wait_for(lambda: any(cell["state"] == "done" for cell in _submitted(output)))
        process.send_signal(signal.SIGINT)
        finish(process, 130)
        assert {one.axes["seed"]: one.state for one in records(output)} == {1004: "interrupted", 0: "done"}
        left = subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True, check=True).stdout.split()
        assert left == [other]
    finally:
        subprocess.run(["scancel", other], check=True)


def test_ranks_of_one_cell(slurm: Path, output: Path, script: Path) -> None:
    """devices x nodes tasks for one cell, one record."""
    finish(launch(output, ["hardware=a100", "hardware.devices=2", "hardware.nodes=2", *SMALL, *SHORT], script), 0)
    (found,) = records(output)
    assert found.environment["job"]["SLURM_NTASKS"] == "4"
    assert found.environment["job"]["SLURM_JOB_NUM_NODES"] == "2"


def _submitted(output: Path) -> list[dict[str, Any]]:
    if not list((output / "sweeps").glob("*/sweep.json")):
        return []
    cells = manifest(output)["cells"]
    return cells if all(cell["job"] for cell in cells) else []


def slurm_id(output: Path) -> str:
    """The Slurm job of a sweep's only cell."""
    (cell,) = wait_for(lambda: _submitted(output))
    return str(cell["job"])


def wait_for(found: Any, seconds: float = 300) -> Any:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return value
