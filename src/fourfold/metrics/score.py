"""One number for a suite: how fast a machine is beside a reference, over rows of unlike units.

Each row gives the ratio of its rate to the reference's; a score is their weighted geometric mean (the only mean for
which the choice of the reference does not change the order of machines: Fleming & Wallace 1986), times the share of
the weight that was done: a row that fails costs its weight, once. What does not apply to the machine costs nothing,
and what was not run is not guessed: the score is then of the rows that were, and says that it is incomplete.

``milabench_*`` are Milabench's own formulas, with which its published numbers can be made again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from fourfold import errors
from fourfold.metrics.comparison import Estimate

MISSING = "missing"
DRAWS = 2000


@dataclass(frozen=True)
class Row:
    """One row of a suite on one machine. ``state``: done, failed, missing, not applicable; a failure of any kind
    (unavailable, interrupted, refused) is failed. ``rate`` and ``reference`` are None where there is none.
    """

    name: str
    state: str
    weight: float = 1.0
    domain: str = ""
    rate: Estimate | None = None
    reference: Estimate | None = None

    @property
    def ratio(self) -> float | None:
        """The rate over the reference's; None unless both are known."""
        return self.rate.mean / self.reference.mean if self.rate and self.reference else None


@dataclass(frozen=True)
class Score:
    """mean: weighted geometric mean of the ratios of ``done`` rows, with the ends of its 95 % interval.

    value = mean x coverage, coverage = weight done / (weight done + weight failed). counts: rows by state;
    ``unreferenced``: rows that were done and have no reference to compare with, which count for nothing.
    """

    value: float | None
    mean: float | None
    low: float | None
    high: float | None
    coverage: float
    counts: dict[str, int] = field(default_factory=dict)
    unreferenced: int = 0

    @property
    def complete(self) -> bool:
        """Whether every row that applies was tried."""
        return not self.counts.get(MISSING) and not self.unreferenced


def score(rows: Iterable[Row]) -> Score:
    """Of rows with weight above 0. The interval is by parametric bootstrap: each row's rate and its reference's are
    drawn anew from what their own intervals say, the rows themselves are the suite and stay.
    """
    rows = [row for row in rows if row.weight > 0]
    counts = {state: sum(row.state == state for row in rows) for state in dict.fromkeys(row.state for row in rows)}
    compared = [row for row in rows if row.state == errors.DONE and row.ratio]
    unreferenced = sum(row.state == errors.DONE for row in rows) - len(compared)
    done = sum(row.weight for row in compared)
    failed = sum(row.weight for row in rows if row.state == errors.FAILED)
    coverage = done / (done + failed) if done + failed else 0.0
    if not compared:
        return Score(0.0 if failed else None, None, None, None, coverage, counts, unreferenced)
    weights = np.asarray([row.weight for row in compared]) / done
    logs = np.log([row.ratio or np.nan for row in compared])
    mean = float(np.exp(weights @ logs))
    draws = np.random.default_rng(0)
    noise = np.stack([_drawn(row.rate, draws) - _drawn(row.reference, draws) for row in compared], axis=1)
    low, high = np.exp(np.percentile((logs + noise) @ weights, [2.5, 97.5]))
    return Score(mean * coverage, mean, float(low), float(high), coverage, counts, unreferenced)


def by_domain(rows: Iterable[Row]) -> dict[str, Score]:
    """A score for each domain, in the order in which they first appear."""
    rows = list(rows)
    return {name: score(row for row in rows if row.domain == name) for name in dict.fromkeys(r.domain for r in rows)}


def _drawn(estimate: Estimate | None, draws: np.random.Generator) -> np.ndarray:
    """Errors of the logarithm, [DRAWS]; 0 where the estimate has no interval."""
    if estimate is None or not estimate.error or estimate.freedom < 1:
        return np.zeros(DRAWS)
    return estimate.error * draws.standard_t(estimate.freedom, DRAWS)


# ------------------------------------------------------------------------------------- Milabench's own


@dataclass(frozen=True)
class MilabenchRow:
    """Milabench's columns of a row: perf and its spread in per cent of it, and the score."""

    perf: float
    sem_percent: float
    std_percent: float
    score: float


def milabench_trim(rates: ArrayLike) -> np.ndarray:
    """Without one smallest and one largest, if there are five or more."""
    found = np.sort(np.asarray(rates, dtype=np.float64))
    return found[1:-1] if len(found) >= 5 else found


def milabench_row(
    processes: Sequence[ArrayLike], failures: int, count: int, summed: bool, runs: int = 1
) -> MilabenchRow | None:
    """Of the rates that each process observed, warm-up included as Milabench does.

    summed: each process has a device of its own, and the score is their sum, over ``runs`` of the whole its mean; else
    it is the mean of all rates. It is multiplied by the share of processes that did not fail, though the sum of a
    single run lacks the failed ones already. None without any rate.
    """
    processes = [rates for rates in processes if len(np.atleast_1d(rates))]
    if not processes:
        return None
    pooled = milabench_trim(np.concatenate([np.asarray(rates, dtype=np.float64) for rates in processes]))
    perf, spread = float(pooled.mean()), float(pooled.std())
    total = sum(float(milabench_trim(rates).mean()) for rates in processes) / runs if summed else perf
    sem = spread / np.sqrt(len(pooled))
    return MilabenchRow(perf, 100 * sem / perf, 100 * spread / perf, total * (1 - failures / count))


def milabench_total(scores: ArrayLike, weights: ArrayLike, plus_one: bool) -> float | None:
    """exp(sum w ln s / sum w), with s + 1 in place of s since November 2024. None without weight; without "+1" a row of
    0 makes the whole 0.
    """
    values, shares = np.asarray(scores, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if shares.sum() <= 0:
        return None
    counted = values[shares > 0] + (1.0 if plus_one else 0.0)
    if (counted <= 0).any():
        return 0.0
    return float(np.exp((shares[shares > 0] * np.log(counted)).sum() / shares.sum()))
