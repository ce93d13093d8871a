"""Several ranks of one cell on this machine, with the real experiment: they learn what one process learns."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from chaos import results, start
from fourfold import record
from fourfold.__main__ import main as command
from fourfold.composition import compose, plain
from fourfold.launch import local, main
from fourfold.launch.single import needs_ranks
from fourfold.metrics import figures, steady_rate
from fourfold.metrics.throughput import rate

WORDS = ["benchmark=digits", "hardware=cpu", "until.steps=20", "tracking=off"]
# Relative, of the loss of each step: two halves of a batch are summed in another order than the whole.
TOLERANCE = 1e-5
# Of a tiny Llama: the sums of a batch, of a layer's columns or of a gradient are taken in another order.
LLAMA_TOLERANCE = 2e-6


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one_process(output: Path, hydra_as_it_was: None, run: Any) -> None:
    assert main.run_command_line(["-m", "seed=0,1", *WORDS, "hardware.devices=2", "batch=16"]) == 0
    assert main.run_command_line(["seed=2", *WORDS, "hardware.devices=2", "batch=16"]) == 0
    found = {one.axes["seed"]: folder for folder in (output / "cells").iterdir() if (one := record.read(folder))}
    assert sorted(found) == [0, 1, 2]
    for seed, folder in found.items():
        alone = run(*WORDS, f"seed={seed}", "batch=32")
        assert record.read(folder).state == alone.state == "done"
        ours, theirs = record.read_series(folder)["loss"], record.read_series(alone.folder)["loss"]
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE)
        assert record.read(folder).evaluations[-1]["value"] == pytest.approx(alone.evaluations[-1]["value"], abs=2e-3)


LLAMA = ["benchmark=llama", "scale=smoke", "hardware=cpu", "until.steps=12", "tracking=off"]


@pytest.fixture
def one_process(run: Any) -> Callable[..., np.ndarray]:
    """The losses of one process with the words of a shell."""
    return lambda *words: record.read_series(run(*LLAMA, *words).folder)["loss"]


def by_two(output: Path, *words: str) -> tuple[record.Record, dict[str, np.ndarray]]:
    """The record and the series of a cell of two ranks, from the command line."""
    assert main.run_command_line([*LLAMA, "hardware.devices=2", *words]) == 0
    (folder,) = (output / "cells").iterdir()
    return record.read(folder), record.read_series(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "each", "whole"), [("ddp", 2, 4), ("fsdp", 2, 4), ("tensor", 4, 4), ("replicas", 4, 4)]
)
def test_each_strategy_learns_a_llama_as_one_process_does(
    output: Path, hydra_as_it_was: None, one_process: Any, strategy: str, each: int, whole: int
) -> None:
    found, series = by_two(output, f"strategy={strategy}", f"batch={each}")
    alone = one_process(f"batch={whole}")
    assert found.state == "done"
    assert len(alone) == 12
    np.testing.assert_allclose(series["loss"], alone, rtol=LLAMA_TOLERANCE)
    assert alone[0] - alone[-1] > 0.5, "it learned something"
    if strategy == "replicas":
        np.testing.assert_array_equal(series["copies.1.loss"], alone)  # bit for bit: nothing is shared
        assert found.measurements["copies_agree"] is True
        assert [copy["steps"] for copy in found.measurements["copies"]] == [12, 12]
        assert found.measurements["units"] == 2 * 12 * whole * 128
        each_rate = [rate(series[f"{c}step_seconds"], series[f"{c}step_units"]) for c in ("", "copies.1.")]
        told = figures(found, series)
        assert told["units_per_second"] == pytest.approx(sum(one.mean for one in each_rate))
        assert told["copy_1_units_per_second"] == each_rate[1].mean
        assert told["units_per_second_low"] < told["units_per_second"] < told["units_per_second_high"]
    else:
        assert found.measurements["units"] == 12 * whole * 128
        assert steady_rate(series) is not None


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_parts_of_a_batch_and_recomputed_activations_change_nothing_beside_another_rank(
    output: Path, hydra_as_it_was: None, one_process: Any, strategy: str
) -> None:
    found, series = by_two(output, f"strategy={strategy}", "batch=4", "accumulate=2", "recompute=true")
    assert found.state == "done"
    np.testing.assert_allclose(series["loss"], one_process("batch=8"), rtol=LLAMA_TOLERANCE)
    assert found.measurements["units"] == 12 * 8 * 128


@pytest.mark.slow
@pytest.mark.parametrize("until", [("until=budget", "until.seconds=2"), ("until=steady", "until.seconds=6")])
def test_ranks_that_stop_by_the_clock_stop_together(
    output: Path, hydra_as_it_was: None, until: tuple[str, str]
) -> None:
    words = ["benchmark=digits", "hardware=cpu", "hardware.devices=2", "batch=16", "tracking=off", *until]
    assert main.run_command_line(words) == 0
    (folder,) = (output / "cells").iterdir()
    found = record.read(folder)
    assert found.measurements["stopped_by"] in ("budget", "steady")
    assert len(record.read_series(folder)["loss"]) == found.measurements["steps"] > 50


@pytest.mark.slow
def test_the_scaling_suite_and_its_report_on_one_and_two_processes(
    output: Path, hydra_as_it_was: None, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "row=1,weak-2,strong-2,replicas-2"
    words = ["suite=scaling", rows, "benchmark=digits", "hardware=cpu", "until.steps=100", "tracking=off"]
    assert main.run_command_line(["-m", *words]) == 0
    capsys.readouterr()
    assert command(["report", "--scaling", "--json", "--output-dir", str(output)]) == 0
    found = {(one["strategy"], one["kind"]): one["points"] for one in json.loads(capsys.readouterr().out)}
    assert set(found) == {("ddp", "weak"), ("ddp", "strong"), ("replicas", "weak")}
    for (_, kind), points in found.items():
        assert [(point["devices"], point["batch"]) for point in points] == [
            (1, 64),
            (2, 64 if kind == "strong" else 128),
        ]
        two = points[1]
        assert 0 < two["efficiency_low"] <= two["efficiency"] <= two["efficiency_high"]
        assert two["speedup"] == pytest.approx(2 * two["efficiency"])
        assert two["speedup"] == pytest.approx(two["units_per_second"] / points[0]["units_per_second"])


def test_a_projection_of_many_devices_is_one_process(
    output: Path, hydra_as_it_was: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["benchmark=matmul", "scale=smoke", "hardware=a100", "hardware.devices=8", "mode=projected", "tracking=off"]
    started: list[int] = []
    monkeypatch.setattr(local, "rendezvous", lambda ranks: started.append(ranks) or {})
    assert main.run_command_line(["-m", *words, "hardware.nodes=1,2", "strategy=replicas"]) == 0
    assert started == [1, 1]
    found = [record.read(folder) for folder in (output / "cells").iterdir()]
    rates = {one.config["hardware"]["nodes"]: figures(one)["units_per_second"] for one in found}
    assert rates[2] == pytest.approx(2 * rates[1])
    assert not needs_ranks(plain(compose(words)))
    assert needs_ranks(plain(compose(["hardware=a100", "hardware.devices=8"])))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["benchmark=resnet"], "benchmark resnet has no plan"),
        (["benchmark=llama", "hardware=cpu", "hardware.devices=2", "precision=fp16"], "fp16"),
    ],
)
def test_what_cannot_be_split_is_refused_in_a_line_that_names_what_can(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], hydra_as_it_was: None, output: Path
) -> None:
    assert main.run_command_line(["strategy=tensor", *words, "tracking=off"]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in told


@pytest.mark.slow
def test_ranks_that_were_ended_go_on_bit_for_bit(tmp_path: Path) -> None:
    """Ctrl-C, then kill -9 of the second rank alone; a buffer of samples differs from rank to rank."""
    words = ["benchmark=digits", "setting=class_incremental", "method=replay", "hardware=cpu", "hardware.devices=2"]
    words += ["batch=16", "until.steps=300", "checkpoint.steps=20", "tracking=off", "rerun=missing"]
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    assert start(calm, words).wait(timeout=300) == 0
    for blow in (end, kill_second_rank):
        process = start(wild, words)
        before = signatures(wild)
        while process.poll() is None and not all(a != b for a, b in zip(before, signatures(wild), strict=True)):
            time.sleep(0.02)
        blow(process, wild)
        assert process.wait(timeout=120) != 0
    assert start(wild, words).wait(timeout=300) == 0
    (found,) = (record.read(folder) for folder in (wild / "cells").iterdir())
    assert [one["steps"] > 0 for one in found.resumed] == [True, True]
    assert results(wild) == results(calm)
    assert not list(wild.glob("cells/*/rank1/checkpoint*"))


def signatures(output: Path) -> list[Any]:
    """What changes when a rank writes a checkpoint."""
    paths = [
        next(iter(output.glob(pattern)), None) for pattern in ("cells/*/checkpoint.pt", "cells/*/rank1/checkpoint.pt")
    ]
    return [path.stat().st_mtime_ns if path is not None and path.exists() else 0 for path in paths]


def end(process: Any, output: Path) -> None:
    process.send_signal(signal.SIGINT)


def kill_second_rank(process: Any, output: Path) -> None:
    """The ranks are the launcher's children, started in their order."""
    ranks = sorted(psutil.Process(process.pid).children(), key=lambda child: child.create_time())
    ranks[1].kill()
