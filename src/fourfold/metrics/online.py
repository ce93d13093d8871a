"""Of predictions made before each label was revealed: how good they were, where, and how soon after a change.

Pure functions of a cell's series: ``score`` [steps], ``context`` [steps] (the mode that a step is of), ``since_switch``
[steps] (steps since its few-shot context began) and ``detected`` [steps] (1 where the learner says that it changed).
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

POSITIONS = (0, 1, 2, 5, 10, 20)  # steps since a switch at which the adaptation curve is reported
TOLERANCE = 5  # steps after a switch within which its detection counts


def cumulative(score: ArrayLike) -> float | None:
    """The mean score of all predictions, the first one included (Caccia et al. 2020: cumulative accuracy)."""
    values = np.asarray(score, dtype=np.float64)
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def by_mode(score: ArrayLike, mode: ArrayLike) -> dict[int, float]:
    """The mean score of each mode's steps."""
    values, modes = np.asarray(score, dtype=np.float64), np.asarray(mode)
    return {int(one): float(np.nanmean(values[modes == one])) for one in np.unique(modes) if (modes == one).any()}


def adaptation_curve(score: ArrayLike, since: ArrayLike) -> np.ndarray:
    """The mean score at each number of steps since the last switch, [longest context]; nan where there is none."""
    values, positions = np.asarray(score, dtype=np.float64), np.asarray(since)
    known = np.isfinite(values) & np.isfinite(positions)
    places = positions[known].astype(int)
    count = np.bincount(places)
    with np.errstate(invalid="ignore"):
        curve: np.ndarray = np.bincount(places, weights=values[known]) / np.where(count, count, np.nan)
    return curve


class Detection(NamedTuple):
    """precision: of the detections, those that name a switch; recall: of the switches, those that are named; f1: their
    harmonic mean; delay: mean steps from a named switch to its detection.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    delay: float | None


def detection(detected: ArrayLike, since: ArrayLike, tolerance: int = TOLERANCE) -> Detection:
    """How well changes were found.

    A switch is named by the first detection in its context, if that comes within ``tolerance`` steps (0: at the switch
    itself). Every other detection is a false alarm. The first step of the stream is left out: it is no switch, but all
    is new to the learner there, so that to say so is no false alarm.
    """
    said = np.nan_to_num(np.asarray(detected, dtype=np.float64)) > 0
    positions = np.asarray(since, dtype=np.float64)
    said[:1] = False
    begins = positions == 0
    number = np.cumsum(begins)
    switches = int(begins[1:].sum())
    delays = []
    for context in np.unique(number[said]):
        first = int(np.flatnonzero(said & (number == context))[0])
        if positions[first] <= tolerance and first >= positions[first] + 1:  # not in the context that began the stream
            delays.append(positions[first])
    named, claims = len(delays), int(said.sum())
    precision = named / claims if claims else None
    recall = named / switches if switches else None
    f1 = None if not claims + switches else 2 * named / (claims + switches)
    return Detection(precision, recall, f1, float(np.mean(delays)) if delays else None)


def names_of(contexts: Sequence[str]) -> list[str]:
    """The names in a record's list of contexts ("context 0: omniglot")."""
    found = [re.fullmatch(r"context \d+: (.*?)(, \S+ training and \S+ test samples)?", line) for line in contexts]
    return [match[1] if match else line for match, line in zip(found, contexts, strict=True)]


def figures(series: Mapping[str, ArrayLike], contexts: Sequence[str], score: str) -> dict[str, float | None]:
    """Every figure of a cell that was asked before it learned; ``score`` is what its scores are, "accuracy" say."""
    if "score" not in series or "since_switch" not in series:
        return {}
    found: dict[str, float | None] = {f"cumulative_{score}": cumulative(series["score"])}
    names = names_of(contexts)
    if len(names) > 1:
        for mode, value in by_mode(series["score"], series["context"]).items():
            found[f"cumulative_{score}_{_word(names[mode])}"] = value
    curve = adaptation_curve(series["score"], series["since_switch"])
    found |= {f"{score}_{place}_after_switch": float(curve[place]) for place in POSITIONS if place < len(curve)}
    found["switches"] = float((np.asarray(series["since_switch"])[1:] == 0).sum())
    if "detected" in series:
        judged = detection(series["detected"], series["since_switch"])
        found |= {f"detection_{name}": value for name, value in judged._asdict().items()}
    return found


def _word(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")
