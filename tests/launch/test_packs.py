"""Cells that share an allocation: which, for how long, and what becomes of one of them."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fourfold.errors import Refused
from fourfold.launch import arrays, cancelling, packs, slurm, snapshot
from fourfold.launch.ending import Ending, died
from fourfold.launch.jobs import Job

OURS: Any = SimpleNamespace(folder=Path("cells/x"))


@pytest.mark.parametrize(
    ("cells", "many", "sizes"),
    [(10, 1, [1] * 10), (10, 4, [3, 3, 4]), (8, 4, [4, 4]), (3, 8, [3]), (1, 5, [1]), (200, 64, [50] * 4)],
)
def test_neighbours_share_evenly(cells: int, many: int, sizes: list[int]) -> None:
    group = [Job(frozen=number) for number in range(cells)]
    found = arrays.packed(group, many)
    assert [len(pack) for pack in found] == sizes
    assert [job for pack in found for job in pack] == group


@pytest.mark.parametrize(
    ("request_", "longest", "many"),
    [
        ({"timeout_min": 10}, None, 8),
        ({"timeout_min": 10}, 45, 4),  # minutes that the partition allows
        ({"timeout_min": 10}, 5, 1),
        ({"timeout_min": 10, "tasks_per_node": 2}, None, 1),
        ({"timeout_min": 10, "nodes": 2}, None, 1),
    ],
)
def test_how_many_share_an_allocation(request_: dict[str, Any], longest: float | None, many: int) -> None:
    job = Job(OURS, request=request_)
    assert arrays.cells_together(job, {"cells_per_job": 8}, longest) == many


def test_another_programs_jobs_are_not_packed() -> None:
    assert arrays.cells_together(Job(SimpleNamespace(folder=None)), {"cells_per_job": 8}, None) == 1


@pytest.mark.parametrize("key", ["cells_per_job", "array_parallelism", "signal_delay_s"])
@pytest.mark.parametrize("value", [0, -1, "x", 1.5, None, True, 10**9])
def test_a_wrong_number_is_refused(key: str, value: Any) -> None:
    with pytest.raises(Refused, match=f"hydra.launcher.{key}={value}: is not a whole number from 1 to "):
        arrays.check_site({key: value})


def test_a_time_limit_that_leaves_nothing_is_refused() -> None:
    job = Job(OURS, request={"timeout_min": 1})
    with pytest.raises(Refused, match=r"signal_delay_s=60: leaves nothing of hardware.launcher.timeout_min=1"):
        arrays.parameters_of(job, {})
    assert arrays.parameters_of(job, {"signal_delay_s": 59})["timeout_min"] == 1


def test_an_ending_goes_from_the_allocation_to_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    there = packs.Pack([], str(tmp_path / "%j"))
    place = there.place(2)
    assert place == tmp_path / "7_3.2"
    assert packs.read_ending(place) is None
    place.mkdir()
    there.end(2, Ending("7_3.2", result="done"))
    assert packs.read_ending(place) == Ending("7_3.2", result="done")


@pytest.mark.parametrize(
    ("begun", "whole", "reason", "said"),
    [
        (True, died("7", "timeout", "Slurm job 7 ended as TIMEOUT"), "timeout", "Slurm job 7 ended as TIMEOUT"),
        (False, died("7", "timeout", "Slurm job 7 ended as TIMEOUT"), "lost node", "not begun: Slurm job 7 ended"),
        (True, Ending("7"), "lost node", "Slurm job 7 ended as COMPLETED before the cell did"),
    ],
)
def test_what_is_left_when_an_allocation_is_over(
    begun: bool, whole: Ending, reason: str, said: str, tmp_path: Path
) -> None:
    handle: Any = SimpleNamespace(job_id="7")
    one = slurm._Submitted([Job(OURS), Job(OURS)], handle, str(tmp_path / "%j"), state="COMPLETED")
    if begun:
        one.place(1).mkdir()
        (one.place(1) / packs.BEGUN_FILE).write_text("0")
    found = slurm._left_in_pack(one, 1, whole)
    assert (found.job, found.reason) == ("7.1", reason)
    assert said in str(found.message)


def test_a_cell_of_a_pack_knows_its_slurm_job() -> None:
    jobs = {"7_3.2": "7_3", "7.0": "7", "7_3": "7_3", "7": "7", "41-2": None, "": None}
    assert {job: snapshot.slurm_job({"job": job}) for job in jobs} == jobs
    assert [job for job in jobs if snapshot.is_packed({"job": job})] == ["7_3.2", "7.0"]


def test_a_mark_asks_and_a_renewed_mark_insists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "POLL", 0.0)
    asked = cancelling.Cancellation(tmp_path, "cell")
    assert not asked
    for number in (1, 2):
        cancelling.mark(tmp_path, "cell")
        os.utime(tmp_path / cancelling.FOLDER / "cell", (time.time() + number,) * 2)
        assert asked
        assert asked
        assert asked.requests == number
