"""Queueing a job again, with a scheduler that is a pair of scripts, and Slurm's notice before anybody listens."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fourfold import stopping
from fourfold.launch import arrays, requeue
from fourfold.stopping import PREEMPTED, Stopped, listening

Scheduler = Callable[..., Path]


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """Puts commands of these names on the path, and this process into array element 7_3; returns their log."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(requeue, "PAUSE", 0.0)
    for name, value in {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(name, value)

    def install(**lines: str) -> Path:
        for name, line in lines.items():
            (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/log\n{line}\n')
            (tmp_path / name).chmod(0o755)
        return tmp_path / "log"

    return install


def test_an_element_of_an_array_is_queued_again(scheduler: Scheduler) -> None:
    log = scheduler(scontrol="exit 0")
    assert requeue.queue_again() is None
    assert log.read_text() == "scontrol requeue 7_3\n"


def test_slurm_may_have_queued_it_already(scheduler: Scheduler) -> None:
    """A preemption whose grace is over: the job is completing, and its cell must not return as if it had ended."""
    log = scheduler(scontrol="echo 'Job/step already completing or completed' >&2; exit 1", squeue="echo COMPLETING")
    assert requeue.queue_again() is None
    assert log.read_text().count("scontrol") == 1


def test_a_controller_that_does_not_answer_is_asked_again(scheduler: Scheduler, tmp_path: Path) -> None:
    log = scheduler(scontrol=f"test $(grep -c scontrol {tmp_path}/log) = 3", squeue="exit 1")
    assert requeue.queue_again() is None
    assert log.read_text().count("scontrol") == 3


def test_what_slurm_refuses_is_told(scheduler: Scheduler) -> None:
    scheduler(scontrol="echo 'Access denied' >&2; exit 1", squeue="echo RUNNING")
    assert requeue.queue_again() == "Access denied"


def test_a_job_may_be_queued_again_whatever_the_site_says() -> None:
    site = {"additional_parameters": {"mail-type": "END"}}
    asked = arrays.slurm_parameters({}, site)["slurm_additional_parameters"]
    assert asked == {"requeue": True, "mail-type": "END"}
    assert arrays.slurm_parameters({}, {}, requeue=False)["slurm_additional_parameters"] == {"no-requeue": True}


def test_a_notice_before_the_interpreter_is_ready_is_kept(tmp_path: Path) -> None:
    """It comes while nobody could hear it, does not end the process, and is heard by the cell."""
    script = tmp_path / "late.py"
    script.write_text(
        "import pathlib, sys, time\n"
        "from fourfold.stopping import Stopped, listening\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "time.sleep(1.5)\n"
        "try:\n    with listening(60): time.sleep(60)\n"
        "except Stopped as error: print(error.reason)\n"
    )
    begun = tmp_path / "begun"
    command = f"exec {requeue.deaf_python()} {script} {begun}"
    process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, text=True)
    while not begun.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR2)
    assert process.communicate(timeout=30)[0].strip() == PREEMPTED
    assert process.returncode == 0


def test_a_second_notice_is_no_impatience() -> None:
    with listening(60):
        stopping.request.patient = True
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGUSR2)
        assert (stopping.request.reason, stopping.request.hurry) == (PREEMPTED, True)
    assert stopping.request.reason is None, "the next cell was asked for nothing"


def test_a_notice_that_was_swallowed_is_not_forgotten() -> None:
    """Libraries that try imports catch whatever is raised in them."""
    with listening(60):
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGUSR2)
        assert stopping.request.reason == PREEMPTED
