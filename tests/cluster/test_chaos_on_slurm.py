"""A sweep on Slurm that everything happens to ends as one to which nothing did: each cell once, records and MLflow."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from test_slurm import SHORT, SMALL, finish, launch, nothing_left_behind, output, records, wait_for

from chaos import Server, check_mlflow, done, results, server, small_disk, start
from fourfold.launch import leases

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(2400)]
__all__ = ["nothing_left_behind", "output", "server", "small_disk"]

CELLS = 60
SWEEP = [
    *("-m", "benchmark=digits", "hardware=a100,mi300", *SMALL, "setting=class_incremental", "method=finetune,replay"),
    *("seed=range(15)", "until.steps=1200", "checkpoint.steps=50", "rerun=missing", "max_requeue=20"),
]
# Every allocation imports torch anew (some 7 CPU seconds), so cells share them by threes.
ON_SLURM = [
    *("hydra/launcher=submitit_slurm", "hydra.launcher.cells_per_job=3"),
    "hardware.launcher.partition=preemptible",
]
REPEATS = 3
PATIENCE = 300.0  # seconds
COUNTING = """
import os, time
from fourfold.launch.ending import blank_record
from fourfold.launch.main import main

def run(cell, folder, overrides):
    with (folder / "runs").open("a") as runs:
        runs.write(os.environ["SLURM_JOB_ID"] + chr(10))
    time.sleep(2)
    found = blank_record(cell, folder.name, overrides)
    found.state, found.ended = "done", time.time()
    found.write(folder)
    return found

if __name__ == "__main__":
    main(run)
"""


def ask(*command: str, timeout: float = 20) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout).stdout


def learning(output: Path) -> dict[str, leases.Holder]:
    """Who runs the cells that have written a checkpoint, and so are past their imports, by job."""
    holders = [leases.holder(path.parent) for path in output.glob("cells/*/checkpoint.pt")]
    return {holder.job: holder for holder in holders if holder is not None and holder.job}


def set_node(name: str, *words: str) -> None:
    ask("scontrol", "update", f"nodename={name}", *words)


def resume_all() -> None:
    """Nodes that are down come back; the others refuse, which is well."""
    for name in set(ask("sinfo", "--noheader", "--Node", "--states=down", "--format=%N").split()):
        set_node(name, "state=resume")


@pytest.fixture
def cluster(slurm: Path) -> Iterator[Path]:
    """The cluster with all of its nodes, before and after; what a killed launcher left in the queue is taken away."""
    resume_all()
    yield slurm
    resume_all()
    left = ask("squeue", "--noheader", "--format=%F").split()
    if left:
        ask("scancel", *set(left))


Blow = Callable[[leases.Holder], None]


def cancel(holder: leases.Holder) -> None:
    ask("scancel", str(holder.job))


def kill(holder: leases.Holder) -> None:
    os.kill(holder.pid, signal.SIGKILL)


def notice(holder: leases.Holder) -> None:
    """What Slurm sends before it takes the node; scancel tries again and again if the cell requeues its job at once."""
    with suppress(subprocess.TimeoutExpired):
        ask("scancel", "--signal=USR2", str(holder.job), timeout=4)


def requeue(holder: leases.Holder) -> None:
    """A preemption without notice."""
    ask("scontrol", "requeue", str(holder.job))


def fail_its_node(holder: leases.Holder) -> None:
    node = ask("squeue", "--noheader", f"--jobs={holder.job}", "--format=%N").strip()
    set_node(node, "state=down", "reason=chaos")


def preempt(holder: leases.Holder) -> None:
    """A job of higher priority that needs the node for itself."""
    node = ask("squeue", "--noheader", f"--jobs={holder.job}", "--format=%N").strip()
    wanted = ["--partition=main", f"--nodelist={node}", "--exclusive", "--mem=0", "--output=/dev/null"]
    ask("sbatch", *wanted, "--wrap", "sleep 3")


def strike(output: Path, luck: random.Random, struck: set[int], blow: Blow) -> None:
    """Strikes one of the cells that learn, each process once; another one if that has just ended."""
    for _ in range(10):
        alive = wait_for(lambda: [one for one in learning(output).values() if one.pid not in struck], PATIENCE)
        holder = luck.choice(sorted(alive, key=str))
        struck.add(holder.pid)
        try:
            return blow(holder)
        except (subprocess.SubprocessError, ProcessLookupError):
            continue
    raise AssertionError(f"{blow.__name__} never met a cell")


def wait_for_more(output: Path, cells: int) -> None:
    """Until so many more cells are done."""
    goal = min(done(output) + cells, CELLS)
    wait_for(lambda: done(output) >= goal, PATIENCE)


def fill(folder: Path) -> None:
    """Leaves no byte free."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


BLOWS: list[list[Blow]] = [
    [kill, preempt, cancel, fail_its_node, notice, kill],
    [requeue, kill, preempt, cancel],
]


def test_a_sweep_on_slurm_survives(cluster: Path, tmp_path: Path, server: Server, small_disk: Path) -> None:
    """Cells killed, jobs cancelled and preempted, nodes, launcher, tracking server and its disk lost.

    The same command again, at most three times.
    """
    calm, wild, luck = tmp_path / "calm", tmp_path / "wild", random.Random(4)
    assert start(calm, [*SWEEP, "slots=2", "tracking=off"]).wait(timeout=1200) == 0
    expected = results(calm)
    assert len(expected) == CELLS

    server.folder = small_disk
    server.start()
    fill(small_disk)
    struck: set[int] = set()
    for number in range(1 + REPEATS):
        launcher = start(wild, [*SWEEP, *ON_SLURM, *server.words])
        try:
            for blow in BLOWS[number] if number < len(BLOWS) else ():
                time.sleep(luck.uniform(0.5, 2))
                strike(wild, luck, struck, blow)
            if number == 0:
                wait_for_more(wild, 2)
                assert done(wild) < CELLS
                launcher.kill()
                (small_disk / "filler").unlink()
                subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
            if number == 1:
                server.kill()
                wait_for_more(wild, 3)
                server.start()
            resume_all()
            status = launcher.wait(timeout=1200)
        finally:
            launcher.kill()
        if status == 0:
            break
    assert status == 0, (tmp_path / "printed").read_text()[-3000:]
    assert results(wild) == expected
    assert any(one.resumed for one in records(wild)), "no cell went on from a checkpoint"
    check_mlflow(wild, f"http://127.0.0.1:{server.port}", server.words, CELLS)


def test_two_launches_at_once_run_no_cell_twice(cluster: Path, output: Path, tmp_path: Path) -> None:
    script = tmp_path / "counting.py"
    script.write_text(COUNTING)
    words = ["hardware=a100,mi300", "seed=range(8)", "rerun=missing", *SMALL, *SHORT]
    for process in [launch(output, words, script) for _ in range(2)]:
        finish(process, 0)
    runs = {path.parent.name: path.read_text().split() for path in output.glob("cells/*/runs")}
    assert len(runs) == 16
    assert all(len(jobs) == 1 for jobs in runs.values()), runs
    assert done(output) == 16
    manifests = [json.loads(path.read_text()) for path in output.glob("sweeps/*/sweep.json")]
    submitted = [cell["job"] for sweep in manifests for cell in sweep["cells"]]
    assert len({job for job in submitted if job}) > 16, "the two launches did not overlap"
