"""Whether gradients begin anew is seen; whether two cells did the same work, too."""

import numpy as np
import pytest
import torch

from fourfold.measure.clock import Clock
from fourfold.measure.meter import Meter
from fourfold.measure.work import WATCHED, GradientWatch
from fourfold.metrics.verification import LENGTH, TOLERANCE, agreement, fingerprint, same_work
from records import make_record


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


def moved(losses: list[float], share: float, step: int) -> list[float]:
    """With one of the losses off by a share of the first."""
    return [value + share * losses[0] * (at == step) for at, value in enumerate(losses)]


def test_fingerprints_agree_within_the_coarser_precision() -> None:
    losses = np.linspace(2.3, 1.9, 20)
    one = fingerprint(losses)
    assert len(one) == LENGTH
    near = moved(one, 0.5 * TOLERANCE["bf16"], 0)
    assert agreement(one, list(one), ("fp32", "fp32")).same is True
    assert agreement(one, near, ("fp32", "bf16")).same is True
    found = agreement(one, near, ("fp32", "fp32"))
    assert found.same is False
    assert str(found).startswith("DIFFERENT work: at step 0 losses 2.3 and 2.3115, 0.005 apart (tolerance 2e-06)")


def test_later_losses_may_differ_more_by_the_growth_of_the_benchmark() -> None:
    """1.5 times the tolerance of the first step is too far for it, and not for the fourth: 1.2 ** 3 = 1.728."""
    one = fingerprint(np.linspace(2.3, 1.9, 20))
    off = 1.5 * TOLERANCE["fp32"]
    assert agreement(one, moved(one, off, 0), ("fp32", "fp32")).same is False
    assert agreement(one, moved(one, off, 3), ("fp32", "fp32")).same is True
    assert agreement(one, moved(one, off, 3), ("fp32", "fp32"), growth=1.0).same is False
    # With a growth of 1000 the third loss may be anything: only two are compared.
    assert agreement(one, moved(one, 0.5, 2), ("fp32", "fp32"), growth=1000.0).same is True
    assert agreement(one, moved(one, 0.01, 1), ("fp32", "fp32"), growth=1000.0).same is False


def test_what_cannot_be_compared_says_why() -> None:
    assert str(agreement(fingerprint([np.nan]), [1.0], ("fp32", "fp32"))) == (
        "work not compared: there are no losses of the same step"
    )
    one, other = make_record("bert", "a100"), make_record("bert", "cpu")
    for record, kind in ((one, "cuda"), (other, "cpu")):
        record.device = {"kind": kind}
        record.measurements |= {"fingerprint": [2.0, 1.9], "device_randomness": kind == "cuda"}
    assert same_work(one, one).same is True
    assert str(same_work(one, other)) == "work not compared: random numbers (dropout) came from devices of two kinds"
    one.measurements["device_randomness"] = False
    assert same_work(one, other).same is True
    one.config["benchmark"]["rounding_growth"], one.measurements["fingerprint"] = 1e6, [2.0, 2.5]
    assert same_work(one, other).same is True
    one.recipe["precision"] = None
    assert str(same_work(one, other)) == "work not compared: the precision of one is not known"


def test_a_run_is_like_itself_and_tells_whether_its_device_drew_random_numbers(run) -> None:
    """Reformer's reversible layers drew their seeds from the operating system."""
    words = ("benchmark=reformer", "hardware=cpu", "tracking=off", "until.steps=2", "batch=1")
    one, other = run(*words), run(*words, "timeout=999")
    assert one.measurements["fingerprint"] == other.measurements["fingerprint"]
    assert one.measurements["device_randomness"] is True
    assert run("benchmark=digits", "hardware=cpu", "until.steps=2").measurements["device_randomness"] is False


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
