"""Jobs of higher priority, and time limits shorter than the cell: it is queued again, goes on, and ends as it would."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_queued_again import STEPS, WORDS, same_as_undisturbed, started, the_only
from test_slurm import SHORT, SMALL, finish, launch, nothing_left_behind, output, sacct, slurm_id, wait_for

from fourfold.launch.scheduler import job_states

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
__all__ = ["nothing_left_behind", "output"]

# The first time it hears nothing and does nothing; queued again, it says how often it was.
DEAF = """
import os, signal, time
from fourfold.launch.ending import blank_record
from fourfold.launch.main import main

def run(cell, folder, overrides):
    found = blank_record(cell, folder.name, overrides)
    times = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if times == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM})
        (folder / "started").touch()
        time.sleep(600)
    found.environment, found.state, found.ended = {"restarts": times}, "done", time.time()
    found.write(folder)
    return found

if __name__ == "__main__":
    main(run)
"""


@pytest.fixture
def preempt(slurm: Path) -> Iterator[Callable[[], str]]:
    """Gives both nodes of kind a100 to a job of higher priority, for a few seconds."""
    jobs: list[str] = []

    def submit() -> str:
        command = ["sbatch", "--parsable", "--partition=a100", "--nodes=2", "--exclusive", "--mem=0"]
        command += ["--output=/dev/null", "--wrap", "sleep 3"]
        jobs.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        return jobs[-1]

    yield submit
    if jobs:
        subprocess.run(["scancel", *jobs], check=True)


def on(partition: str) -> list[str]:
    return [*SMALL, "hardware=a100", f"hardware.launcher.partition={partition}"]


def test_a_job_of_higher_priority(preempt: Callable[[], str], output: Path, undisturbed: Callable[..., Any]) -> None:
    process = launch(output, [*WORDS, *STEPS, *on("preemptible")])
    wait_for(started(output))
    preempt()
    wait_for(lambda: any("queued again (1 of 3)" in path.read_text() for path in output.glob("cells/*/record.json")))
    finish(process, 0)
    found = the_only(output)
    assert found.state == "done"
    assert [one["steps"] > 0 for one in found.resumed] == [True]
    assert same_as_undisturbed(found, undisturbed)


@pytest.mark.parametrize("partition", [pytest.param("preemptible", marks=pytest.mark.slow), "scavenge"])
def test_a_cell_that_does_not_hear_the_notice(
    partition: str, preempt: Callable[[], str], output: Path, tmp_path: Path
) -> None:
    """Its grace runs out; Slurm queues the job again, or, where it cancels what it preempts, the launcher does."""
    script = tmp_path / "deaf.py"
    script.write_text(DEAF)
    process = launch(output, [*SHORT, *on(partition)], script)
    wait_for(lambda: list(output.glob("cells/*/started")))
    high = preempt()
    finish(process, 0)
    assert the_only(output).environment["restarts"] == 1
    assert sacct("State")[high] == "COMPLETED"


def test_a_notice_that_comes_while_the_cell_starts(preempt: Callable[[], str], output: Path) -> None:
    process = launch(output, [*WORDS, "until.steps=100", *on("preemptible")])
    job = slurm_id(output)
    wait_for(lambda: (job_states([job]) or {}).get(job) == "RUNNING")
    preempt()
    wait_for(lambda: (job_states([job]) or {}).get(job) == "PENDING")
    finish(process, 0)
    assert the_only(output).state == "done"


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_a_time_limit_shorter_than_the_cell(slurm: Path, output: Path, undisturbed: Callable[..., Any]) -> None:
    """Slurm counts limits in minutes, and looks at them twice a minute."""
    steps = ["until.steps=16000", "checkpoint.steps=2000", "max_requeue=20"]
    limit = ["hardware.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=15"]
    finish(launch(output, [*WORDS, *steps, *on("main"), *limit]), 0, seconds=1500)
    found = the_only(output)
    assert found.state == "done"
    assert len(found.resumed) >= 1
    assert "TIMEOUT" not in sacct("State").values()
    assert same_as_undisturbed(found, undisturbed, *steps)
