"""What a cell asks of a scheduler where its hardware leaves memory and cores to the workload."""

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf

from fourfold.composition import cell_hash, compose, plain
from fourfold.hardware.requests import request_of
from fourfold.launch import through

LARGE = ["benchmark=llama", "size=70b", "hardware=h100", "hardware.devices=8"]


def asked(*words: str) -> tuple[int, float]:
    """(cores of a task, 1e9 bytes of a node)."""
    request = request_of(plain(compose(list(words))))
    return request["cpus_per_task"], request["mem_gb"]


@pytest.mark.parametrize(
    ("words", "cores", "memory"),
    [
        (["benchmark=digits", "hardware=cpu"], 2, 4),
        (["benchmark=digits", "hardware=h100"], 4, 16),
        (["benchmark=resnet", "hardware=h100"], 4 + 8, 16 + 8),
        (["benchmark=resnet", "hardware=h100", "scale=smoke"], 4, 16),
        (["benchmark=resnet", "hardware=h100", "workers=20"], 4 + 20, 16 + 20),
        (["benchmark=resnet", "hardware=h100", "hardware.devices=4"], 4 + 8, 4 * (16 + 8)),
        (["benchmark=data_loading", "hardware=h100"], 4 + 8, 16 + 8),
        # 70.6e9 parameters of 4 bytes: once on the first rank, or in each process.
        ([*LARGE, "strategy=fsdp"], 4, 8 * 16 + 283),
        ([*LARGE, "strategy=ddp"], 4, 8 * 16 + 2260),
        ([*LARGE, "strategy=fsdp", "mode=projected"], 4, 8 * 16),
        ([*LARGE, "method=serving"], 4, 8 * 16),
        ([*LARGE, "method=serving", "method.server=transformers"], 4, 8 * 16 + 283),
        (["benchmark=llama", "hardware=h100", "scale=smoke"], 4, 16),
        (["benchmark=llama", "size=1b", "scale=full", "hardware=cpu"], 2, 4 + 20),  # with gradients and moments
    ],
)
def test_memory_and_cores_follow_devices_workers_and_network(words: list[str], cores: int, memory: float) -> None:
    assert asked(*words) == (cores, memory)


def test_the_shell_has_the_last_word() -> None:
    own = ["hardware.launcher.mem_gb=900", "hardware.launcher.cpus_per_task=7"]
    assert asked(*LARGE, "strategy=fsdp", *own) == (7, 900)
    assert asked(*LARGE, "strategy=fsdp", "hardware.host.memory=10e9", "hardware.host.cores=6") == (6, 80 + 283)
    assert asked(*LARGE, "strategy=fsdp", "benchmark.parameters={70b: 1e9}") == (4, 8 * 16 + 4)


def test_cells_of_another_sweeper_ask_alike() -> None:
    config = compose(["benchmark=resnet", "hardware=h100"])
    assert through._request(config) == request_of(plain(config))
    assert through._request(OmegaConf.create({"hardware": {"launcher": {"mem_gb": 3}}})) == {"mem_gb": 3}
    assert through._request(OmegaConf.create({"lr": 0.1})) == {}


def test_what_is_asked_is_not_part_of_the_cells_identity() -> None:
    words = ["benchmark=llama", "hardware=h100"]
    assert cell_hash(compose(words)) == cell_hash(
        compose([*words, "hardware.host.cores=6", "benchmark.parameters={1b: 1e9}"])
    )


def test_a_dry_run_of_the_suite_shows_what_each_row_asks(shell: Callable[..., int], capsys: Any) -> None:
    rows = "row=llm-full-mp-gpus,resnet50,bert-tf32-fp16"
    assert shell("-m", "suite=milabench", rows, "hardware=h100", "dry_run=true") == 0
    said = capsys.readouterr().out
    assert "tasks_per_node=8 cpus_per_task=4 mem_gb=411 " in said
    assert "tasks_per_node=1 cpus_per_task=12 mem_gb=24 " in said
    assert "tasks_per_node=1 cpus_per_task=4 mem_gb=16 " in said
