"""How fast text comes: time to the first token, time from each token to the next."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

PERCENTILES = (50, 95, 99)


def generation_figures(series: Mapping[str, ArrayLike]) -> dict[str, float | None]:
    """Mean and percentiles, in seconds, of the time to the first token (TTFT) and of the gaps between tokens (ITL).

    Absent where nothing was written token by token. The first text is left out where there are more: it warms up.
    """
    first = np.asarray(series.get("first_token_seconds", ()), dtype=np.float64)
    gaps = np.asarray(series.get("token_gap_seconds", ()), dtype=np.float64)
    if len(first) > 1:
        gaps = gaps[len(gaps) // len(first) :]
        first = first[1:]
    return {**_summary("first_token_seconds", first), **_summary("token_gap_seconds", gaps)}


def serving_figures(series: Mapping[str, ArrayLike], method: Mapping[str, Any]) -> dict[str, float | None]:
    """Of a server: requests a second, seconds a request, and goodput: the requests that keep to both limits of
    ``method`` (first_token_within, token_gap_within; Zhong et al. 2024), as a share and a second."""
    requests = np.asarray(series.get("request_seconds", ()), dtype=np.float64)
    first = np.asarray(series.get("first_token_seconds", ()), dtype=np.float64)
    gaps = np.asarray(series.get("mean_gap_seconds", ()), dtype=np.float64)
    steps = np.asarray(series.get("step_seconds", ()), dtype=np.float64)
    if not len(requests) or not steps.sum():
        return {}
    found: dict[str, float | None] = {
        **_summary("request_seconds", requests),
        "requests_per_second": len(requests) / float(steps.sum()),
    }
    if "first_token_within" in method and len(first) == len(gaps):
        good = (first <= method["first_token_within"]) & (gaps <= method["token_gap_within"])
        found |= {"goodput": float(good.mean()), "goodput_per_second": int(good.sum()) / float(steps.sum())}
    return found


def _summary(name: str, values: np.ndarray) -> dict[str, float | None]:
    if not len(values):
        return {}
    found = {f"{name}_p{percent}": float(np.percentile(values, percent)) for percent in PERCENTILES}
    return {name: float(values.mean()), **found}
