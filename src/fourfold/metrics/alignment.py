"""How close a rule's gradients were to backprop's, from the looks at it in a cell's series."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from fourfold.record import DIAGNOSED_STEP

KINDS = ("angle", "norm_ratio", "weight_angle", "weight_distance", "feedback_loss")
LAST = 0.1  # the share of the looks, the latest, that the figures of the end are means over


def curves(series: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """kind/layer -> its values, one a look; angles in degrees."""
    return {
        name: np.asarray(values, dtype=np.float64)
        for name, values in series.items()
        if name.partition("/")[0] in KINDS and "/" in name
    }


def figures(series: Mapping[str, ArrayLike]) -> dict[str, float | None]:
    """angle_mean: over the layers, at the end; angle_at_switch: over the layers, at the first look at a new context."""
    angles = [values for name, values in curves(series).items() if name.startswith("angle/")]
    if not angles:
        return {}
    by_look = np.nanmean(np.stack(angles), axis=0)
    count = max(1, round(LAST * len(by_look)))
    found: dict[str, float | None] = {"angle_mean": float(by_look[-count:].mean())}
    switches = looks_after_switches(series)
    if switches.size:
        found["angle_at_switch"] = float(by_look[switches].mean())
    return found


def looks_after_switches(series: Mapping[str, ArrayLike]) -> np.ndarray:
    """The numbers of the first looks at or after each change of context."""
    steps, context = np.asarray(series[DIAGNOSED_STEP]), np.asarray(series.get("context", ()))
    if context.size < 2:
        return np.zeros(0, dtype=np.int64)
    changes = np.flatnonzero(np.diff(context)) + 1
    found = np.searchsorted(steps, changes)
    return np.unique(found[found < len(steps)])
