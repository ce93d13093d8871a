"""Whether two cells did the same work: the losses of the first steps, side by side.

Same seed, same data, same initial values: on any device the first loss must agree up to rounding. Each update then
multiplies what rounding has done, little in most networks and a hundredfold in some, so the tolerance of step k is
that of the precision times what the benchmark or the method says of itself: ``rounding``, and ``rounding_growth`` to
the k. All are measured: docs/results/fingerprints.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fourfold.record import Record

# So many losses are kept.
LENGTH = 10
# Largest difference of the first losses, as a share of the largest loss, by the coarser of the two precisions.
TOLERANCE = {"fp32": 2e-6, "tf32": 1e-3, "fp16": 1e-3, "bf16": 1e-2, "fp8": 5e-2}
# Of the difference from one update to the next, where a benchmark says nothing else (``rounding_growth``).
GROWTH = 1.2
# Losses that may be further apart than this without a mistake are not compared.
LARGEST = 0.1


@dataclass(frozen=True)
class Agreement:
    """``same`` is None if nothing was compared, and ``why`` says why; else the step that is nearest to its tolerance,
    or furthest beyond: its two losses, how far ``apart`` they are as a share of the largest loss, its tolerance.
    """

    same: bool | None
    step: int | None = None
    losses: tuple[float, float] | None = None
    apart: float | None = None
    tolerance: float | None = None
    why: str | None = None

    def __str__(self) -> str:
        if self.losses is None:
            return f"work not compared: {self.why}"
        one, other = self.losses
        found = "same" if self.same else "DIFFERENT"
        return (
            f"{found} work: at step {self.step} losses {one:.8g} and {other:.8g}, "
            f"{self.apart:.2g} apart (tolerance {self.tolerance:.2g})"
        )


def fingerprint(loss: ArrayLike) -> list[float | None]:
    """The first losses, null where a step had none."""
    values = np.asarray(loss, dtype=np.float64)[:LENGTH]
    return [float(value) if np.isfinite(value) else None for value in values]


def same_work(one: Record, other: Record) -> Agreement:
    """Of two cells of one configuration, on whatever devices."""
    if any(record.recipe.get("precision") not in TOLERANCE for record in (one, other)):
        return Agreement(None, why="the precision of one is not known")
    kinds = {record.device.get("kind") for record in (one, other)}
    if len(kinds) > 1 and any(record.measurements.get("device_randomness") for record in (one, other)):
        return Agreement(None, why="random numbers (dropout) came from devices of two kinds")
    says = [record.config.get(axis) or {} for record in (one, other) for axis in ("benchmark", "method")]
    rounding = max(node.get("rounding") or 1.0 for node in says)
    growth = max(node.get("rounding_growth") or GROWTH for node in says)
    precisions = [str(record.recipe["precision"]) for record in (one, other)]
    prints = [fingerprint_of(record.measurements) for record in (one, other)]
    return agreement(prints[0], prints[1], precisions, growth, rounding)


def agreement(
    one: Sequence[float | None],
    other: Sequence[float | None],
    precisions: Sequence[str],
    growth: float = GROWTH,
    rounding: float = 1.0,
) -> Agreement:
    """Two fingerprints, within the tolerance of the coarser precision times ``rounding``, ``growth`` a step more."""
    first = rounding * max(TOLERANCE[precision] for precision in precisions)
    pairs = [
        (step, a, b, first * growth**step)
        for step, (a, b) in enumerate(zip(one, other, strict=False))
        if a is not None and b is not None and first * growth**step <= LARGEST
    ]
    if not pairs:
        return Agreement(None, why="there are no losses of the same step")
    # Of a policy's losses the first are next to nothing; of most others they are the largest.
    scale = max(min(max(abs(loss) for loss in each if loss is not None) for each in (one, other)), 1e-12)
    step, a, b, tolerance = max(pairs, key=lambda pair: abs(pair[1] - pair[2]) / pair[3])
    apart = abs(a - b) / scale
    return Agreement(apart <= tolerance, step, (a, b), apart, tolerance)


def fingerprint_of(measurements: Mapping[str, Any]) -> list[float | None]:
    """Of a record's measurements; empty if it has none."""
    return list(measurements.get("fingerprint") or [])
