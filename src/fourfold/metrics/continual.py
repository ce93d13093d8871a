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
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]
Curve = ArrayLike


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


def sample_weighted_accuracy(evaluations: Iterable[Mapping[str, Any]]) -> float | None:
    """sum_j n_j R[T, j] / sum_j n_j, n_j the test samples of context j: the share of right answers to all of them."""
    entries = [entry for entry in evaluations if entry.get("metric") == "accuracy"]
    last = [entry for entry in entries if entry["after"] and entry["after"] == max(int(e["after"]) for e in entries)]
    known = {entry["context"]: (entry["value"], entry["samples"]) for entry in last}
    count = sum(samples for _, samples in known.values())
    complete = known and count and {entry["context"] for entry in entries} == set(known)
    return sum(value * samples for value, samples in known.values()) / count if complete else None


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


def forgetting_max_with_last(matrix: Matrix) -> float | None:
    """(1/(T-1)) sum_{j<T} (max_{l<=T} R[l, j] - R[T, j]): the same, with the last value among those the best is of.

    Never negative: a context that is best at the end counts 0 (Mammoth's).
    """
    if forgetting_max(matrix) is None:
        return None
    return _mean(np.nanmax(matrix[1:, :-1], axis=0) - matrix[-1, :-1])


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


def aaa(matrix: Matrix) -> float | None:
    """(1/n) sum_i (1/m_i) sum_{j<=m_i} R[i, j] over all n evaluations, m_i = min(i, T): average anytime accuracy
    (Caccia et al. 2022). Contexts that come back count as seen; else it is ``average_incremental_accuracy``.
    """
    if len(matrix) < 2 or not matrix.shape[1]:
        return None
    return _mean(np.array([row[: min(i, matrix.shape[1])].mean() for i, row in enumerate(matrix[1:], start=1)]))


def accuracy_a(matrix: Matrix) -> float | None:
    """sum_{i>=j} R[i, j] / (T(T+1)/2): accuracy over all contexts seen at all times (Diaz-Rodriguez et al. 2018)."""
    if not _one_by_one(matrix):
        return None
    return _mean(matrix[1:][np.tril_indices(matrix.shape[1])])


def bwt_diaz(matrix: Matrix) -> float | None:
    """sum_{i>j} (R[i, j] - R[j, j]) / (T(T-1)/2): backward transfer at all times (Diaz-Rodriguez et al. 2018)."""
    if not _one_by_one(matrix) or len(matrix) < 3:
        return None
    rows, columns = np.tril_indices(matrix.shape[1], k=-1)
    return _mean(matrix[1:][rows, columns] - _diagonal(matrix)[columns])


def bwt_plus(matrix: Matrix) -> float | None:
    """max(bwt_diaz, 0): BWT+ (Diaz-Rodriguez et al. 2018)."""
    transfer = bwt_diaz(matrix)
    return None if transfer is None else max(transfer, 0.0)


def fwt_diaz(matrix: Matrix) -> float | None:
    """sum_{i<j} R[i, j] / (T(T-1)/2): value on contexts not learned yet, at all times (Diaz-Rodriguez et al. 2018)."""
    if not _one_by_one(matrix) or len(matrix) < 3:
        return None
    return _mean(matrix[1:][np.triu_indices(matrix.shape[1], k=1)])


def remembering(matrix: Matrix) -> float | None:
    """1 - |min(bwt_diaz, 0)|: REM (Diaz-Rodriguez et al. 2018)."""
    transfer = bwt_diaz(matrix)
    return None if transfer is None else 1.0 - abs(min(transfer, 0.0))


def min_accuracy(matrix: Matrix) -> float | None:
    """(1/(T-1)) sum_{j<T} min_{i>j} R[i, j]: min-ACC (De Lange, van de Ven & Tuytelaars 2023).

    The minimum is over the evaluations that there are: with one after each context, dips within a context are missed.
    """
    if not _one_by_one(matrix) or len(matrix) < 3:
        return None
    return _mean(np.array([matrix[j + 2 :, j].min() for j in range(matrix.shape[1] - 1)]))


def worst_case_accuracy(matrix: Matrix) -> float | None:
    """(1/T) R[T, T] + (1 - 1/T) min_accuracy: WC-ACC (De Lange, van de Ven & Tuytelaars 2023)."""
    lowest = min_accuracy(matrix)
    if lowest is None or np.isnan(matrix[-1, -1]):
        return None
    return matrix[-1, -1] / matrix.shape[1] + (1 - 1 / matrix.shape[1]) * lowest


def amca(evaluations: Iterable[Mapping[str, Any]]) -> float | None:
    """Mean over evaluations after learning of the mean over classes of the class's accuracy: AMCA (Avalanche's).

    All contexts count, also those not learned yet. None where no class was counted.
    """
    rows: dict[int, dict[int, list[int]]] = {}
    for entry in evaluations:
        for label, right, samples in entry.get("classes") or ():
            counts = rows.setdefault(int(entry["after"]), {}).setdefault(int(label), [0, 0])
            counts[0] += right
            counts[1] += samples
    means = [np.mean([right / samples for right, samples in row.values()]) for after, row in rows.items() if after]
    return float(np.mean(means)) if means else None


def class_accuracies(evaluations: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """The accuracy of each class at the last evaluation, over all contexts that have it."""
    entries = list(evaluations)
    last = max((int(entry["after"]) for entry in entries), default=0)
    counts: dict[int, list[int]] = {}
    for entry in entries:
        for label, right, samples in (entry.get("classes") or ()) if int(entry["after"]) == last else ():
            own = counts.setdefault(int(label), [0, 0])
            own[0] += right
            own[1] += samples
    return {label: right / samples for label, (right, samples) in sorted(counts.items())}


def intransigence(matrix: Matrix, cumulative: Matrix) -> float | None:
    """(1/T) sum_k (a*_k - R[k, k]), a*_k of a model trained on contexts 1 to k at once (Chaudhry et al. 2018).

    cumulative: that model's matrix, of the same contexts; its diagonal counts.
    """
    if not _one_by_one(matrix) or not _one_by_one(cumulative) or cumulative.shape != matrix.shape:
        return None
    return _mean(_diagonal(cumulative) - _diagonal(matrix))


def intransigence_joint(matrix: Matrix, joint: Matrix) -> float | None:
    """The same with a*_k of a model trained on all contexts at once, those after k too: its last row counts."""
    if not _one_by_one(matrix) or len(joint) < 2 or joint.shape[1] != matrix.shape[1]:
        return None
    return _mean(joint[-1] - _diagonal(matrix))


# --------------------------------------------------------------------------------------- online curve


def online_accuracy(scores: Curve) -> float | None:
    """(1/n) sum_t of the accuracy on batch t before it was learned from (prequential, cumulative accuracy).

    scores: one a step, nan where a step was not judged; samples that come again are not judged.
    """
    judged = np.asarray(scores, dtype=np.float64)
    judged = judged[np.isfinite(judged)]
    return float(judged.mean()) if judged.size else None


def lca(scores: Curve, contexts: Curve, batches: int = 10) -> float | None:
    """(1/(b+1)) sum_{k<=b} Z_k: area under the learning curve over the first b batches (Chaudhry et al. 2019).

    Z_k is the mean over contexts of the accuracy after k batches of the context. It is taken on the batch that comes
    next, before it is learned from; the paper takes it on the test set. None if a context has fewer batches.
    """
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(contexts)
    curves = [values[labels == context][: batches + 1] for context in np.unique(labels)]
    if not curves or any(len(curve) <= batches or not np.isfinite(curve).all() for curve in curves):
        return None
    return float(np.mean(curves))


def _one_by_one(matrix: Matrix) -> bool:
    """Whether row i is the model after the i-th of T contexts: each learned once, in order."""
    return matrix.shape[1] > 0 and matrix.shape[0] == matrix.shape[1] + 1


def _diagonal(matrix: Matrix) -> Matrix:
    return np.diagonal(matrix, offset=-1)


def _mean(values: Matrix) -> float | None:
    """The mean, or None if there is nothing or anything is missing."""
    return float(values.mean()) if values.size and not np.isnan(values).any() else None
