"""The meter: each step once, with its time and units; what is excluded is in none."""

import time

import numpy as np
import pytest
import torch

from fourfold.errors import Failed
from fourfold.measure.meter import LOSS_CHUNK, Meter
from fourfold.measure.until import Until

CPU = torch.device("cpu")


def test_steps_have_times_units_losses_and_contexts() -> None:
    meter = Meter(CPU, "images")
    meter.start()
    for step in range(3):
        time.sleep(0.01)
        meter.tick(step + 1, torch.tensor(float(step)), context=step // 2)
    series = meter.series()
    assert (series["step_seconds"] >= 0.009).all()
    np.testing.assert_array_equal(series["step_units"], [1, 2, 3])
    np.testing.assert_array_equal(series["loss"], [0, 1, 2])
    np.testing.assert_array_equal(series["context"], [0, 0, 1])


def test_what_is_excluded_is_in_no_step() -> None:
    meter = Meter(CPU, "images")
    meter.start()
    meter.tick(1)
    with meter.excluded():
        time.sleep(0.05)
    meter.tick(1)
    meter.stop()
    time.sleep(0.05)
    meter.start()
    meter.tick(1)
    assert meter.series()["step_seconds"].max() < 0.04


def test_steps_without_a_loss_are_nan_and_chunks_keep_their_order() -> None:
    meter = Meter(CPU, "images")
    meter.start()
    count = 2 * LOSS_CHUNK + 5
    for step in range(count):
        meter.tick(1, torch.tensor(float(step)) if step % 2 else None)
    losses = meter.losses()
    assert np.isnan(losses[::2]).all()
    np.testing.assert_array_equal(losses[1::2], np.arange(1, count, 2))


def test_phases_have_their_share() -> None:
    meter = Meter(CPU, "images")
    meter.start()
    for _ in range(2):
        with meter.phase("feedback"):
            time.sleep(0.01)
        meter.tick(1)
    assert 0.018 < meter.phase_seconds()["feedback"] < 1


def test_a_tick_outside_a_span_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="start"):
        Meter(CPU, "images").tick(1)


def until(rule: str, timeout: float = 1e6, **values: float) -> Until:
    return Until({"rule": rule, **dict.fromkeys(("steps", "epochs", "seconds", "interval")), **values}, timeout)


def test_steps_and_passes_are_counted_and_data_that_ends_ends() -> None:
    meter = Meter(CPU, "images")
    steps = until("steps", steps=10)
    steps.begin(share=0.5, steps_in_a_pass=100)
    assert [steps.over(count, meter) for count in (4, 5)] == [False, True]
    epochs = until("epochs", epochs=1.5)
    epochs.begin(share=0.5, steps_in_a_pass=3)
    assert [epochs.over(count, meter) for count in (4, 5)] == [False, True]
    once = until("steps", steps=10)
    once.begin(share=1, steps_in_a_pass=4, most=4)
    assert once.over(4, meter)
    assert once.reason == "data"


def test_a_cell_out_of_time_fails() -> None:
    rule = until("steps", timeout=0.0, steps=10)
    rule.begin(1, 1)
    with pytest.raises(Failed, match="timeout") as error:
        rule.over(0, Meter(CPU, "images"))
    assert error.value.reason == "timeout"


def test_ranks_stop_together_whatever_their_clocks_say() -> None:
    """Two ranks step by step; the second one's time is up long before the first one's, whose word counts."""
    meter, words, asked = Meter(CPU, "images"), [], []
    first, second = until("budget", seconds=0.05), until("budget", seconds=1e-9)

    def tell(word: bool) -> bool:
        words.append(word)
        return word

    def hear(word: bool) -> bool:
        asked.append(word)
        return words[-1]

    first.agree, second.agree = tell, hear
    for rule in (first, second):
        rule.begin(1, 1)
    ended = []
    for steps in range(100_000):
        ended = [rule.over(steps, meter) for rule in (first, second)]
        assert ended[0] == ended[1]
        if ended[0]:
            break
        time.sleep(0.001)
    assert ended == [True, True]
    assert (first.reason, second.reason) == ("budget", "budget")
    assert all(asked), "by itself it would have ended at once"
    assert 2 <= len(words) == len(asked) < 40, "they do not ask at every step"


def test_steady_looks_seldom_and_says_why_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 50 steps, then each time there are a tenth more; with a narrow interval it is over, else the time decides."""
    looks: list[int] = []
    rule = {"rule": "steady", "steps": None, "epochs": None, "seconds": 1000.0, "interval": 0.01}

    def steps_until_over(spread: float) -> int:
        generator = np.random.default_rng(0)
        meter, until = Meter(CPU, "images"), Until(rule, timeout=1e9)
        seconds = 0.01 * (1 + spread * generator.standard_normal(3000))
        monkeypatch.setattr(meter, "step_seconds", lambda: looks.append(count) or seconds[:count])
        monkeypatch.setattr(meter, "step_units", lambda: np.ones(count))
        until.begin(1.0, 10**9)
        meter.start()
        for count in range(3000):
            if until.over(count, meter):
                assert until.reason == "steady"
                return count
        return 3000

    assert steps_until_over(0.001) == 50
    assert looks == [50]
    narrow = steps_until_over(0.1)
    assert 300 < narrow < 1500
    assert looks[1:4] == [50, 56, 62]
    assert len(looks) < 45
