"""Over seeds: mean, standard error, 95 % interval."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, sqrt


@dataclass(frozen=True)
class Summary:
    """Of ``count`` independent values; no standard error and no interval from a single one."""

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    count: int

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval."""
        return None if self.high is None else self.high - self.mean


def summarise(values: Iterable[float | None]) -> Summary | None:
    """Mean, standard error s / sqrt(n) and the 95 % interval mean ± t(n-1, 0.975) s / sqrt(n) (Student 1908).

    Absent (None) and non-finite values are left out; None if nothing is left.
    """
    found = [float(value) for value in values if value is not None and isfinite(value)]
    if not found:
        return None
    count = len(found)
    mean = sum(found) / count
    if count == 1:
        return Summary(mean, None, None, None, 1)
    error = sqrt(sum((value - mean) ** 2 for value in found) / (count - 1) / count)
    half = student_quantile(count - 1) * error
    return Summary(mean, error, mean - half, mean + half, count)


def student_quantile(freedom: float, level: float = 0.95) -> float:
    """t so that a Student variable of ``freedom`` degrees lies in ± t with probability ``level``."""
    from scipy.special import stdtrit  # of scipy.special alone: scipy.stats takes a second to import

    return float(stdtrit(freedom, 0.5 + level / 2))
