"""The steady-state rate on series of known mean: warm-up, autocorrelation, stalls, unequal work."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.signal import lfilter

from fourfold.metrics.throughput import rate, warmup_steps

UNITS, SECONDS = 32.0, 0.01
TRIALS = 200


def correlated(generator: np.random.Generator, steps: int, correlation: float) -> np.ndarray:
    """AR(1) noise of unit variance."""
    noise = generator.standard_normal(steps + 200)
    return lfilter([1.0], [1.0, -correlation], noise)[200:] * np.sqrt(1 - correlation**2)


def synthetic(
    generator: np.random.Generator, steps: int, correlation: float, warmup: float, spread: float = 0.1
) -> np.ndarray:
    """Seconds a step: 10 ms, AR(1) noise, and a slow start that fades over ``warmup`` steps."""
    start = 1 + 3 * np.exp(-np.arange(steps) / warmup) if warmup else 1.0
    return SECONDS * start * (1 + spread * correlated(generator, steps, correlation))


@pytest.mark.parametrize(
    ("steps", "correlation", "warmup"),
    [(300, 0.0, 3.0), (1000, 0.0, 20.0), (1000, 0.5, 20.0), (2000, 0.8, 20.0), (5000, 0.9, 50.0)],
)
def test_mean_and_coverage(steps: int, correlation: float, warmup: float) -> None:
    generator = np.random.default_rng(0)
    found = [rate(synthetic(generator, steps, correlation, warmup), np.full(steps, UNITS)) for _ in range(TRIALS)]
    truth = UNITS / SECONDS
    covered = [one.low <= truth <= one.high for one in found]
    assert 0.90 <= np.mean(covered) <= 0.98
    assert np.mean([one.mean for one in found]) == pytest.approx(truth, rel=0.005)
    assert np.mean([one.steady for one in found]) > 0.98


def coverage(series: Callable[[np.random.Generator], np.ndarray], truth: float) -> tuple[float, float, float]:
    """(share of the intervals that hold the truth, mean of the rates, share called steady) of seconds a step."""
    generator = np.random.default_rng(1)
    found = [rate(seconds, np.full(len(seconds), UNITS)) for seconds in (series(generator) for _ in range(TRIALS))]
    held = np.mean([one.low <= truth <= one.high for one in found])
    return float(held), float(np.mean([one.mean for one in found])), float(np.mean([one.steady for one in found]))


@pytest.mark.parametrize(
    ("steps", "share", "times"), [(1000, 0.01, 6), (3000, 0.01, 6), (1000, 0.02, 3), (1000, 0.05, 2)]
)
def test_stalls_now_and_then_belong_to_the_rate(steps: int, share: float, times: float) -> None:
    def series(generator: np.random.Generator) -> np.ndarray:
        seconds = SECONDS * (1 + 0.05 * correlated(generator, steps, 0.3))
        seconds[generator.random(steps) < share] *= times
        seconds[:20] *= 1 + 3 * np.exp(-np.arange(20) / 5)
        return seconds

    truth = UNITS / (SECONDS * (1 + share * (times - 1)))
    held, mean, _ = coverage(series, truth)
    assert 0.90 <= held <= 0.98
    assert mean == pytest.approx(truth, rel=0.005)


@pytest.mark.parametrize(
    ("until", "depth", "sudden"), [(0.2, 0.1, False), (0.3, 0.15, False), (0.25, 0.1, True), (0.4, 0.1, True)]
)
def test_clocks_that_settle_drift_first(until: float, depth: float, sudden: bool) -> None:
    """A device that is fast while it is cool, and then steady: by a ramp or a sudden change of level."""
    steps = 2000

    def series(generator: np.random.Generator) -> np.ndarray:
        level = np.ones(steps)
        cool = int(until * steps)
        level[:cool] = 1 - depth if sudden else np.linspace(1 - depth, 1, cool)
        return SECONDS * level * (1 + 0.05 * correlated(generator, steps, 0.4))

    held, mean, steady = coverage(series, UNITS / SECONDS)
    assert 0.90 <= held <= 0.98
    assert mean == pytest.approx(UNITS / SECONDS, rel=0.005)
    assert steady > 0.98


def test_what_drifts_to_the_end_is_told_and_what_does_not_is_not() -> None:
    drifting = SECONDS * np.linspace(0.975, 1.025, 2000)
    noise = lambda generator, correlation: 1 + 0.05 * correlated(generator, 2000, correlation)  # noqa: E731
    assert coverage(lambda generator: drifting * noise(generator, 0.3), UNITS / SECONDS)[2] < 0.1
    assert coverage(lambda generator: SECONDS * noise(generator, 0.8), UNITS / SECONDS)[2] > 0.98
    found = rate(drifting * noise(np.random.default_rng(0), 0.3), np.full(2000, UNITS))
    assert found.drift == pytest.approx(0.05, abs=0.015)


def test_a_plain_mean_would_be_wrong() -> None:
    """What the care is for: the same series without it."""
    generator = np.random.default_rng(0)
    seconds = synthetic(generator, 1000, 0.5, 20.0)
    assert UNITS * len(seconds) / seconds.sum() < 0.96 * UNITS / SECONDS
    found = rate(seconds, np.full(1000, UNITS))
    assert found.mean == pytest.approx(UNITS / SECONDS, rel=0.02)
    assert 40 <= found.warmup <= 200


def test_the_slow_first_step_goes_and_a_stall_in_the_middle_stays() -> None:
    seconds = np.full(400, SECONDS) + 1e-5 * np.random.default_rng(0).standard_normal(400)
    seconds[0], seconds[150] = 5.0, 0.5
    found = rate(seconds, np.full(400, UNITS))
    assert 1 <= found.warmup <= 10
    assert found.low < UNITS / seconds[found.warmup :].mean() < found.high
    assert found.steps_used + found.warmup == 400


def test_exact_values() -> None:
    """10 steps of 1 and 3 s with 2 units each: 20 units in 20 s; batches of one step, s = sqrt(10/9), t_9 = 2.262."""
    found = rate([1.0, 3.0] * 5, [2.0] * 10)
    assert found.mean == pytest.approx(1.0)
    assert found.high - found.mean == pytest.approx(2.2621572 * np.sqrt(10 / 9 / 10) / 2, rel=1e-6)
    assert (found.warmup, found.steps_used, found.steady) == (0, 10, True)


def test_steps_count_by_their_work() -> None:
    units = np.tile([10.0, 30.0], 100)
    found = rate(units / 1000, units)
    assert found.mean == pytest.approx(1000)
    assert found.high - found.low < 1e-6


def test_a_warmup_that_never_ends_is_told() -> None:
    falling = np.linspace(2.0, 1.0, 400)
    assert not rate(falling, np.ones(400)).steady


@pytest.mark.parametrize("series", [([], []), ([0.0, 0.0], [1.0, 1.0]), ([1.0, 1.0], [0.0, 0.0])])
def test_no_time_or_no_work_is_no_rate(series: tuple[list[float], list[float]]) -> None:
    assert rate(*series) is None


def test_few_steps_have_no_interval() -> None:
    found = rate([0.5, 0.5, 0.5], [1.0, 1.0, 1.0])
    assert (found.mean, found.low, found.high) == (2.0, None, None)


def test_series_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        rate([1.0, 1.0], [1.0])


def test_relative_half_width() -> None:
    found = rate([1.0, 3.0] * 5, [2.0] * 10)
    assert found.relative_half_width == pytest.approx(found.high - 1.0)
    assert rate([1.0], [1.0]).relative_half_width is None


def test_mser_cuts_where_the_squared_error_of_the_rest_is_least() -> None:
    """By hand for 9, 1, 2, 1, 2, 1, 2, 1 (clipped at 1.5 + 8 * 0.7413): any cut at 1 beats none; 2 leaves 6 values."""
    assert warmup_steps([9.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]) == (1, True)
    assert warmup_steps([1.0, 1.0, 1.0]) == (0, True)
