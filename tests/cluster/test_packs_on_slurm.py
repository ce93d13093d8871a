"""Short cells that share an allocation: each has its own crash, record and log; when the node is taken, they go on."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_slurm import SHORT, SMALL, finish, launch, manifest, nothing_left_behind, output, records, sacct, wait_for

from fourfold.cli import sweeps
from fourfold.launch.scheduler import job_states

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
__all__ = ["nothing_left_behind", "output"]

HOLD, CRASH = 1004, 1001
# A cell that holds on does so the first time that its allocation runs; each notes when it is run, and says so.
SCRIPT = f"""
import os, time
from fourfold.launch.ending import blank_record
from fourfold.launch.main import main

def run(cell, folder, overrides):
    times = os.environ.get("SLURM_RESTART_COUNT", "0")
    with (folder / "runs").open("a") as runs:
        runs.write(times + chr(10))
    print("this is", folder.name, flush=True)
    if cell["seed"] == {CRASH}:
        os._exit(3)
    if cell["seed"] >= {HOLD} and times == "0":
        (folder / "started").touch()
        time.sleep(600)
    found = blank_record(cell, folder.name, overrides)
    found.environment = {{"process": os.getpid(), "job": os.environ["SLURM_JOB_ID"]}}
    found.state, found.ended = "done", time.time()
    found.write(folder)
    return found

if __name__ == "__main__":
    main(run)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "packed.py").write_text(SCRIPT)
    return tmp_path / "packed.py"


def held(output: Path) -> Callable[[], bool]:
    return lambda: any(output.glob(f"cells/*seed{HOLD}*/started"))


def notice(job: str) -> None:
    subprocess.run(["scancel", "--signal=USR2", job], check=True)


def fail_its_node(job: str) -> None:
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%N"]
    node = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"], check=True)


@pytest.mark.parametrize("blow", [notice, pytest.param(fail_its_node, marks=pytest.mark.slow)])
def test_an_allocation_that_is_taken_away_goes_on_where_it_was(
    blow: Callable[[str], None], slurm: Path, output: Path, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = f"seed=0,{CRASH},1,{HOLD},2,3"
    words = ["hardware=a100", seeds, "hydra.launcher.cells_per_job=6", *SMALL, *SHORT]
    process = launch(output, [*words, "hardware.launcher.timeout_min=7"], script)
    wait_for(held(output))
    (job,) = {cell["job"].partition(".")[0] for cell in manifest(output)["cells"]}
    blow(job)
    finish(process, 1)
    runs = {path.parent.name: path.read_text().split() for path in output.glob("cells/*/runs")}
    of = {one.axes["seed"]: (one.state, one.reason, runs[one.cell]) for one in records(output)}
    assert of == {
        0: ("done", None, ["0"]),
        CRASH: ("failed", "bug", ["0"]),
        1: ("done", None, ["0"]),
        HOLD: ("done", None, ["0", "1"]),
        2: ("done", None, ["1"]),
        3: ("done", None, ["1"]),
    }
    processes = {one.environment["process"] for one in records(output) if one.state == "done"}
    assert len(processes) == 5, "a process each"
    assert {cell["job"] for cell in manifest(output)["cells"]} == {f"{job}.{number}" for number in range(6)}
    assert sacct("TimelimitRaw")[job] == str(6 * 7)
    sweeps.logs(output, f"seed{CRASH}", follow=False)
    assert f"this is digits-a100-traditional-finetune-seed{CRASH}" in capsys.readouterr().out


@pytest.mark.slow
def test_several_ranks_get_an_allocation_each(slurm: Path, output: Path, script: Path) -> None:
    words = ["hardware=a100", "hardware.devices=2", "seed=0,1", "hydra.launcher.cells_per_job=2", *SMALL, *SHORT]
    finish(launch(output, words, script), 0)
    assert len({one.environment["job"] for one in records(output)}) == 2


def test_cancelling_one_cell_of_an_allocation_leaves_the_others(slurm: Path, output: Path, script: Path) -> None:
    """The running one, and one that waits for its turn."""
    words = ["hardware=a100", f"seed={HOLD},{HOLD + 1},2", "hydra.launcher.cells_per_job=3", *SMALL, *SHORT]
    process = launch(output, words, script)
    wait_for(held(output))
    assert sweeps.cancel(output, f"seed{HOLD + 1}") == 0
    assert sweeps.cancel(output, f"seed{HOLD}-") == 0
    finish(process, 130)
    of = {one.axes["seed"]: (one.state, one.message) for one in records(output)}
    assert of[2] == ("done", None)
    assert of[HOLD][0] == "interrupted"
    assert of[HOLD + 1] == ("interrupted", "cancelled by the user")
    assert not any(output.glob(f"cells/*seed{HOLD + 1}-*/runs"))


@pytest.mark.slow
def test_a_sweep_without_its_launcher_is_cancelled(slurm: Path, output: Path, script: Path) -> None:
    """Two allocations of two cells, one at a time: the running one ends its cells, the other never begins."""
    seeds = f"seed={HOLD},{HOLD + 1},{HOLD + 2},{HOLD + 3}"
    parallel = ["hydra.launcher.cells_per_job=2", "hydra.launcher.array_parallelism=1"]
    process = launch(output, ["hardware=a100", seeds, *parallel, *SMALL, *SHORT], script)
    wait_for(held(output))
    wait_for(lambda: all(cell["job"] for cell in manifest(output)["cells"]))
    process.kill()
    process.wait()
    jobs = {cell["job"].partition(".")[0] for cell in manifest(output)["cells"]}
    assert len(jobs) == 2
    assert sweeps.cancel(output, manifest(output)["id"]) == 0
    wait_for(lambda: {"PENDING", "RUNNING"}.isdisjoint(_states(jobs)))
    begun = {path.parent.name.rpartition("-")[0][-4:] for path in output.glob("cells/*/runs")}
    assert begun == {str(HOLD)}


def _states(jobs: set[str]) -> set[Any]:
    found = job_states(jobs) or {}
    return {found.get(job) for job in jobs}
