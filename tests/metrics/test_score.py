"""Scores by hand; Milabench's formulas on its published table; comparisons that control for many rows."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fourfold.metrics.comparison import Estimate, adjusted, estimate, ratio
from fourfold.metrics.score import (
    MISSING,
    Row,
    by_domain,
    milabench_row,
    milabench_total,
    milabench_trim,
    score,
)

# 42 rows of Milabench's README, 8 x A100 SXM, November 2024: facts about a machine.
PUBLISHED = list(csv.DictReader((Path(__file__).parent / "milabench_readme_a100.csv").open()))


def row(name: str, ratio: float | None = 1.0, state: str = "done", weight: float = 1.0, **rest: object) -> Row:
    rate = None if ratio is None else Estimate(ratio * 100, 0.01, 20)
    return Row(name, state, weight, rate=rate, reference=Estimate(100.0), **rest)


def test_milabenchs_total_is_made_again_from_its_table() -> None:
    scores = [float(line["score"]) for line in PUBLISHED]
    weights = [float(line["weight"]) for line in PUBLISHED]
    assert len(PUBLISHED) == 42
    assert milabench_total(scores, weights, plus_one=False) == pytest.approx(4175.57, abs=0.01)
    assert milabench_total(scores, weights, plus_one=True) == pytest.approx(4189.06, abs=0.01)


def test_milabench_charges_a_failure_twice_and_we_show_it_as_it_does() -> None:
    """llava: one of eight processes fails, the seven others do 2.28 (rounded) each: 14.12 is 7/8 of their sum."""
    llava = next(line for line in PUBLISHED if line["benchmark"] == "llava-single")
    found = milabench_row([[2.3057] * 6] * 7, failures=1, count=8, summed=True)
    assert found.score == pytest.approx(float(llava["score"]), rel=0.001)
    assert found.score == pytest.approx(2.3057 * 7 * 7 / 8)


def test_milabench_trims_one_at_each_end_from_five_on_and_knows_no_warm_up() -> None:
    np.testing.assert_array_equal(milabench_trim([5, 1, 3, 2, 4]), [2, 3, 4])
    np.testing.assert_array_equal(milabench_trim([4, 1, 3, 2]), [1, 2, 3, 4])
    found = milabench_row([[1.0, 10.0, 10.0, 10.0, 10.0], [1.0, 10.0, 10.0, 10.0, 10.0]], 0, 2, summed=False)
    assert found.perf == pytest.approx((1 + 7 * 10) / 8)
    assert found.std_percent == pytest.approx(100 * np.std([1] + [10] * 7) / found.perf)
    assert milabench_row([[], []], 2, 2, summed=True) is None


def test_a_zero_row_takes_milabenchs_older_total_to_zero() -> None:
    assert milabench_total([0.0, 100.0], [1, 1], plus_one=False) == 0.0
    assert milabench_total([0.0, 100.0], [1, 1], plus_one=True) == pytest.approx(101**0.5)
    assert milabench_total([5.0], [0.0], plus_one=True) is None


def test_a_score_is_the_weighted_geometric_mean_of_ratios() -> None:
    found = score([row("a", 2.0, weight=3.0), row("b", 0.5)])
    assert found.mean == pytest.approx(2 ** (3 / 4) * 0.5 ** (1 / 4))
    assert found.value == found.mean
    assert found.complete
    half = 0.01 * np.sqrt(10) / 4 * stats.t.ppf(0.975, 20)
    assert found.high / found.mean == pytest.approx(np.exp(half), rel=0.002)
    assert found.low / found.mean == pytest.approx(np.exp(-half), rel=0.002)


def test_a_failure_is_charged_once_what_does_not_apply_not_at_all_and_what_is_missing_is_said() -> None:
    rows = [row("a", 2.0), row("b", 2.0), row("c", None, "failed", weight=2.0), row("d", None, "not applicable")]
    found = score(rows)
    assert (found.mean, found.coverage, found.value) == (pytest.approx(2.0), 0.5, pytest.approx(1.0))
    assert found.counts == {"done": 2, "failed": 1, "not applicable": 1}
    assert found.complete
    with_missing = score([*rows, row("e", None, MISSING)])
    assert with_missing.value == found.value
    assert not with_missing.complete
    alone = score([*rows, Row("new", "done", rate=Estimate(3.0))])
    assert (alone.value, alone.unreferenced, alone.complete) == (found.value, 1, False)


def test_nothing_done_is_no_mean() -> None:
    assert (score([row("a", None, "failed")]).value, score([row("a", None, "failed")]).mean) == (0.0, None)
    assert score([]).value is None
    assert score([row("a", 2.0, weight=0.0)]).value is None


def test_domains_in_their_order() -> None:
    found = by_domain(
        [row("a", 2.0, domain="vision"), row("b", 8.0, domain="language"), row("c", 2.0, domain="vision")]
    )
    assert {name: one.mean for name, one in found.items()} == pytest.approx({"vision": 2.0, "language": 8.0})


def test_a_ratio_is_welchs_test_on_logarithms() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.lognormal(0, 0.02, 5), generator.lognormal(0.03, 0.05, 7)
    found = ratio(estimate(one), estimate(other))
    expected = stats.ttest_ind(np.log(other), np.log(one), equal_var=False)
    middle = np.exp(np.log(other).mean() - np.log(one).mean())
    low, high = np.exp(expected.confidence_interval(0.95))
    assert found.high / found.low == pytest.approx(high / low)
    assert found.value == pytest.approx(middle, rel=0.002)
    assert found.chance == pytest.approx(expected.pvalue, rel=0.1)


def test_an_estimate_of_one_run_has_the_error_of_its_interval() -> None:
    half = stats.t.ppf(0.975, 15) * 2.0
    assert estimate([100.0], 100 - half, 100 + half, 15).error == pytest.approx(0.02)
    assert estimate([100.0]).error is None
    assert ratio(estimate([100.0]), estimate([90.0])).chance is None
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_holm_controls_for_many_rows() -> None:
    assert adjusted([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    generator = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):  # 20 rows between equals: any verdict is false
        chances = [
            ratio(estimate(generator.lognormal(0, 0.01, 4)), estimate(generator.lognormal(0, 0.01, 4))).chance
            for _ in range(20)
        ]
        wrong += any(chance < 0.05 for chance in adjusted(chances))
    assert wrong <= 0.08 * 200
