"""What continual learning cost, each in [0, 1], and the scores that weigh it against accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fourfold.metrics import continual
from fourfold.record import STEP_FLOPS, Record

# Final accuracy, mean accuracy over time, minutes, mean RAM, largest RAM, mean disk, largest disk. The weights are as
# remembered from the challenge's rules; they add up to 1.
CLVISION_WEIGHTS = (0.3, 0.1, 0.15, 0.125, 0.125, 0.125, 0.075)
CLVISION_COSTS = ("learn_seconds", "ram_mean_bytes", "ram_peak_bytes", "disk_mean_bytes", "disk_peak_bytes")
# What each criterion of Diaz-Rodriguez et al. 2018 is called here.
DIAZ = {
    "ACC": "accuracy_a",
    "REM": "remembering",
    "BWT+": "bwt_plus",
    "FWT": "fwt_diaz",
    "MS": "model_size_efficiency",
    "SSS": "samples_storage_efficiency",
    "CE": "compute_efficiency",
}


def efficiencies(record: Record, series: Mapping[str, ArrayLike]) -> dict[str, float | None]:
    """MS, SSS and CE of Diaz-Rodriguez et al. 2018, and the memory and files of the cell's process over its looks."""
    found = record.measurements
    after = [held for held in found.get("held") or [] if held["after"]]
    data, flops = found.get("data") or {}, found.get("flops") or {}
    return {
        "model_size_efficiency": model_size_efficiency([held["parameters"] for held in after]),
        "samples_storage_efficiency": samples_storage_efficiency([h["samples"] for h in after], data.get("bytes")),
        "compute_efficiency": compute_efficiency(
            series, data.get("units") or [], flops, [held.get("end_flops", 0) for held in after]
        ),
        **_over_looks(series, "memory", "ram"),
        **_over_looks(series, "disk", "disk"),
    }


def model_size_efficiency(sizes: Sequence[float]) -> float | None:
    """MS = min(1, (1/T) sum_i Mem(p_1) / Mem(p_i)): parameters after the i-th context (Diaz-Rodriguez et al. 2018)."""
    if len(sizes) < 2 or not all(sizes):
        return None
    return min(1.0, float(np.mean([sizes[0] / size for size in sizes])))


def samples_storage_efficiency(kept: Sequence[float | None], data: float | None) -> float | None:
    """SSS = 1 - min(1, (1/T) sum_i Mem(M_i) / Mem(D)): samples kept after the i-th context, over all that came.

    None where a method does not know what it keeps.
    """
    known = [size for size in kept if size is not None]
    if len(kept) < 2 or len(known) < len(kept) or not data:
        return None
    return 1 - min(1.0, float(np.mean(known)) / data)


def compute_efficiency(
    series: Mapping[str, ArrayLike], units: Sequence[float], flops: Mapping[str, Any], ends: Sequence[float] = ()
) -> float | None:
    """CE = min(1, (1/T) sum_i ops(one pass over D_i) / ops(learning D_i)), the paper's with epsilon = 1.

    units: of work in a pass over each context; a pass is plain training's FLOP, learning those of the method's steps
    and what it does as the context ends (``ends``). None where FLOP were not counted, or contexts not learned apart.
    """
    model, steps = flops.get("model"), flops_of_steps(series, flops)
    if len(units) < 2 or not model or steps is None or len(ends or units) != len(units):
        return None
    contexts = np.asarray(series.get("context", ()))
    if not (np.diff(contexts) >= 0).all():
        return None
    learned = [float(steps[contexts == index].sum()) for index in range(len(units))]
    learned = [own + end for own, end in zip(learned, ends or [0.0] * len(units), strict=True)]
    if not all(learned):
        return None
    return min(1.0, float(np.mean([model * a_pass / own for a_pass, own in zip(units, learned, strict=True)])))


def flops_of_steps(series: Mapping[str, ArrayLike], flops: Mapping[str, Any]) -> np.ndarray | None:
    """FLOP of each step [steps]: of one that was not counted, a unit took what it took at the last that was.

    None where no step was counted, unless all are known to be alike.
    """
    work = np.asarray(series.get("step_units", ()), dtype=np.float64)
    counted = np.asarray(series.get(STEP_FLOPS, ()), dtype=np.float64)
    if not counted.size:
        executed = flops.get("executed")
        return executed * work if executed and flops.get("alike") else None
    last = np.maximum.accumulate(np.where(np.isfinite(counted) & (work > 0), np.arange(len(work)), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        a_unit = (counted / work)[last]
    return np.nan_to_num(a_unit * work)


def executed_per_unit(series: Mapping[str, ArrayLike]) -> float | None:
    """FLOP a unit of work over all steps; None where no step was counted or none did any."""
    steps, work = flops_of_steps(series, {}), float(np.sum(series.get("step_units", ())))
    return None if steps is None or not work else float(steps.sum()) / work


def _over_looks(series: Mapping[str, ArrayLike], field: str, name: str) -> dict[str, float | None]:
    looks = np.asarray(series.get(f"monitor.process.{field}", ()), dtype=np.float64)
    looks = looks[np.isfinite(looks)]
    if not looks.size:
        return {}
    return {f"{name}_mean_bytes": float(looks.mean()), f"{name}_peak_bytes": float(looks.max())}


def class_figures(record: Record) -> dict[str, float]:
    """``class_accuracy_LABEL``: the accuracy on each class at the last evaluation, over all contexts that have it."""
    found = continual.class_accuracies(record.evaluations)
    return {f"class_accuracy_{label}": value for label, value in found.items()}


def cl_score_sequoia(online: float, final: float, seconds: float, fast: float = 300.0, slow: float = 3600.0) -> float:
    """0.3 online + 0.4 final + 0.3 speed (CVPR 2021 challenge, Sequoia's supervised track).

    online, final: online_accuracy and average_accuracy; speed is 1 up to ``fast`` seconds, 0 from ``slow`` on.
    """
    speed = min(1.0, max(0.0, (slow - seconds) / (slow - fast)))
    return 0.3 * online + 0.4 * final + 0.3 * speed


def clvision_values(record: Record, numbers: Mapping[str, float]) -> list[float] | None:
    """The seven figures of a cell that ``cl_score_clvision2020`` weighs; None if one of them is not known.

    Accuracy over time is that on all contexts, unseen ones too, after each: the challenge's validation set had all.
    """
    matrix = continual.accuracy_matrix(record.evaluations)
    rows = matrix[1:]
    final, costs = continual.average_accuracy(matrix), [numbers.get(name) for name in CLVISION_COSTS]
    if final is None or np.isnan(rows).any() or any(cost is None for cost in costs):
        return None
    return [final, float(rows.mean()), *costs]  # type: ignore[list-item]


def cl_score_clvision2020(values: Sequence[float], largest: Sequence[float]) -> float:
    """The CVPR 2020 CLVision challenge's score: sum_k w_k v_k over its seven figures (``CLVISION_WEIGHTS``).

    values: two accuracies, then five costs; a cost counts as 1 - cost / largest, ``largest`` that of all compared.
    """
    costs = [1 - value / most if most else 1.0 for value, most in zip(values[2:], largest, strict=True)]
    shares = [*values[:2], *costs]
    return float(sum(w * v for w, v in zip(CLVISION_WEIGHTS, shares, strict=True)))


def cl_score_diaz(criteria: Mapping[str, float], weights: Mapping[str, float] | None = None) -> float:
    """sum_k w_k c_k over criteria in [0, 1] (ACC, REM, BWT+, FWT, MS, SSS, CE; Diaz-Rodriguez et al. 2018).

    weights: equal, unless given; they must add up to 1.
    """
    chosen = dict.fromkeys(criteria, 1 / len(criteria)) if weights is None else weights
    return float(sum(chosen[name] * value for name, value in criteria.items()))


def cl_stability_diaz(
    criteria: Sequence[Mapping[str, float]], weights: Mapping[str, float] | None = None
) -> float | None:
    """CL_stability = 1 - sum_k w_k stddev(c_k) over runs that differ in the seed (Diaz-Rodriguez et al. 2018).

    criteria: those of ``cl_score_diaz``, of each run; weights as there. The deviation is the sample's (n - 1). None for
    a single run.
    """
    if len(criteria) < 2:
        return None
    spread = {name: float(np.std([own[name] for own in criteria], ddof=1)) for name in criteria[0]}
    return 1.0 - cl_score_diaz(spread, weights)
