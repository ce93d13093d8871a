"""The rate of copies that run side by side: their sum, and an interval that holds it."""

import numpy as np
import pytest

from fourfold.metrics import figures, steady_rate
from fourfold.metrics.throughput import rate, summed
from records import make_record, make_series

UNITS, SECONDS = 32.0, 0.01


def copies(generator: np.random.Generator, count: int, shared: float, own: float, steps: int = 400) -> list[tuple]:
    """Of a mean of 3,200 units a second each; disturbances that last, some of them shared by all (by their time)."""

    def disturbance(size: float) -> np.ndarray:
        return np.repeat(size * generator.standard_normal(steps // 8), 8)

    common = disturbance(shared)
    made = []
    for _ in range(count):
        seconds = SECONDS * (1 + common + disturbance(own) + 0.02 * generator.standard_normal(steps))
        made.append((seconds, np.full(steps, UNITS), np.cumsum(seconds)))
    return made


def test_rates_add_up_and_independent_errors_in_quadrature() -> None:
    made = copies(np.random.default_rng(0), 4, shared=0.0, own=0.0)
    each = [rate(seconds, units) for seconds, units, _ in made]
    found = summed([(seconds, units, None) for seconds, units, _ in made])
    assert found.mean == pytest.approx(sum(one.mean for one in each))
    halves = [one.high - one.mean for one in each]
    assert found.high - found.mean == pytest.approx(np.sqrt(np.sum(np.square(halves))), rel=0.1)
    assert found.freedom > max(one.freedom for one in each)


@pytest.mark.parametrize(("shared", "own"), [(0.0, 0.05), (0.05, 0.0), (0.04, 0.03)])
def test_the_interval_covers_the_sum_whatever_the_copies_share(shared: float, own: float) -> None:
    generator = np.random.default_rng(1)
    hits, trials, truth = 0, 150, 4 * UNITS / SECONDS
    for _ in range(trials):
        found = summed(copies(generator, 4, shared, own))
        hits += found.low <= truth <= found.high
    assert 0.87 <= hits / trials <= 1.0


def test_what_slows_all_at_once_widens_the_interval() -> None:
    generator = np.random.default_rng(2)
    together = [summed(copies(generator, 4, 0.05, 0.0)) for _ in range(20)]
    apart = [summed(copies(generator, 4, 0.0, 0.05)) for _ in range(20)]
    ratio = np.mean([one.high - one.mean for one in together]) / np.mean([one.high - one.mean for one in apart])
    assert ratio == pytest.approx(2.0, rel=0.25)  # sqrt(4): the errors add up


def test_a_copy_without_a_rate_leaves_none_and_one_copy_is_itself() -> None:
    (one,) = copies(np.random.default_rng(3), 1, 0.0, 0.0)
    assert summed([one]) == rate(one[0], one[1])
    assert summed([one, (np.zeros(0), np.zeros(0), np.zeros(0))]) is None


def test_figures_of_a_cell_of_copies() -> None:
    first, second = make_series(300, seconds=0.01), make_series(300, seconds=0.02, seed=1)
    names = ("step_seconds", "step_units")
    series = {**first, **{f"copies.1.{name}": second[name] for name in names}}
    record = make_record()
    record.config["measure"] = {"price": 3.6, "carbon": None}
    found = figures(record, series)
    assert found["units_per_second"] == pytest.approx(3200 + 1600, rel=0.01)
    assert found["copy_0_units_per_second"] == pytest.approx(3200, rel=0.01)
    assert found["copy_1_units_per_second"] == pytest.approx(1600, rel=0.01)
    assert steady_rate(series).mean == found["units_per_second"]
    alone = figures(record, first)
    assert "copy_0_units_per_second" not in alone
    assert found["price_per_unit"] == pytest.approx(alone["price_per_unit"] / 2)  # twice the work at the same time
