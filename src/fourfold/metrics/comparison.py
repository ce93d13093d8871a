"""Two rates side by side: their ratio, its interval, and whether many such ratios differ from 1 by more than chance."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

from fourfold.metrics.statistics import student_quantile


@dataclass(frozen=True)
class Estimate:
    """A positive number, the standard error of its logarithm (None: unknown) and that error's degrees of freedom."""

    mean: float
    error: float | None = None
    freedom: int = 0


@dataclass(frozen=True)
class Ratio:
    """other / one, the ends of its 95 % interval, and the chance of such a difference between equals; None: unknown."""

    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None


def estimate(
    values: Iterable[float], low: float | None = None, high: float | None = None, freedom: int = 0
) -> Estimate:
    """Of independent values, by their spread; of a single one, by the 95 % interval that it has of its own."""
    found = [float(value) for value in values]
    if not found:
        raise ValueError("no values")
    mean = sum(found) / len(found)
    if len(found) > 1:
        logs = [log(value) for value in found]
        middle = sum(logs) / len(logs)
        spread = sqrt(sum((value - middle) ** 2 for value in logs) / (len(logs) - 1))
        return Estimate(mean, spread / sqrt(len(logs)), len(logs) - 1)
    if low is None or high is None or freedom < 1:
        return Estimate(mean)
    return Estimate(mean, (high - low) / 2 / student_quantile(freedom) / mean, freedom)


def ratio(one: Estimate, other: Estimate) -> Ratio:
    """Welch's test on logarithms (Welch 1947), with the degrees of freedom of Satterthwaite (1946)."""
    value = other.mean / one.mean
    found = _error(one, other)
    if found is None:
        return Ratio(value)
    error, freedom = found
    if error == 0:
        return Ratio(value, value, value, 1.0 if value == 1 else 0.0)
    quantile = student_quantile(freedom)
    return Ratio(
        value, value * exp(-quantile * error), value * exp(quantile * error), _two_sided(log(value) / error, freedom)
    )


def chance_below(one: Estimate, other: Estimate, threshold: float) -> float | None:
    """The chance of a ratio other / one this far below the threshold if it truly is there (the same test, one-sided);
    None where an error is unknown.
    """
    found = _error(one, other)
    if found is None:
        return None
    away, (error, freedom) = log(other.mean / one.mean / threshold), found
    if error == 0:
        return 0.0 if away < 0 else 1.0
    below = _two_sided(away / error, freedom) / 2
    return below if away < 0 else 1 - below


def _error(one: Estimate, other: Estimate) -> tuple[float, float] | None:
    """Standard error of the logarithm of the ratio, and its degrees of freedom; None where one is unknown."""
    if one.error is None or other.error is None:
        return None
    variance = one.error**2 + other.error**2
    if variance == 0:
        return 0.0, 0.0
    return sqrt(variance), variance**2 / (one.error**4 / one.freedom + other.error**4 / other.freedom)


def adjusted(chances: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down (Holm 1979): the chance of even one such among all of these, if all are equal."""
    known = sorted((chance, index) for index, chance in enumerate(chances) if chance is not None)
    found: list[float | None] = [None] * len(chances)
    largest = 0.0
    for rank, (chance, index) in enumerate(known):
        largest = max(largest, min(1.0, chance * (len(known) - rank)))
        found[index] = largest
    return found


def _two_sided(t: float, freedom: float) -> float:
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(t)))
