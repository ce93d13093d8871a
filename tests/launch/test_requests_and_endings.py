"""What is asked of Slurm for a cell, and how the end of a process is read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fourfold import record
from fourfold.errors import FAILED, INTERRUPTED
from fourfold.launch import arrays, ending, local, scheduler, slots, slurm
from fourfold.launch.jobs import Job
from fourfold.launch.stop import Stop

SITE: dict[str, Any] = {"submitit_folder": "x", "name": "fourfold", "partition": "night", "setup": ["module load a"]}
REQUEST: dict[str, Any] = {
    "nodes": 2, "tasks_per_node": 4, "cpus_per_task": 6, "mem_gb": 16.0, "timeout_min": 60, "gres": "gpu:a100:4",
    "constraint": None, "partition": None, "account": None, "qos": None, "setup": ["module load b"],
}  # fmt: skip


def test_a_request_is_what_the_cell_asks_for_then_what_the_site_adds() -> None:
    found = arrays.slurm_parameters(REQUEST, SITE, timeout=3600)
    assert found["nodes"] == 2
    assert found["tasks_per_node"] == 4
    assert found["slurm_gres"] == "gpu:a100:4"
    assert found["slurm_partition"] == "night"
    assert found["slurm_setup"] == ["module load a", "module load b"]
    assert found["timeout_min"] == 60
    assert found["slurm_srun_args"] == ["--cpus-per-task=6", "--kill-on-bad-exit=1"]
    assert "slurm_account" not in found
    assert arrays.slurm_parameters({**REQUEST, "partition": "day"}, SITE)["slurm_partition"] == "day"


def test_a_short_timeout_shortens_the_request_but_leaves_room_for_the_signal() -> None:
    assert arrays.slurm_parameters(REQUEST, SITE, timeout=20)["timeout_min"] == 3
    assert arrays.slurm_parameters(REQUEST, SITE, timeout=1e6)["timeout_min"] == 60


def test_jobs_of_equal_requests_are_one_group() -> None:
    requests = [{"gres": kind} for kind in ("a", "b", "a", "c", "b")]
    jobs = [Job(frozen=number, request=request) for number, request in enumerate(requests)]  # type: ignore[arg-type]
    groups = arrays.grouped(jobs, lambda job: job.request)
    assert [[job.frozen for job in group] for group in groups] == [[0, 2], [1, 4], [3]]


def test_a_group_is_split_where_slurm_takes_no_longer_array() -> None:
    packs = [[Job(frozen=None)] for _ in range(2 * arrays.ARRAY_LIMIT + 1)]
    assert [len(array) for array in arrays.arrays(packs)] == [arrays.ARRAY_LIMIT, arrays.ARRAY_LIMIT, 1]


@pytest.mark.parametrize(
    ("status", "log", "killed", "reason"),
    [
        (-9, "", False, "lost node"),
        (-9, "", True, "out of memory"),
        (137, "", False, "lost node"),
        (-11, "", False, "bug"),
        (1, "torch.OutOfMemoryError: CUDA out of memory.", False, "out of memory"),
        (1, "MemoryError", False, "out of memory"),
        (3, "", False, "bug"),
        (-15, "", False, "lost node"),
    ],
)
def test_reason_of_an_exit(status: int, log: str, killed: bool, reason: str) -> None:
    assert ending.reason_of_exit(status, log, killed)[0] == reason


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("OUT_OF_MEMORY", "out of memory"),
        ("TIMEOUT", "timeout"),
        ("NODE_FAIL", "lost node"),
        ("CANCELLED by 0", "lost node"),
        ("VANISHED", "lost node"),
        ("FAILED", "bug"),
    ],
)
def test_reason_of_slurms_state(state: str, reason: str) -> None:
    one: Any = SimpleNamespace(state=state, handle=SimpleNamespace(job_id="1_2"))
    assert slurm._death(one, "").reason == reason


def test_states_are_read_from_squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"squeue": "echo '1_0|RUNNING'; echo '1_1|FAILED'", "sacct": "echo 'COMPLETED'"}
    for name, line in answers.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert scheduler.job_states(["1"]) == {"1_0": "RUNNING", "1_1": "FAILED"}
    assert scheduler.accounted_state("1_0") == "COMPLETED"
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n")
    assert scheduler.job_states(["1"]) == {}
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    assert scheduler.job_states(["1"]) is None


CELL: dict[str, Any] = {
    **{axis: {"name": axis} for axis in ("benchmark", "hardware", "setting")},
    "method": {"name": "m", "rule": {"name": "backprop"}},
    "seed": 3,
}


def test_an_unfinished_record_is_completed(tmp_path: Path) -> None:
    begun = ending.blank_record(CELL, tmp_path.name, [])
    begun.device = {"name": "d"}
    begun.write(tmp_path)
    found = ending.settle(CELL, tmp_path, [], None, ending.died("7", "lost node", "gone", "a\n\nb\n"))
    assert (found.state, found.reason, found.device) == (FAILED, "lost node", {"name": "d"})
    assert found.message == "gone\na\nb"
    assert record.read(tmp_path).state == FAILED


def test_a_damaged_record_is_replaced(tmp_path: Path) -> None:
    (tmp_path / record.RECORD_FILE).write_text('{"schema": 1, "cel')
    found = ending.settle(CELL, tmp_path, [], None, ending.interrupted("7"))
    assert record.read(tmp_path).state == found.state == INTERRUPTED


def test_a_folder_that_cannot_be_written_does_not_end_the_sweep(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").touch()
    found = ending.settle(CELL, tmp_path / "file", [], None, ending.died("7", "bug", "gone"))
    assert found.state == FAILED
    assert "cannot be written" in capsys.readouterr().err


def test_devices_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    assert slots.visible_devices() == ["2", "3"]


def test_cells_wait_for_devices_not_only_for_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices, three slots: cells of one device each run in pairs, and never share one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    given: list[list[str]] = []
    alive = [0]

    def start(job: Any, folder: str, devices: list[str], slot: Any, *_: Any) -> Any:
        given.append(devices)
        alive[0] += 1
        assert alive[0] <= 2
        return SimpleNamespace(job=job, devices=devices, slot=slot, need=None, held=lambda: 0)

    def ended(process: Any) -> bool:
        alive[0] -= 1
        return True

    monkeypatch.setattr(local, "_start", start)
    monkeypatch.setattr(local, "_press", lambda one, stop: None)
    monkeypatch.setattr(local, "_has_ended", ended)
    monkeypatch.setattr(local, "_ending", lambda one: ending.Ending("1"))
    jobs = [Job(frozen=None, devices=many, slots=3) for many in (1, 1, 1, 9)]  # type: ignore[arg-type]
    local.run_local(jobs, "x", Stop())
    assert given == [["4"], ["7"], ["4"], []]
    assert all(job.ending is not None for job in jobs)
