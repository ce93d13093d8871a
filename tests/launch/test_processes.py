"""Processes of jobs on this machine: forked from a warm one or fresh, alone with what goes wrong in them."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from fourfold.launch import forkserver, local, processes, slots
from fourfold.launch.ending import blank_record
from fourfold.launch.jobs import Job
from fourfold.launch.stop import Stop

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.skipif(not forkserver.possible(), reason="cells are forked on Linux only")


def run(tmp_path: Path, jobs: list[Job], warm: bool = True) -> list[Any]:
    """The results of the jobs, or their endings where there is none."""
    local.run_local(jobs, str(tmp_path / "%j"), Stop(), warm)
    return [job.ending.result if job.ending and job.ending.returned else job.ending for job in jobs]


def job(function: Callable[[], Any], **facts: Any) -> Job:
    return Job(function, **facts)  # type: ignore[arg-type]


def facts() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "cores": sorted(os.sched_getaffinity(0)),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "folder": os.getcwd(),
        "environment": {**os.environ},
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "warm": "fourfold.launch.forkserver" in sys.modules or sys.modules["__main__"].__file__,
    }


def test_a_forked_job_is_a_process_as_a_fresh_one_is(tmp_path: Path) -> None:
    """A child of the launcher, in a session of its own, with the launcher's environment, folder and signals."""
    for warm in (True, False):
        first, second = run(tmp_path, [job(facts), job(facts)], warm)
        assert first["pid"] == first["session"] != second["pid"]
        assert first["parent"] == os.getpid()
        assert first["folder"] == os.getcwd()
        assert first["interrupt"]
        own = {key: value for key, value in first["environment"].items() if not key.startswith("SUBMITIT")}
        ours = {key: value for key, value in os.environ.items() if not key.startswith("SUBMITIT")}
        assert own == {**ours, "LC_CTYPE": own.get("LC_CTYPE")} if "LC_CTYPE" in own else own == ours
        assert ("forkserver" in str(first["warm"])) == warm


def test_generators_without_a_seed_differ(tmp_path: Path) -> None:
    def numbers() -> list[float]:
        import random

        import numpy as np

        return [random.random(), float(np.random.rand())]

    found = run(tmp_path, [job(numbers, modules=["random", "numpy"]) for _ in range(3)])
    assert len({one for pair in found for one in pair}) == 6


def test_what_a_job_printed_is_in_its_own_files(tmp_path: Path) -> None:
    def speak() -> None:
        print("to be read")
        os.write(2, b"an aside\n")

    run(tmp_path, [job(speak), job(speak)])
    outs = [path for path in tmp_path.glob("*/*_log.out") if "to be read" in path.read_text()]
    assert len(outs) == 2
    assert "an aside" in next(tmp_path.glob("*/*_log.err")).read_text()


def test_a_job_that_dies_takes_no_other_and_what_it_left_with_it(tmp_path: Path) -> None:
    def leave_and_die() -> None:
        if os.fork() == 0:
            time.sleep(600)
        (tmp_path / "left").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    died, alive = run(tmp_path, [job(leave_and_die), job(facts)])
    assert (died.state, died.reason) == ("failed", "lost node")
    assert alive["pid"]
    assert (tmp_path / "left").exists()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_dead_fork_server_costs_neither_the_running_job_nor_the_next(tmp_path: Path) -> None:
    def kill_server() -> str:
        # the server is no relation of ours any more: found by its name among the launcher's children
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            words = path.read_bytes().split(b"\0")
            status = (path.parent / "stat").read_text().rpartition(")")[2].split()
            server = b"fourfold.launch.forkserver" in words and int(status[1]) == os.getppid()
            if server and int(path.parent.name) != os.getpid():
                os.kill(int(path.parent.name), signal.SIGKILL)
        time.sleep(0.2)
        return "survived"

    first, second, third = run(tmp_path, [job(kill_server), job(facts), job(facts)])
    assert first == "survived"
    assert "forkserver" in str(second["warm"])
    assert third["pid"] != second["pid"]


def test_a_module_that_starts_a_thread_is_not_imported_before_the_fork(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "restless.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def restless() -> list[bool]:
        known = "restless" in sys.modules
        import restless  # type: ignore[import-not-found]  # noqa: F401

        return [known, "forkserver" in str(sys.modules["__main__"].__file__)]

    assert run(tmp_path, [job(restless) for _ in range(3)]) == [[False, True]] * 3


def test_modules_that_spoil_it_from_the_start_mean_cold_starts(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(processes.Warm, "_ask", lambda *_: {"spoiled": "2 threads", "modules": []})
    found = run(tmp_path, [job(facts), job(facts)])
    assert all("forkserver" not in str(one["warm"]) for one in found)
    assert "cells start cold: 2 threads" in capsys.readouterr().err


def test_what_a_cell_had_to_import_the_next_one_finds(tmp_path: Path) -> None:
    def known() -> bool:
        before = "colorsys" in sys.modules
        import colorsys  # noqa: F401

        return before

    assert run(tmp_path, [job(known), job(known)]) == [False, True]


def test_slots_have_cores_of_their_own(tmp_path: Path, monkeypatch: Any) -> None:
    cores = sorted(os.sched_getaffinity(0))
    for name in slots.THREADS:
        monkeypatch.delenv(name, raising=False)

    def pinned() -> dict[str, Any]:
        time.sleep(0.3)
        return facts()

    for warm in (True, False):
        found = run(tmp_path, [job(pinned, slots=2), job(pinned, slots=2)], warm)
        if len(cores) > 1:
            assert sorted(core for one in found for core in one["cores"]) == cores
        assert {one["threads"] for one in found} == {str(max(1, len(one["cores"]))) for one in found}


@pytest.mark.parametrize(("count", "cores", "expected"), [(2, 5, [2, 3]), (3, 2, [1, 1, 1]), (1, 4, [0])])
def test_cores_are_shared_out(monkeypatch: Any, count: int, cores: int, expected: list[int]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert [len(slot.cores) for slot in slots.make_slots(count)] == expected


def test_a_cell_waits_for_memory_and_says_why(tmp_path: Path, monkeypatch: Any) -> None:
    """Two slots, memory for one: the second starts when the first has ended, and says once why it waited."""
    said: list[str] = []
    monkeypatch.setattr(slots, "free_memory", lambda: 10_000_000_000)

    def note() -> list[float]:
        begun = time.time()
        time.sleep(0.4)
        return [begun, time.time()]

    jobs = [job(note, slots=2, memory=lambda: 8_000_000_000, on_wait=said.append) for _ in range(3)]
    alive = run(tmp_path, jobs, warm=False)
    assert all(later[0] >= earlier[1] for earlier, later in pairwise(alive))
    assert len(said) == 2
    assert "needs 8.0 GB" in said[0]


def test_memory_of_a_family_is_that_of_its_records(tmp_path: Path) -> None:
    cell: dict[str, Any] = {
        "benchmark": {"name": "b"}, "hardware": {"name": "h", "devices": 1}, "setting": {"name": "s"},
        "method": {"name": "m"}, "seed": 0, "size": "default",
    }  # fmt: skip
    for seed, size, peak in ((1, "default", 5), (2, "default", 7), (3, "huge", 900)):
        folder = tmp_path / f"b-h-s-m-seed{seed}-{seed:012d}"
        found = blank_record({**cell, "seed": seed, "size": size}, folder.name, [])
        found.state, found.measurements = "done", {"memory": {"host_peak": peak}}
        found.write(folder)
    assert slots.memory_of_family(tmp_path / "b-h-s-m-seed0-000000000000", cell) == 7
    assert slots.memory_of_family(tmp_path / "c-h-s-m-seed0-000000000000", cell) is None


def test_ranks_meet_on_this_machine(tmp_path: Path) -> None:
    def ranks() -> list[str]:
        (tmp_path / f"rank{os.environ['RANK']}").write_text(os.environ["MASTER_PORT"])
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR")
        return [os.environ[name] for name in names]

    (first,) = run(tmp_path, [job(ranks, ranks=3)], warm=False)
    assert first == ["0", "0", "3", "0", "127.0.0.1"]
    assert len({(tmp_path / f"rank{rank}").read_text() for rank in range(3)}) == 1


def test_the_first_rank_that_fails_ends_the_others(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(local, "RANK_GRACE", 0.3)

    def break_or_wait() -> None:
        if os.environ["RANK"] == "1":
            raise ValueError("this rank broke")
        time.sleep(600)

    begun = time.monotonic()
    (ending,) = run(tmp_path, [job(break_or_wait, ranks=3)], warm=False)
    assert time.monotonic() - begun < 60
    assert (ending.state, ending.reason) == ("failed", "bug")
    assert "this rank broke" in ending.message


def test_control_c_reaches_every_rank(tmp_path: Path) -> None:
    stop = Stop()
    threading.Timer(2.0, stop._count, (signal.SIGINT, None)).start()
    one = job(lambda: time.sleep(600), ranks=2)
    local.run_local([one], str(tmp_path / "%j"), stop)
    assert one.ending is not None
    assert one.ending.state == "interrupted"
