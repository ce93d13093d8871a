"""A wrong command line is one line on stderr, the right exit status, and nothing started or written."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fourfold.launch import main
from fourfold.launch.task import CellTask

ROOT = Path(__file__).parents[2]

SINGLE = [
    ("benchmark=digitz", "did you mean digits?"),
    ("benchmark=", "benchmark"),
    ("benchmrk=digits", "did you mean benchmark?"),
    ("hardware=a1000", "did you mean a100?"),
    ("setting=class_incremantal", "did you mean class_incremental?"),
    ("method=ewcc", "did you mean ewc?"),
    ("method/rule=backprob", "did you mean backprop?"),
    ("tuned=nothing", "no such tuned values"),
    ("sed=3", "did you mean seed?"),
    ("seed=abc", "seed=abc"),
    ("seed=", "seed="),
    ("seed=-1", "between 0"),
    ("seed=1.5", "seed=1.5"),
    ("seed=1,2", "seed=1,2"),
    ("batch=0", "above 0"),
    ("batch=many", "above 0"),
    ("precision=fp7", "choose one of"),
    ("precision_policy=best", "choose one of"),
    ("rerun=some", "choose one of"),
    ("invalid=ignore", "choose one of"),
    ("slots=0", "between 1"),
    ("timeout=0", "timeout=0"),
    ("timeout=soon", "timeout=soon"),
    ("until.steps=0", "between 1"),
    ("until.step=10", "did you mean until.steps?"),
    ("optimizer.learning_rate=fast", "learning_rate"),
    ("hardware.devices=0", "between 1"),
    ("hardware.launcher.mem_gb=lots", "mem_gb"),
    ("+extra=1", "no such key"),
    ("method=replay method.zzz=5", "method.zzz=5: no such key; method has each, filled, memory"),
    ("~seed", "seed"),
    ("seed", "seed"),
    ("=3", "error"),
    ("size=7b", "one size only"),
    ("hydra/launcher=lsf", "submitit_slurm"),
    ("--no-such-flag", "--no-such-flag"),
    ("--config-name=other", "other"),
    ("benchmark=digits,mnist", "benchmark=digits,mnist: several values are a sweep: add -m"),
    ("benchmark=null", "benchmark=null: a choice is a name"),
    ("method=[ewc]", "method=[ewc]: a cell has one member of each axis"),
    ("benchmark=_benchmark", "benchmark=_benchmark: no such benchmark"),
    ("method.rule=dtp", "method.rule=dtp: holds several values"),
    ("method/rule=none", "which method/rule none does not offer"),
    ("seed='3'", "seed='3': is text; leave the quotes out"),
    ("seed=99999999999999999999999", "between 0"),
    ("seed=null", "seed=None"),
    ("until=never", "until=never: no such until; choose one of"),
    ("optimizer=sdg", "did you mean sgd?"),
    ("optimizer.learning_rate=nan", "must be between"),
    ("strategy=magic", "choose one of auto, ddp"),
    ("tracking.kind=remote", "choose one of local, server, off"),
    ("hardware.devices=two", "hardware.devices=two"),
    ("hardware.devices=2 hardware.launcher.tasks_per_node=4", "contradicts hardware.devices=2"),
    ("hardware=a100 hardware.devices=2 hardware.launcher.gres=gpu:a100:4", "asks for 4 a node"),
    ("hardware=a100 hardware.launcher.gres=gpu:h100:1", "asks for another device than a100"),
    ("hardware=a100 hardware.capacity.devices=4 hardware.devices=8", "hardware.devices=8: a100 has 4"),
    ("hardware.launcher.timeout_min=0", "timeout_min=0: must be between 1"),
    ("hardware.launcher.mem_gb=-4", "mem_gb=-4: must be between"),
    ("hardware.launcher.cpus_per_task=0", "cpus_per_task=0: must be between 1"),
    ("hardware.launcher.partiton=gpu", "did you mean hardware.launcher.partition?"),
    ("hydra/launcher=submitit_slrum", "did you mean submitit_slurm?"),
    ("output_dir=", "output_dir=: names no folder"),
    ("=digits", "=digits: not of the form key=value"),
    ("benchmark==digits", "not of the form key=value"),
    ("@method=ewc", "did you mean method?"),
    ("seed=${sed}", "'sed' not found"),
    ("hydra.searchpath=nowhere", "must be a list"),
    ("hydra.searchpath=[file:///nowhere]", "hydra.searchpath: /nowhere is not available"),
    ("--cfg jobs", "invalid choice: 'jobs'"),
    ("checkpoint.steps=-1", "checkpoint.steps=-1"),
    ("retries=-1", "retries=-1"),
    ("precision=fp8 hardware=a100", "hardware a100 has"),
    ("size=700b benchmark=llama", "did you mean 70b?"),
    ("setting=class_incremental setting.class_order=[0,0,1]", "each of the classes 0 to 9 once"),
    ("method=execute", "method execute needs kernel"),
    ("benchmark=llama setting=class_incremental", "needs classification"),
    ("benchmark=digits setting=class_incremental setting.contexts=11", "contexts=11"),
    ("method=ewc setting=continual benchmark=fashion_mnist", "boundaries_train"),
    ("method=replay method.memory=none", "method.memory"),
    ("tracking=server tracking.uri=null", "tracking.uri"),
    ("tracking=server tracking.uri=ftp://here", "tracking.uri"),
    ("rerun=mising", "did you mean missing?"),
    ("scale=smok", "did you mean smoke?"),
    ("tracking=servr", "did you mean server?"),
    ("method=replay setting=class_incremental method.memry=3", "did you mean method.memory?"),
    ("setting=osaka setting.alpa=0.9", "did you mean setting.alpha?"),
    ("setting=osaka setting.alpha=1.5", "setting.alpha=1.5: must be between 0 and 1"),
    ("benchmark/model=resnt benchmark=resnet", "no such benchmark/model"),
]

SWEEPS = [
    ("-m seed=0,1 benchmark=digits,nonsense", "no such benchmark"),
    ("-m seed=0,x", "seed=x"),
    ("-m seed=0,1 sed=3", "did you mean seed?"),
    ("-m slots=1,2", "whole sweep"),
    ("-m output_dir=here,there", "whole sweep"),
    ("-m tracking=off,local", "whole sweep"),
    ("-m method=ewc,finetune setting=class_incremental method.strength=3", "no such key"),
    ("-m method=execute,finetune invalid=error", "needs kernel"),
    ("-m method=execute seed=0,1,2", "nothing left to run"),
    ("-m hydra.launcher.memory=3 seed=0", "memory"),
    ("-m hydra/launcher=submitit_local,submitit_slurm", "hydra/launcher"),
    ("-m --run seed=0,1", "multirun"),
    ("-m tracking=server tracking.uri=null seed=0,1", "tracking.uri"),
    ("-m seed=range(1)x", "seed"),
    ("-m seed=range(5,1)", "seed=range(5,1): holds no value"),
    ("-m benchmark=glob(zzz*)", "benchmark=glob(zzz*): matches nothing; benchmark has"),
    ("-m seed=choice()", "seed=choice()"),
    ("-m seed=0,1 dry_run=maybe", "dry_run=maybe"),
    ("-m ~method seed=0,1", "~method: a cell has one member of each axis"),
    ("-m suite=quikstart seed=0,1", "did you mean quickstart?"),
    ("-m suite=quickstart row=digit", "did you mean digits?"),
    ("-m hydra/sweeper=basik", "did you mean basic?"),
    *(
        (
            f"-m hydra/launcher=submitit_slurm hydra.launcher.cells_per_job={value} seed=0,1",
            f"cells_per_job={value}: is",
        )
        for value in ("0", "-1", "x", "1.5")
    ),
    ("-m hydra/launcher=submitit_slurm hydra.launcher.signal_delay_s=0 seed=0,1", "signal_delay_s=0: is not a whole"),
]


def refused(words: list[str], message: str, capsys: Any, output: Path) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("started")

    status = main.run_command_line(words, never)
    printed = capsys.readouterr()
    assert status == 2
    assert len(printed.err.strip().splitlines()) == 1, printed.err
    assert printed.err.startswith("error: ")
    assert "raised while" not in printed.err
    assert message in printed.err
    assert printed.out == ""
    assert not output.exists()


@pytest.mark.parametrize(("words", "message"), SINGLE, ids=[words for words, _ in SINGLE])
def test_single(words: str, message: str, capsys: Any, output: Path, hydra_as_it_was: None) -> None:
    refused(words.split(), message, capsys, output)


@pytest.mark.parametrize(("words", "message"), SWEEPS, ids=[words for words, _ in SWEEPS])
def test_sweep(words: str, message: str, capsys: Any, output: Path, hydra_as_it_was: None) -> None:
    refused(words.split(), message, capsys, output)


@pytest.mark.parametrize("words", [[], ["-m", "seed=0,1"]])
def test_unwritable_output_folder(
    words: list[str], capsys: Any, tmp_path: Path, hydra_as_it_was: None, shell: Callable[..., int]
) -> None:
    (tmp_path / "file").touch()
    assert shell(*words, f"output_dir={tmp_path / 'file' / 'below'}") == 2
    printed = capsys.readouterr()
    assert len(printed.err.strip().splitlines()) == 1
    assert str(tmp_path / "file" / "below") in printed.err


def test_no_slurm_here(shell: Callable[..., int], capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert shell("-m", "hydra/launcher=submitit_slurm", "seed=0,1") == 1
    assert "there is no Slurm here" in capsys.readouterr().err


def test_debug_shows_the_traceback(shell: Callable[..., int], capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_DEBUG", "1")
    assert shell("seed=abc") == 2
    assert "Traceback" in capsys.readouterr().err


def test_one_value_sweeps_leave_the_rest_alone() -> None:
    words = [
        "method=ewc,replay",
        "method.strength=3",
        "method.values=[1,2]",
        "seed=1",
        "benchmark.size=2",
        "+method.x=1",
    ]
    assert main.one_value_sweeps(words) == [
        "method=ewc,replay",
        "method.strength=choice(3)",
        "method.values=choice([1,2])",
        "seed=1",
        "benchmark.size=2",
        "+method.x=1",
    ]


def test_the_users_own_full_error_is_respected(
    output: Path, monkeypatch: pytest.MonkeyPatch, hydra_as_it_was: None
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match="digitz"):
        main.run_command_line(["benchmark=digitz"], CellTask().run)


def test_a_python_without_the_project_is_told_how_to_get_it() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-S", "run.py"]  # -S: without installed packages
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no fourfold; `make run` sets up .venv" in done.stderr
    assert "Traceback" not in done.stderr
