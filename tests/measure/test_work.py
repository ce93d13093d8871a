"""Whether gradients begin anew is seen; whether two cells did the same work, too."""

import numpy as np
import pytest
import torch

from fourfold.measure.clock import Clock
from fourfold.measure.meter import Meter
from fourfold.measure.work import WATCHED, GradientWatch
from fourfold.metrics.verification import LENGTH, TOLERANCE, agreement, fingerprint


def train(steps: int, zero: bool, optimizer: type = torch.optim.SGD) -> GradientWatch:
    watch = GradientWatch()
    network = torch.nn.Linear(3, 2)
    update = optimizer(network.parameters(), lr=0.1)
    for _ in range(steps):
        if zero:
            update.zero_grad()
        for _ in range(2):  # two losses before an update add up, rightly
            network(torch.ones(4, 3)).sum().backward()
        update.step()
    watch.close()
    return watch


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_gradients_that_begin_anew_pass_and_others_do_not(optimizer: type) -> None:
    assert train(5, zero=True, optimizer=optimizer).zeroed() is True
    assert train(5, zero=False, optimizer=optimizer).zeroed() is False


def test_one_update_proves_nothing() -> None:
    assert train(1, zero=True).zeroed() is None
    assert train(0, zero=True).zeroed() is None


def test_only_the_first_updates_are_looked_at() -> None:
    assert train(10, zero=True)._looks == WATCHED


def test_a_cell_that_does_not_zero_its_gradients_fails(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", lambda self, set_to_none=True: None)
    record = run("benchmark=digits", "until.steps=5")
    assert (record.state, record.reason) == ("failed", "work")
    assert "gradients of one update were still there" in record.message


def test_fingerprints_agree_within_the_coarser_precision() -> None:
    losses = np.linspace(2.3, 1.9, 20)
    one = fingerprint(losses)
    assert len(one) == LENGTH
    near = [value * (1 + 0.5 * TOLERANCE["bf16"]) for value in one]
    assert agreement(one, list(one), ("fp32", "fp32")).same is True
    assert agreement(one, near, ("fp32", "bf16")).same is True
    found = agreement(one, near, ("fp32", "fp32"))
    assert found.same is False
    assert str(found).startswith("DIFFERENT work: at step 0 losses 2.3 and 2.3575, 0.024 apart (tolerance 0.001)")


def test_what_has_no_losses_is_not_compared() -> None:
    assert agreement(fingerprint([np.nan, np.nan]), [1.0], ("fp32", "fp32")).same is None
    assert str(agreement([], [], ("fp32", None))) == "no losses to compare"


class Event:
    """A device event whose clock starts far from zero and whose differences are exact in single precision only when
    short, as a driver's are.
    """

    now = 0.0
    passed = True

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Event.now += 0.1
        self.at = Event.now

    def query(self) -> bool:
        return Event.passed

    def elapsed_time(self, other: "Event") -> float:
        return float(np.float32(1e3 * (other.at - self.at)))


class Device:
    Event = Event
    waited = 0

    @staticmethod
    def synchronize() -> None:
        Device.waited += 1


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(torch, "get_device_module", lambda kind: Device)
    Event.now, Event.passed, Device.waited = 0.0, True, 0
    return torch.device("xpu", 0)


@pytest.mark.parametrize("passed", [True, False])
def test_device_events_are_never_waited_for_in_the_loop_and_stay_exact_over_hours(
    device: torch.device, passed: bool
) -> None:
    Event.passed = passed
    clock = Clock(device)
    marks = [clock.mark() for _ in range(50_000)]
    assert marks == list(range(50_000))
    assert Device.waited == 0
    assert (len(clock._events) > 40_000) is not passed
    seconds = clock.resolve()
    assert Device.waited == 1
    np.testing.assert_allclose(np.diff(seconds), 0.1, rtol=1e-6)
    assert len(seconds) == len(clock) == 50_000


def test_a_meter_on_a_device_gives_steps_shares_and_their_ends(device: torch.device) -> None:
    """Each mark takes 0.1 s: a step is begin and end of forward, and its own end; between spans is nothing."""
    meter = Meter(device, "images")
    for _ in range(2):
        meter.start()
        for _ in range(3):
            with meter.phase("forward"):
                pass
            meter.tick(1)
        meter.stop()
    series = meter.series()
    np.testing.assert_allclose(series["step_seconds"], 0.3, rtol=1e-5)
    np.testing.assert_allclose(series["forward_seconds"], 0.1, rtol=1e-5)
    begun = [at for _, at in meter._spans]
    expected = np.concatenate([begun[0] + 0.3 * np.arange(1, 4), begun[1] + 0.3 * np.arange(1, 4)])
    np.testing.assert_allclose(series["step_ended"], expected, rtol=1e-5)
