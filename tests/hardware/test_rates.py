"""Learning rates that fall: by the formula, over each phase, and as if nothing had happened after a checkpoint."""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fourfold.hardware.engine import scheduled_rate
from learning import Bench, digits, engine, killed_and_resumed, same

COSINE = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0}
COSINE |= {"schedule": "cosine", "schedule_epochs": None, "last_rate": 0.02}


def test_a_cosine_is_that_of_torch() -> None:
    """Also beyond its end, from where torch's rises again: the published code ran 90 epochs with a cosine of 85."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.05)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=85, eta_min=1e-5)
    recipe = {**COSINE, "learning_rate": 0.05, "last_rate": 1e-5, "schedule_epochs": 85.0}
    for epoch in range(90):
        assert scheduled_rate(recipe, epoch, 90.0) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step()


def test_steps_are_those_of_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    reference = torch.optim.lr_scheduler.StepLR(optimizer, 30, 0.1)
    recipe = {**COSINE, "schedule": "step", "learning_rate": 0.01, "schedule_epochs": 30.0}
    for epoch in range(90):
        assert scheduled_rate(recipe, epoch, 90.0) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step()


class Falling(Bench):
    """Notes the rate of each step."""

    def __init__(self, setting: str = "class_incremental", **recipe: Any) -> None:
        benchmark = digits()
        benchmark.recipe = replace(benchmark.recipe, optimizer={**COSINE, **recipe})
        super().__init__("finetune", setting, benchmark=benchmark, steps=20)
        self.rates: list[float] = []
        observe = self.method.observe

        def noting(*observed: Any) -> Any:
            self.rates.append(self.method.optimizers["all"].param_groups[0]["lr"])  # type: ignore[attr-defined]
            return observe(*observed)

        self.method.observe = noting  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _recipe_as_it_was() -> Any:
    """``digits`` is made once for all tests."""
    recipe = digits().recipe
    yield
    digits().recipe = recipe


def test_each_phase_begins_at_the_first_rate_and_falls_towards_the_last() -> None:
    bench = Falling()
    bench.learn_all()
    phases = [bench.rates[at : at + 4] for at in range(0, 20, 4)]
    expected = [0.1, 0.1 - 0.08 * (1 - 2**-0.5) / 2, 0.06, 0.02 + 0.08 * (1 - 2**-0.5) / 2]
    for phase in phases:
        assert phase == pytest.approx(expected)


def test_a_constant_rate_stays() -> None:
    bench = Falling(schedule="constant")
    bench.learn_all()
    assert set(bench.rates) == {0.1}


def test_a_killed_cell_goes_on_at_the_same_rates(tmp_path: Path) -> None:
    whole, resumed = killed_and_resumed(Falling, tmp_path, every=3, killed_at=11)
    assert same(whole.parameters(), resumed.parameters())
    assert resumed.rates[-5:] == whole.rates[-5:]


def test_optimizers_that_are_gone_are_forgotten() -> None:
    gc.collect()
    before = len(engine()._scheduled)
    made = engine().optimizer([nn.Parameter(torch.zeros(1))], COSINE)
    engine().set_rates(1.0, 2.0)
    assert made.param_groups[0]["lr"] == pytest.approx(0.06)
    assert len(engine()._scheduled) == before + 1
    del made
    gc.collect()
    assert len(engine()._scheduled) == before
