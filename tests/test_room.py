"""A network that its devices cannot hold is told before anything is put there; a step that did not fit, after."""

from typing import Any

import pytest
import torch

from fourfold import room
from fourfold.benchmarks import interface
from fourfold.benchmarks.models import parameter_count
from fourfold.composition import compose, plain
from fourfold.errors import Refused
from fourfold.hardware.device import acquire
from fourfold.metrics import figures
from fourfold.recipe import resolve

SEVENTY = ["benchmark=llama", "size=70b", "scale=full", "benchmark.data.megabytes=0.1", "hardware.stand_in=true"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        # 16 bytes a parameter: weight, gradient and AdamW's two states, in 32 bits.
        (["hardware=a100"], ("70.6e9 parameters need 1,129 GB on each device, and a100 has 80", "15 devices")),
        pytest.param(
            ["hardware=mi300", "weights_precision=bf16"],
            ("need 564 GB on each device, and mi300 has 192", "3 devices"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["hardware=a100", "method=inference"], ("weights of 70.6e9 parameters need 282 GB",), marks=pytest.mark.slow
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(run: Any, words: list[str], says: tuple[str, ...]) -> None:
    record = run(*SEVENTY, *words, "precision=bf16")
    assert record.state == "refused"
    assert "\n" not in record.message
    for expected in (*says, "strategy=fsdp"):
        assert expected in record.message


def test_a_network_that_is_spread_needs_room_for_a_part_on_each_device() -> None:
    words = ["benchmark=llama", "scale=smoke", "hardware=a100", "hardware.stand_in=true", "hardware.memory=5e6"]
    words += ["benchmark.data.megabytes=0.1"]  # half a million parameters of 16 bytes
    spread = ["hardware.devices=2", "strategy=fsdp"]
    check(*words, *spread)
    for more in ([], ["hardware.devices=2", "strategy=ddp"]):
        with pytest.raises(Refused, match="2 devices and strategy=fsdp hold it"):
            check(*words, *more)


def test_what_is_frozen_needs_neither_gradients_nor_states() -> None:
    words = ["benchmark=diffusion", "scale=smoke", "hardware=a100", "hardware.stand_in=true"]
    network = interface.build(*cell_of(*words)).network(0, "meta")
    count, trained = parameter_count(network), parameter_count(network, trained=True)
    assert trained < count
    needed = 4 * (count + 3 * trained)
    check(*words, f"hardware.memory={needed}")
    with pytest.raises(Refused, match="adamw"):
        check(*words, f"hardware.memory={needed - 1}")


def cell_of(*words: str) -> tuple[Any, Any]:
    cell = plain(compose(list(words)))
    return cell, resolve(cell, accelerator=False)


def check(*words: str) -> None:
    cell, recipe = cell_of(*words)
    room.check(cell, recipe, interface.build(cell, recipe), acquire(cell["hardware"]))


@pytest.mark.slow
def test_what_fits_runs(run: Any) -> None:
    words = ["benchmark=llama", "hardware=a100", "hardware.stand_in=true", "scale=smoke", "until.steps=2"]
    assert run(*words).state == "done"
    # The same of a device that is just too small: 511,232 parameters of 16 bytes.
    count = figures(run(*words))["parameters"]
    assert run(*words, f"hardware.memory={16 * count + 1}").state == "done"
    assert run(*words, f"hardware.memory={16 * count - 1}").state == "refused"


def test_a_step_that_ran_out_of_memory_says_which_batch_would_fit(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory: tried to allocate 2.00 GiB")

    monkeypatch.setattr("fourfold.experiment.learn_and_judge", too_much)
    words = ["benchmark=llama", "hardware=a100", "hardware.stand_in=true", "scale=smoke", "batch=64"]
    record = run(*words, "hardware.memory=100e6")
    assert (record.state, record.reason) == ("failed", "out of memory")
    assert "would fit (projected)" in record.message
    batch = int(record.message.split("batch=")[1].split()[0])
    assert 1 <= batch < 64


def test_the_remedy_names_values_that_the_cell_has() -> None:
    def remedy(*words: str) -> str:
        return room.remedy(plain(compose([*words, "hardware=cpu"])), None)

    assert remedy("benchmark=matmul") == "a smaller benchmark.model.n= may fit"
    assert remedy("benchmark=all_reduce") == "a smaller benchmark.model.megabytes= may fit"
    assert remedy("benchmark=resnet") == "a smaller batch=, benchmark.data.samples= or another precision= may fit"
    assert remedy("benchmark=llama") == "a smaller batch= or another precision= may fit"
