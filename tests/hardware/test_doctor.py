"""What doctor says is here, and its exit status; the table of the documentation."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fourfold.__main__ import main
from fourfold.cli import doctor
from fourfold.cli.devices import table

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_the_catalogue_is_current() -> None:
    assert table() in (DOCS / "hardware.md").read_text()


def test_what_is_missing_is_told_with_its_cost(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_DATA", str(tmp_path / "absent"))
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for expected in (
        "ok  processor",
        "--  accelerator",
        "mode=projected",
        "--  data sets",
        "FOURFOLD_DATA names one",
        "prepare",
    ):
        assert expected in said


@pytest.mark.parametrize(
    ("words", "status", "what"),
    [
        (["hardware=a100"], 1, "--  chosen"),
        (["hardware=a100", "mode=projected"], 0, "projected, needs no device"),
        (["hardware=cpu"], 0, "ok  chosen"),
        (["output_dir=/dev/null/nowhere"], 1, "cannot be written"),
        (["benchmark=cifar10", "data_dir=/dev/null/nowhere"], 1, "--  workload"),
        (["benchmark=digits"], 0, "ok  workload"),
        (["benchmark=llama", "method=serving"], 1, "--  workload"),
        (["benchmark=llama", "size=70b", "hardware=a100", "hardware.stand_in=true", "scale=full"], 1, "on each device"),
    ],
)
def test_a_configuration_that_could_not_run_is_status_1(words: list[str], status: int, what: str, capsys: Any) -> None:
    assert main(["doctor", *words]) == status
    assert what in capsys.readouterr().out


def test_a_configuration_that_makes_no_sense_is_refused(capsys: Any) -> None:
    assert main(["doctor", "hardware=a1000"]) == 2
    assert "did you mean a100?" in capsys.readouterr().err


def test_partitions_are_mapped_to_the_catalogue() -> None:
    said = "gpu*|4|gpu:a100:8(S:0-1)\namd|2|gpu:mi300x:8\nodd|1|gpu:tpu:4\ncpu|9|(null)\nnonsense\n"
    lines = doctor.partitions(said)
    assert lines[0].startswith("partition gpu, 4 nodes, gpu:a100:8(S:0-1): hardware=a100,")
    assert lines[1].endswith(": hardware=mi300")
    assert "no target of the catalogue asks for it" in lines[2]
    assert lines[3] == "partition cpu, 9 nodes, (null)"
    assert len(lines) == 4


def test_a_scheduler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> SimpleNamespace:
        raise subprocess.CalledProcessError(1, "sinfo", stderr="slurm_load_partitions: Unable to contact controller\n")

    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/sinfo")
    monkeypatch.setattr(doctor.subprocess, "run", fails)
    (finding,) = doctor.scheduler()
    assert not finding.here
    assert finding.text == "sinfo fails: slurm_load_partitions: Unable to contact controller"


@pytest.mark.parametrize(
    ("said", "status", "what"),
    [
        ("gpu|4|gpu:a100:8(S:0-1)\nother|4|gpu:h100:8\n", 0, "hardware=a100: partition gpu"),
        ("gpu|4|gpu:h100:8\n", 1, "no partition has gres=gpu:a100:1"),
        (None, 1, "no Slurm client on the PATH"),
    ],
)
def test_a_configuration_for_a_scheduler_needs_a_partition_that_has_it(
    said: str | None, status: int, what: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None if said is None else "/usr/bin/sinfo")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=said))
    assert main(["doctor", "hardware=a100", "hydra/launcher=submitit_slurm"]) == status
    assert what in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("torch_geometric.nn.models", ["benchmark=pna"]),
        ("avalanche.training.supervised", ["benchmark=digits", "setting=class_incremental", "method=avalanche"]),
        ("peft", ["benchmark=llama", "method=lora"]),
        ("aiohttp", ["benchmark=llama", "method=serving", "method.server=transformers"]),
        ("optuna", ["setting=class_incremental", "method=ewc", "tune=first_k_tasks", "tune.sampler=tpe"]),
    ],
)
def test_a_missing_library_is_told_by_the_workload(
    module: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["doctor", *words]) == 1
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("--  workload"))
    assert f"the package {module.split('.')[0]} is not installed: pip install 'fourfold[" in said


def test_every_extra_is_told_of() -> None:
    extras = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = {re.split("[><=]", each)[0] for name, group in extras.items() if name != "dev" for each in group}
    modules = {"avalanche-lib": "avalanche", "nvidia-ml-py": "pynvml"}
    assert {modules.get(name, name.replace("-", "_")) for name in packages} <= set(doctor.OPTIONAL)
