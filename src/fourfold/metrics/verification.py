"""Whether two cells did the same work: the losses of the first steps, side by side.

Same seed, same data, same initial values: on any device the first losses must agree, up to rounding, which grows with
each update. A comparison of rates between cells that disagree compares different work.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# So many losses are compared: enough to see updates at work, before rounding has grown into chaos.
LENGTH = 10
# Largest difference, as a share of the first loss, by the coarser of the two precisions: chosen from the significand's
# bits with room for what some updates make of them, not measured between devices yet.
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 2e-2, "bf16": 5e-2, "fp8": 2e-1}


@dataclass(frozen=True)
class Agreement:
    """``same`` is None if there was nothing to compare; ``worst`` is the largest difference as a share."""

    same: bool | None
    worst: float | None
    step: int | None
    losses: tuple[float, float] | None
    tolerance: float

    def __str__(self) -> str:
        if self.same is None or self.losses is None:
            return "no losses to compare"
        one, other = self.losses
        found = "same" if self.same else "DIFFERENT"
        return (
            f"{found} work: at step {self.step} losses {one:.6g} and {other:.6g}, "
            f"{self.worst:.2g} apart (tolerance {self.tolerance:g})"
        )


def fingerprint(loss: ArrayLike) -> list[float | None]:
    """The first losses, null where a step had none."""
    values = np.asarray(loss, dtype=np.float64)[:LENGTH]
    return [float(value) if np.isfinite(value) else None for value in values]


def agreement(
    one: list[float | None], other: list[float | None], precisions: tuple[str | None, str | None]
) -> Agreement:
    """Two fingerprints, within the tolerance of the coarser precision."""
    tolerance = max(TOLERANCE.get(str(precision), 0.0) for precision in precisions) or TOLERANCE["fp32"]
    pairs = [
        (step, a, b) for step, (a, b) in enumerate(zip(one, other, strict=False)) if a is not None and b is not None
    ]
    if not pairs:
        return Agreement(None, None, None, None, tolerance)
    scale = max(abs(pairs[0][1]), abs(pairs[0][2]), 1e-12)
    step, a, b = max(pairs, key=lambda pair: abs(pair[1] - pair[2]))
    worst = abs(a - b) / scale
    return Agreement(worst <= tolerance, worst, step, (a, b), tolerance)


def fingerprint_of(measurements: Mapping[str, Any]) -> list[float | None]:
    """Of a record's measurements; empty if it has none."""
    return list(measurements.get("fingerprint") or [])
