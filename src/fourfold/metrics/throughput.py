"""How fast a cell worked once it was warm: units of work a second, with an interval.

Steps of one run are neither identically distributed (the first ones are slow) nor independent (clocks,
caches and neighbours drift), so a plain mean with a plain interval is wrong twice. Warm-up is cut by MSER,
what is left is tested for a trend, and the interval comes from batch means whose remaining correlation is
allowed for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fourfold.metrics.statistics import student_quantile, summarise

Array = NDArray[np.float64]

# The series of a further copy of a cell (strategy=replicas) begin with this.
COPY = "copies.{}."
# Batch means: start with at most this many batches, merge neighbours down to at least the other number.
MOST_BATCHES, LEAST_BATCHES = 64, 8
# Fewer steps than this and their spread says too little for an interval.
LEAST_STEPS = 8
# From this many steps on, MSER looks at means of five steps (MSER-5), below at single steps.
MSER_5_STEPS = 100
# What is left drifts if a line through its batch means rises or falls by more than this share of the mean, and by
# more than chance allows at this level.
DRIFT, DRIFT_LEVEL = 0.01, 0.999


@dataclass(frozen=True)
class Rate:
    """Units a second in the steady state: mean and the ends of its 95 % interval (None: too few steps).

    ``warmup`` steps were cut off, ``steps_used`` were not. ``steady`` is False if the warm-up was still going on when
    half of the steps were over (the rate is then that of the second half), or if the rest drifts: by ``drift``, the
    change of the time a unit over the steps used as a share of its mean, 0 where there is no more than chance.
    ``freedom``: degrees of freedom of the interval; 0 without one.
    """

    mean: float
    low: float | None
    high: float | None
    steps_used: int
    warmup: int
    steady: bool = True
    drift: float = 0.0
    freedom: int = 0

    @property
    def relative_half_width(self) -> float | None:
        """Half of the interval over the mean: how well the rate is known."""
        return None if self.high is None else (self.high - self.mean) / self.mean


@dataclass(frozen=True)
class Repeats:
    """The rate over repeats from the start: mean and the ends of its 95 % interval, by the spread between them.

    between: standard deviation of the repeats' rates; within: root mean square of the standard error that each has
    from its own steps; both as shares of the mean. Where ``between`` is clearly larger, more steps will not help.
    """

    mean: float
    low: float
    high: float
    count: int
    between: float
    within: float | None


def rate_over_repeats(rates: Iterable[Rate | None]) -> Repeats | None:
    """The steady rates of repeats; None below two that have one."""
    found = [one for one in rates if one is not None]
    summary = summarise(one.mean for one in found)
    if summary is None or summary.low is None or summary.high is None or summary.standard_error is None:
        return None
    errors = [one.relative_half_width / student_quantile(one.freedom) for one in found if one.relative_half_width]
    within = float(np.sqrt(np.mean(np.square(errors)))) if errors else None
    between = summary.standard_error * float(np.sqrt(summary.count)) / summary.mean
    return Repeats(summary.mean, summary.low, summary.high, summary.count, between, within)


def summed(copies: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike | None]]) -> Rate | None:
    """The rate of copies that run side by side, each given by its (step_seconds, step_units, step_ended): the sum.

    Its interval takes the copies as independent (Welch 1947; degrees of freedom by Satterthwaite 1946), widened by as
    much as what slows several at once makes their sum vary more. None if one has no rate.
    """
    found = [rate(seconds, units) for seconds, units, _ in copies]
    rates = [one for one in found if one is not None]
    if not rates or len(rates) < len(found):
        return None
    if len(rates) == 1:
        return rates[0]
    mean = sum(one.mean for one in rates)
    used, warmup = min(one.steps_used for one in rates), max(one.warmup for one in rates)
    steady = all(one.steady for one in rates)
    drift = max((one.drift for one in rates), key=abs)
    if any(one.high is None for one in rates):
        return Rate(mean, None, None, used, warmup, steady, drift)
    errors = [(one.high - one.mean) / student_quantile(one.freedom) for one in rates if one.high is not None]
    squared = sum(error**2 for error in errors)
    if squared == 0:
        return Rate(mean, mean, mean, used, warmup, steady, drift, min(one.freedom for one in rates))
    freedom = squared**2 / sum(error**4 / one.freedom for error, one in zip(errors, rates, strict=True))
    half = student_quantile(freedom) * float(np.sqrt(squared * _in_step(copies, rates)))
    return Rate(mean, max(mean - half, 0.0), mean + half, used, warmup, steady, drift, int(freedom))


def _in_step(copies: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike | None]], rates: Sequence[Rate]) -> float:
    """Variance of the summed rate over the sum of the copies' variances, in windows after the warm-up of all; at least
    1, which it is for independent ones, at most their number, and 1 where the times of steps are not known.
    """
    done: list[tuple[Array, Array]] = []
    for (_, units, ended), one in zip(copies, rates, strict=True):
        if ended is None:
            return 1.0
        times = np.asarray(ended, dtype=np.float64)[one.warmup :]
        done.append((times, np.cumsum(np.asarray(units, dtype=np.float64)[one.warmup :])))
    first, last = max(times[0] for times, _ in done), min(times[-1] for times, _ in done)
    windows = min(MOST_BATCHES, min(one.steps_used for one in rates) // 4)
    if not last > first or windows < LEAST_BATCHES:
        return 1.0
    edges = np.linspace(first, last, windows + 1)
    work = np.array([np.diff(np.interp(edges, times, units)) for times, units in done])
    apart = float(work.var(axis=1, ddof=1).sum())
    return float(np.clip(work.sum(axis=0).var(ddof=1) / apart, 1.0, len(done))) if apart > 0 else 1.0


def rate(step_seconds: ArrayLike, step_units: ArrayLike) -> Rate | None:
    """The steady-state rate: units done in the steps after warm-up over the seconds that they took.

    A ratio of sums, so steps of unequal work count by their work. None if no time or no work was recorded.
    Raises ValueError if the two series differ in length.
    """
    seconds, units = _usable(step_seconds, step_units)
    if seconds.sum() <= 0 or units.sum() <= 0:
        return None
    warmup, steady = warmup_steps(_seconds_per_unit(seconds, units))
    seconds, units = seconds[warmup:], units[warmup:]
    if seconds.sum() <= 0 or units.sum() <= 0:
        return None
    mean = float(units.sum() / seconds.sum())
    found = _half_width(units - mean * seconds)
    if found is None:
        return Rate(mean, None, None, len(seconds), warmup, steady)
    half, batches = found[0] / float(seconds.mean()), found[1]
    drift = _drift(_batch_means(seconds, batches) * mean / units.mean())
    steady = steady and drift == 0.0
    return Rate(mean, max(mean - half, 0.0), mean + half, len(seconds), warmup, steady, drift, batches - 1)


def warmup_steps(values: ArrayLike) -> tuple[int, bool]:
    """How many of the first values are warm-up, and whether it was over within the first half.

    MSER (White 1997; MSER-5: White, Cobb & Spratt 2000): cut d so that the squared standard error of the
    rest, sum_{i>=d} (x_i - mean_d)^2 / (n - d)^2, is least. Single stalls are pulled in to the bulk of the
    values first: a pause in the middle of a run is noise, not the end of warm-up.
    """
    data = np.asarray(values, dtype=np.float64)
    size = 5 if len(data) >= MSER_5_STEPS else 1
    count = len(data) // size
    if count < 4:
        return 0, True
    means = _without_stalls(data)[: count * size].reshape(count, size).mean(axis=1)
    remaining = np.arange(count, 0, -1, dtype=np.float64)
    sums = np.cumsum(means[::-1])[::-1]
    squares = np.cumsum(means[::-1] ** 2)[::-1]
    errors = np.maximum(squares - sums**2 / remaining, 0.0) / remaining**2
    # The last few cuts leave so few values that their spread is luck; the standard remedy is to look no
    # further than the middle.
    cut = int(np.argmin(errors[: count // 2 + 1]))
    return cut * size, cut < count // 2


def _usable(step_seconds: ArrayLike, step_units: ArrayLike) -> tuple[Array, Array]:
    seconds = np.asarray(step_seconds, dtype=np.float64)
    units = np.asarray(step_units, dtype=np.float64)
    if seconds.shape != units.shape or seconds.ndim != 1:
        raise ValueError(f"step_seconds {seconds.shape} and step_units {units.shape} must be series of one length")
    usable = np.isfinite(seconds) & np.isfinite(units) & (seconds >= 0) & (units >= 0)
    return seconds[usable], units[usable]


def _seconds_per_unit(seconds: Array, units: Array) -> Array:
    """Of each step; a step without units (a consolidation) counts as one of mean size."""
    return seconds / np.where(units > 0, units, units.mean())


def _without_stalls(data: Array) -> Array:
    """Values beyond eight times the spread of the second half, pulled in to that bound."""
    bulk = data[len(data) // 2 :]
    middle = float(np.median(bulk))
    spread = 1.4826 * float(np.median(np.abs(bulk - middle)))
    if spread == 0.0:
        return data
    return np.clip(data, middle - 8 * spread, middle + 8 * spread)


def _drift(means: Array) -> float:
    """The rise of a least-squares line through batch means of mean 1, from the first to the last; 0 where it is small
    or within chance (two-sided t test of the slope).
    """
    count = len(means)
    time = np.arange(count) - (count - 1) / 2
    slope = float((time * means).sum() / (time**2).sum())
    rest = means - means.mean() - slope * time
    error = float(np.sqrt((rest**2).sum() / (count - 2) / (time**2).sum()))
    rise = slope * (count - 1)
    chance = student_quantile(count - 2, DRIFT_LEVEL) * error
    return rise if abs(rise) > DRIFT and abs(slope) > chance else 0.0


def _half_width(deviations: Array) -> tuple[float, int] | None:
    """Half the 95 % interval of the mean of correlated values, by batch means; and how many batches it is from.

    Batches are merged in pairs until their lag-1 correlation is no longer significant (Fishman 1978), or few
    are left; what correlation is left widens the interval by (1 + r) / (1 - r), as in Skart (Tafazzoli &
    Wilson 2011).
    """
    count = len(deviations)
    if count < LEAST_STEPS:
        return None
    batches = min(count, MOST_BATCHES)
    while True:
        means = _batch_means(deviations, batches)
        correlation = _lag_one(means)
        if correlation <= 1.645 / np.sqrt(batches) - 1.0 / batches or batches // 2 < LEAST_BATCHES:
            break
        batches //= 2
    # The estimate of a correlation from few values is low by about (1 + 3 r) / n.
    correlation = min(correlation + (1 + 3 * correlation) / batches, 0.8)
    inflation = max(1.0, (1 + correlation) / (1 - correlation))
    variance = float(means.var(ddof=1)) * inflation / batches
    return student_quantile(batches - 1) * float(np.sqrt(variance)), batches


def _batch_means(values: Array, batches: int) -> Array:
    size = len(values) // batches
    return values[len(values) - size * batches :].reshape(batches, size).mean(axis=1)


def _lag_one(values: Array) -> float:
    centred = values - values.mean()
    power = float((centred**2).sum())
    return float((centred[1:] * centred[:-1]).sum()) / power if power > 0 else 0.0
