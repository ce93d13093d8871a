"""`status`, `logs` and `cancel` on cells that wait for Slurm, run on its nodes, or have ended there."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_slurm import (
    SHORT,
    SMALL,
    finish,
    launch,
    manifest,
    nothing_left_behind,
    output,
    records,
    script,
    wait_for,
)  # fmt: skip

from fourfold.cli import sweeps
from fourfold.launch.scheduler import job_states
from fourfold.launch.snapshot import of_sweep

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
__all__ = ["nothing_left_behind", "output", "script"]

# One element of the array at a time: one cell is done, one holds on, two wait in the queue.
WORDS = ["hardware=a100", "seed=0,1004,1,2", "hydra.launcher.array_parallelism=1", *SMALL, *SHORT]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def foreign(slurm: Path) -> Iterator[str]:
    """A job of somebody else."""
    command = ["sbatch", "--parsable", "--mem=100", "--output=/dev/null", "--wrap", "sleep 300"]
    job = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    yield job
    assert (job_states([job]) or {}).get(job) == "RUNNING", "a job of others was touched"
    subprocess.run(["scancel", job], check=True)


def hold(output: Path, script: Path) -> "subprocess.Popen[str]":
    process = launch(output, WORDS, script)
    wait_for(lambda: list(output.glob("cells/*seed1004*/started")))
    wait_for(lambda: [cell["state"] for cell in manifest(output)["cells"]].count("done") == 1)
    return process


def test_pending_running_and_ended_cells(foreign: str, output: Path, script: Path, capsys: Captured) -> None:
    process = hold(output, script)
    found = of_sweep(output, None)
    assert found.counts == {"done": 1, "running": 1, "queued": 2}
    assert found.running[0].holder.host.startswith("a100-")
    assert sweeps.status(output, None, follow=False) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("1 done", "1 running", "2 queued", "a100-"))

    (running,) = (cell for cell in manifest(output)["cells"] if "1004" in cell["cell"])
    sweeps.logs(output, "seed1004", follow=False)
    assert f"{running['job']}_0_log.out" in capsys.readouterr().out
    sweeps.logs(output, "seed2-", follow=False)
    assert "no log yet" in capsys.readouterr().out

    assert sweeps.cancel(output, "seed2-") == 0
    assert sweeps.cancel(output, "seed1004") == 0
    finish(process, 130)
    assert {one.axes["seed"]: one.state for one in records(output)} == {
        0: "done", 1004: "interrupted", 1: "done", 2: "interrupted",
    }  # fmt: skip
    assert of_sweep(output, None).counts == {"done": 2, "interrupted": 2}


@pytest.mark.parametrize("alive", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_whole_sweep_is_cancelled(alive: bool, foreign: str, output: Path, script: Path) -> None:
    """By its launcher, or, where that was killed, at Slurm itself."""
    process = hold(output, script)
    jobs = [cell["job"] for cell in manifest(output)["cells"]]
    if not alive:
        process.kill()
        process.wait()
    assert sweeps.cancel(output, manifest(output)["id"]) == 0
    if alive:
        finish(process, 130)
        assert [one.state for one in records(output)].count("interrupted") == 3
    wait_for(lambda: not {"PENDING", "RUNNING"} & {(job_states(jobs) or {}).get(job) for job in jobs})
    found = of_sweep(output, None)
    assert (found.ended is not None, found.counts["done"]) == (True, 1)


def test_a_job_that_is_queued_again_after_its_cell_is_done_is_withdrawn(
    foreign: str, output: Path, script: Path
) -> None:
    process = hold(output, script)
    (done,) = (cell["job"] for cell in manifest(output)["cells"] if cell["state"] == "done")
    subprocess.run(["scontrol", "requeue", done], check=True)
    assert (job_states([done]) or {})[done] in ("PENDING", "COMPLETING")
    wait_for(lambda: (job_states([done]) or {})[done].startswith("CANCELLED"))
    process.terminate()
    finish(process, 130)
