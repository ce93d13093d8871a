"""Cells that Slurm takes the node from: they are queued again, go on, and give the result of an undisturbed cell."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_slurm import SMALL, finish, launch, nothing_left_behind, output, records, sacct, slurm_id, wait_for

from fourfold import record
from fourfold.launch.scheduler import job_states

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
__all__ = ["nothing_left_behind", "output"]

WORDS = ["benchmark=digits", "setting=class_incremental", "method=replay", "scale=smoke", "tracking=off"]
STEPS = ["until.steps=12000", "checkpoint.steps=300"]  # long enough to be disturbed on a quick machine, too


def started(output: Path) -> Callable[[], bool]:
    return lambda: any(output.glob("cells/*/checkpoint.pt"))


def the_only(output: Path) -> record.Record:
    (found,) = records(output)
    return found


def same_as_undisturbed(found: record.Record, undisturbed: Callable[..., Any], *steps: str) -> bool:
    """Whether the cell has the accuracies of one that ran through, on the same device."""
    alone = undisturbed(*WORDS, *(steps or STEPS), *SMALL, "hardware=a100")
    return bool(alone.evaluations == found.evaluations)


def test_a_preempted_cell_is_queued_again_and_goes_on(
    slurm: Path, output: Path, undisturbed: Callable[..., Any]
) -> None:
    """Slurm's notice (USR2), by hand."""
    words = [*WORDS, *STEPS, *SMALL, "hardware=a100", "hardware.launcher.partition=preemptible"]
    process = launch(output, words)
    wait_for(started(output))
    job = slurm_id(output)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    wait_for(lambda: any("queued again (1 of 3)" in path.read_text() for path in output.glob("cells/*/record.json")))
    for state in ("PENDING", "RUNNING"):
        wait_for(lambda state=state: (job_states([job.partition("_")[0]]) or {}).get(job) == state)
    finish(process, 0)
    found = the_only(output)
    assert (found.state, found.axes["hardware"]) == ("done", "a100")
    assert len(found.resumed) >= 1
    assert found.resumed[0]["steps"] > 0
    assert same_as_undisturbed(found, undisturbed)


def test_a_cell_whose_node_fails_goes_on_elsewhere(slurm: Path, output: Path, undisturbed: Callable[..., Any]) -> None:
    process = launch(output, [*WORDS, *STEPS, *SMALL, "hardware=a100"])
    wait_for(started(output))
    node = sacct("NodeList")[slurm_id(output)]
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"], check=True)
    finish(process, 0)
    found = the_only(output)
    assert found.state == "done"
    assert len(found.resumed) == 1
    assert same_as_undisturbed(found, undisturbed)


def test_a_cell_is_queued_again_so_often_and_no_more(slurm: Path, output: Path) -> None:
    process = launch(output, [*WORDS, *STEPS, "max_requeue=0", *SMALL, "hardware=a100"])
    wait_for(started(output))
    subprocess.run(["scancel", "--signal=USR2", slurm_id(output)], check=True)
    printed = finish(process, 130)
    found = the_only(output)
    assert found.state == "interrupted"
    assert "not queued again, after max_requeue=0 times" in str(found.message)
    assert "rerun=missing" in printed
    finish(launch(output, [*WORDS, *STEPS, "rerun=missing", *SMALL, "hardware=a100"]), 0)
    assert len(the_only(output).resumed) == 1
