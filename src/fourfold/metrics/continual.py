"""Continual-learning metrics of an accuracy matrix, each under a name that says which definition it is.

``R[i, j]`` is the value on context j (columns, from 0) after learning i contexts (rows); row 0 is the
untrained model, so context j has just been learned in row j + 1. What was not evaluated is nan. T is the
number of contexts. In the formulas below contexts count from 1, as in the papers: R[j, j] is the value on
the j-th context right after learning it.

A metric is None where it is not defined: a value that it needs was not evaluated, or there is one context.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def accuracy_matrix(evaluations: Iterable[Mapping[str, Any]], metric: str = "accuracy", masked: bool = False) -> Matrix:
    """R, shape [1 + contexts learned, contexts], of one metric of a record's evaluations.

    ``masked``: the values with the outputs of the context only. Where a context was evaluated twice at one
    point, the later value counts.
    """
    entries = [entry for entry in evaluations if entry.get("metric") == metric]
    if not entries:
        return np.full((1, 0), np.nan)
    shape = (1 + max(int(e["after"]) for e in entries), 1 + max(int(e["context"]) for e in entries))
    matrix = np.full(shape, np.nan)
    for entry in entries:
        value = entry.get("masked" if masked else "value")
        if value is not None:
            matrix[int(entry["after"]), int(entry["context"])] = float(value)
    return matrix


def average_accuracy(matrix: Matrix) -> float | None:
    """(1/T) sum_j R[T, j]: the mean over contexts after the last one was learned (ACC; Lopez-Paz & Ranzato 2017)."""
    return None if len(matrix) < 2 else _mean(matrix[-1])


def untrained_accuracy(matrix: Matrix) -> float | None:
    """(1/T) sum_j R[0, j]: the mean over contexts before any learning (the b_j of ``fwt_gem``)."""
    return _mean(matrix[0])


def learning_accuracy(matrix: Matrix) -> float | None:
    """(1/T) sum_j R[j, j]: the mean of each context right after it was learned (LA; Riemer et al. 2019)."""
    return _mean(_diagonal(matrix)) if _one_by_one(matrix) else None


def average_incremental_accuracy(matrix: Matrix) -> float | None:
    """(1/T) sum_i (1/i) sum_{j<=i} R[i, j]: the mean over time of the mean over contexts seen (Rebuffi et al. 2017)."""
    if not _one_by_one(matrix):
        return None
    rows = [matrix[i, :i].mean() for i in range(1, len(matrix))]
    return _mean(np.array(rows))


def forgetting_max(matrix: Matrix) -> float | None:
    """(1/(T-1)) sum_{j<T} (max_{1<=l<T} R[l, j] - R[T, j]): loss from the best value ever (Chaudhry et al. 2018)."""
    if not _one_by_one(matrix) or len(matrix) < 3:
        return None
    trained = matrix[1:-1, :-1]
    if np.isnan(_diagonal(matrix)[:-1]).any():
        return None
    return _mean(np.nanmax(trained, axis=0) - matrix[-1, :-1])


def forgetting_last(matrix: Matrix) -> float | None:
    """(1/(T-1)) sum_{j<T} (R[j, j] - R[T, j]): loss from the value right after learning it (Avalanche); -bwt_gem."""
    transfer = bwt_gem(matrix)
    return None if transfer is None else 0.0 - transfer


def bwt_gem(matrix: Matrix) -> float | None:
    """(1/(T-1)) sum_{j<T} (R[T, j] - R[j, j]): backward transfer (Lopez-Paz & Ranzato 2017)."""
    if not _one_by_one(matrix) or len(matrix) < 3:
        return None
    return _mean(matrix[-1, :-1] - _diagonal(matrix)[:-1])


def fwt_gem(matrix: Matrix) -> float | None:
    """(1/(T-1)) sum_{j>1} (R[j-1, j] - R[0, j]): forward transfer over the untrained model (Lopez-Paz & Ranzato 2017).

    None if the untrained model, or contexts before they were learned, were not evaluated.
    """
    if not _one_by_one(matrix) or len(matrix) < 3:
        return None
    before = np.array([matrix[j, j] for j in range(1, matrix.shape[1])])
    return _mean(before - matrix[0, 1:])


def _one_by_one(matrix: Matrix) -> bool:
    """Whether row i is the model after the i-th of T contexts: each learned once, in order."""
    return matrix.shape[1] > 0 and matrix.shape[0] == matrix.shape[1] + 1


def _diagonal(matrix: Matrix) -> Matrix:
    return np.diagonal(matrix, offset=-1)


def _mean(values: Matrix) -> float | None:
    """The mean, or None if there is nothing or anything is missing."""
    return float(values.mean()) if values.size and not np.isnan(values).any() else None
