"""No cell is run twice at once, whoever starts it; what was lost is tried again; what is broken is set aside."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from standing_in import EXIT, KILL

from fourfold import composition, record
from fourfold.launch import leases, sharing
from fourfold.launch.ending import Elsewhere, blank_record, set_aside_if_broken, signature
from fourfold.launch.leases import Holder, Lease

Shell = Callable[..., int]


@contextmanager
def another_process(work: Callable[[], Any]) -> Iterator[int]:
    """Forks a process that holds what it takes until it ends; its number."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(writer, b"1")
            time.sleep(60)
        finally:
            os._exit(0)
    try:
        assert os.read(reader, 1) == b"1"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def test_a_lease_is_had_by_one(tmp_path: Path) -> None:
    mine = leases.take(tmp_path)
    assert isinstance(mine, Lease)
    assert leases.take(tmp_path, patience=0.05) == leases.holder(tmp_path)
    mine.release()
    assert leases.holder(tmp_path) is None
    again = leases.take(tmp_path)
    assert isinstance(again, Lease)
    again.release()


def test_a_lease_ends_with_its_holder_however_that_ends(tmp_path: Path) -> None:
    with another_process(lambda: leases.take(tmp_path)) as pid:
        found = leases.take(tmp_path, patience=0.05)
        assert isinstance(found, Holder)
        assert found.pid == pid
        assert str(pid) in str(found)
    assert leases.holder(tmp_path) is None
    mine = leases.take(tmp_path)
    assert isinstance(mine, Lease)
    mine.release()


def test_looking_does_not_keep_another_from_taking(tmp_path: Path) -> None:
    def look() -> None:
        while time.monotonic() < end:
            leases.holder(tmp_path)

    end = time.monotonic() + 1
    (mine := leases.take(tmp_path)).release()  # type: ignore[union-attr]
    pid = os.fork()
    if pid == 0:
        look()
        os._exit(0)
    while time.monotonic() < end:
        mine = leases.take(tmp_path)
        assert isinstance(mine, Lease)
        mine.release()
    os.waitpid(pid, 0)


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with another_process(lambda: leases.take(tmp_path)):
        for now in (0.0, 1e11):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            os.utime(tmp_path / leases.LEASE_FILE, (now, now))
            assert isinstance(leases.take(tmp_path, patience=0.05), Holder)


def test_a_lock_of_another_machine_that_is_not_seen_here_is_asked_for_at_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / leases.LEASE_FILE).write_text('{"host": "node-7", "pid": 1, "job": "12_3", "since": 1.0}')
    monkeypatch.setattr(leases, "job_is_alive", lambda job: job == "12_3")
    found = leases.take(tmp_path)
    assert str(found) == "node-7, Slurm job 12_3"
    monkeypatch.setattr(leases, "job_is_alive", lambda job: False)
    mine = leases.take(tmp_path)
    assert isinstance(mine, Lease)
    mine.release()


def test_a_file_system_without_locks_costs_a_warning(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def none(*_: Any) -> None:
        raise OSError(leases.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(leases.fcntl, "flock", none)
    assert isinstance(leases.take(tmp_path / "a"), Lease)
    assert isinstance(leases.take(tmp_path / "b"), Lease)
    assert capsys.readouterr().err.count("without locks") == 1
    assert leases.holder(tmp_path / "a") is None


def test_a_record_that_came_since_is_taken_as_it_is(tmp_path: Path) -> None:
    before = signature(tmp_path)
    with leases.alone(tmp_path, before) as elsewhere:
        assert elsewhere is None
    cell: dict[str, Any] = {
        **{axis: {"name": axis} for axis in ("benchmark", "hardware", "setting", "method")},
        "seed": 0,
    }
    found = blank_record(cell, "c", [])
    found.ended = time.time()
    for state, expected in (("interrupted", None), ("done", Elsewhere("run elsewhere"))):
        found.state = state
        found.write(tmp_path)
        with leases.alone(tmp_path, before) as elsewhere:
            assert elsewhere == expected
        with leases.alone(tmp_path, signature(tmp_path)) as elsewhere:
            assert elsewhere is None


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("finishes", [True, False])
def test_a_cell_that_runs_elsewhere_is_waited_for(
    shell: Shell, output: Path, capsys: Any, monkeypatch: Any, single: bool, finishes: bool
) -> None:
    """Its record is taken as it is; if its process ends without one, it is run here."""
    monkeypatch.setattr(sharing, "GRACE", 0.2)
    cell = composition.plain(composition.compose(["seed=0", "tracking=off"]))
    folder = output / "cells" / composition.cell_name(cell)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        leases.take(folder)
        os.write(writer, b"1")
        while not list(output.glob("sweeps/*/sweep.json")):  # until the other one has planned
            time.sleep(0.05)
        time.sleep(1.5)
        if finishes:
            found = blank_record(cell, folder.name, [])
            found.state, found.ended, found.environment = "done", time.time(), {"process": "elsewhere"}
            found.write(folder)
        os._exit(0)
    os.read(reader, 1)
    assert shell(*([] if single else ["-m"]), "seed=0" if single else "seed=0,1") == 0
    os.waitpid(pid, 0)
    said = capsys.readouterr().out
    assert f"running elsewhere ({os.uname().nodename}, process {pid}); its record will be taken" in said
    assert (record.read(folder).environment["process"] == "elsewhere") == finishes
    assert len(list((output / "cells").iterdir())) == (1 if single else 2)


def test_two_launches_at_once_run_each_cell_once(output: Path, tmp_path: Path) -> None:
    script = tmp_path / "cells.py"
    script.write_text(
        "import os, time\n"
        "from fourfold.launch.ending import blank_record\n"
        "from fourfold.launch.main import main\n"
        "def run(cell, folder, overrides):\n"
        "    with (folder / 'runs').open('a') as file:\n"
        "        file.write(f'{os.getpid()}\\n')\n"
        "    time.sleep(0.2)\n"
        "    found = blank_record(cell, folder.name, overrides)\n"
        "    found.state, found.ended = 'done', time.time()\n"
        "    found.write(folder)\n"
        "    return found\n"
        "if __name__ == '__main__':\n"
        "    main(run)\n"
    )
    command = [sys.executable, str(script), "-m", "seed=range(6)", "tracking=off", "slots=2"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    runs = [(folder / "runs").read_text().split() for folder in (output / "cells").iterdir()]
    assert len(runs) == 6
    assert all(len(one) == 1 for one in runs), "a cell ran twice"
    assert all("6 cells: 6 done" in one for one in printed)


def test_what_was_lost_is_tried_again(shell: Shell, output: Path, capsys: Any) -> None:
    assert shell("-m", f"seed=0,{KILL},{EXIT}", "retries=2") == 1
    said = capsys.readouterr().out
    assert [f"try {number} of 2" in said for number in (1, 2)] == [True, True]
    assert said.count("was lost") == 2, "only the lost one, not the broken one"
    found = {one.axes["seed"]: one for one in map(record.read, (output / "cells").iterdir())}
    assert (found[KILL].reason, found[EXIT].reason) == ("lost node", "bug")
    assert "the last words" in found[EXIT].log


def test_a_broken_record_is_set_aside_and_the_cell_run_again(shell: Shell, output: Path, capsys: Any) -> None:
    assert shell("-m", "seed=0,1") == 0
    folder = next((output / "cells").glob("*seed1-*"))
    half = (folder / record.RECORD_FILE).read_bytes()[:100]
    (folder / record.RECORD_FILE).write_bytes(half)
    capsys.readouterr()
    assert shell("-m", "seed=0,1", "rerun=missing") == 0
    assert "set aside as record.json.broken-" in capsys.readouterr().err
    assert next(folder.glob("record.json.broken-*")).read_bytes() == half
    assert record.read(folder).state == "done"
    assert not set_aside_if_broken(folder)
