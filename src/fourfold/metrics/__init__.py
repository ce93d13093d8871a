"""Every reported number, as a pure function of a record and its series.

    figures(record, series)["average_accuracy"]

A number that a cell does not have is absent, never 0.
"""

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fourfold.metrics import alignment, continual, efficiency, learning, online
from fourfold.metrics.energy import energy_figures
from fourfold.metrics.generation import generation_figures, serving_figures
from fourfold.metrics.throughput import Rate, rate, rate_over_repeats, summed
from fourfold.metrics.utilisation import devices_of, share_figures, utilisation_figures
from fourfold.record import STEP_FLOPS, Record

Series = Mapping[str, ArrayLike]

# Metrics of an evaluation for which more is better; transfer and forgetting are defined for these.
MORE_IS_BETTER = ("accuracy",)

# name of the figure -> function of the accuracy matrix; "accuracy" stands for the name of the metric.
MATRIX_FIGURES = {
    "average_accuracy": continual.average_accuracy,
    "untrained_accuracy": continual.untrained_accuracy,
    "learning_accuracy": continual.learning_accuracy,
    "average_incremental_accuracy": continual.average_incremental_accuracy,
}
TRANSFER_FIGURES = {
    "aaa": continual.aaa,
    "forgetting_max": continual.forgetting_max,
    "forgetting_max_with_last": continual.forgetting_max_with_last,
    "forgetting_last": continual.forgetting_last,
    "bwt_gem": continual.bwt_gem,
    "fwt_gem": continual.fwt_gem,
    "bwt_diaz": continual.bwt_diaz,
    "bwt_plus": continual.bwt_plus,
    "fwt_diaz": continual.fwt_diaz,
    "remembering": continual.remembering,
    "accuracy_a": continual.accuracy_a,
    "min_accuracy": continual.min_accuracy,
    "worst_case_accuracy": continual.worst_case_accuracy,
}

# Differences of two values, so that they have a meaning in other units than shares, too.
TRANSFERS = ("forgetting_max", "forgetting_last", "bwt_gem", "fwt_gem", "bwt_diaz")


def figures(record: Record, series: Series | None = None) -> dict[str, float]:
    """Every number of a cell by its name; docs/metrics.md says what each is and its unit."""
    score = record.measurements.get("score") or "accuracy"  # what the predictions of a stream are judged by
    found: dict[str, float | None] = {
        **throughput_figures(record, series or {}),
        **loss_figures(series or {}),
        **generation_figures(series or {}),
        **serving_figures(series or {}, record.config.get("method") or {}),
        **evaluation_figures(record),
        **(online_figures(series or {}) if score == "accuracy" else {}),
        **alignment.figures(series or {}),
        **online.figures(series or {}, record.measurements.get("contexts") or [], score),
        **learning.costs(record.measurements),
        "device_seconds": learning.device_seconds((series or {}).get("step_seconds", ()), devices_of(record)),
        **efficiency.efficiencies(record, series or {}),
        **energy_figures(record.measurements, record.config.get("measure") or {}, series or {}, devices_of(record)),
        **projected(record.measurements.get("projection") or {}),
        "total_seconds": None if record.ended is None else record.ended - record.started,
    }
    found |= {"cl_score_sequoia": _sequoia(found), "cl_score_diaz": _diaz(found)}
    return {name: float(value) for name, value in found.items() if value is not None and isfinite(value)}


def projected(projection: Mapping[str, Any]) -> dict[str, float | None]:
    """What was computed for a device that was not there. Its evidence is "projected"; none of it was measured."""
    memory = projection.get("memory") or {}
    needed, error, available = (memory.get(name) for name in ("needed", "error", "available"))
    return (
        {
            "units_per_second": projection.get("units_per_second"),
            "units_per_second_low": projection.get("low"),
            "units_per_second_high": projection.get("high"),
            "upper_bound": projection.get("upper_bound"),
            "projected_memory_bytes": needed,
            "projected_memory_bytes_low": None if error is None else needed * (1 - error),
            "projected_memory_bytes_high": None if error is None else needed * (1 + error),
            "fits": memory.get("fits"),
            "fits_surely": None if error is None or available is None else needed * (1 + error) <= available,
            "largest_batch": memory.get("largest_batch"),
            **_energy_at_limit(projection),
            **{f"bound_by_{name}": share for name, share in (projection.get("bound") or {}).items()},
        }
        if projection
        else {}
    )


def _energy_at_limit(projection: Mapping[str, Any]) -> dict[str, float | None]:
    """Joules of a unit if the board's limit is drawn all the time, with the interval of the rate; none where nothing
    was fitted: the limit is too much, the time of a rate that is an upper bound too little."""
    joules, rate = projection.get("joules_per_unit"), projection.get("units_per_second")
    low, high = projection.get("low"), projection.get("high")
    found = {"joules_per_unit_at_limit": joules}
    if joules is None or rate is None or not low or not high:
        return found
    return found | {
        "joules_per_unit_at_limit_low": joules * rate / high,
        "joules_per_unit_at_limit_high": joules * rate / low,
    }


def steady_rate(series: Series, prefix: str = "") -> Rate | None:
    """The steady-state rate of a cell's series, in units a second, of all its copies together; None without steps.

    ``prefix`` of the series' names: empty, or that of a repeat.
    """
    copies = [f"{prefix}{copy}" for copy in copies_of(series, prefix)]
    if f"{prefix}step_seconds" not in series or f"{prefix}step_units" not in series:
        return None
    return summed(
        [(series[f"{c}step_seconds"], series[f"{c}step_units"], series.get(f"{c}step_ended")) for c in copies]
    )


def timed(series: Series) -> Series:
    """The series of steps that show how fast the cell is: not of those whose FLOP were counted as they were taken,
    which are slower; all, where half of them were."""
    counted = np.isfinite(np.asarray(series.get(STEP_FLOPS, ()), dtype=np.float64))
    if not counted.any() or counted.mean() > 0.5:
        return series
    found = {
        name: np.asarray(series[name]) for name in series if re.fullmatch(r"[a-z]+_seconds|step_(units|ended)", name)
    }
    return {**series, **{name: own[~counted] for name, own in found.items() if own.shape == counted.shape}}


def copies_of(series: Series, prefix: str = "") -> list[str]:
    """What the series' names begin with, of each copy of the cell: the first has nothing before its names."""
    found = (re.fullmatch(rf"{re.escape(prefix)}(copies\.\d+\.)step_seconds", name) for name in series)
    return ["", *(match[1] for match in found if match)]


def _repeats(series: Series) -> list[Rate | None]:
    """The rate of the cell, and of each time that it learned anew."""
    found = [match[1] for name in series if (match := re.fullmatch(r"(repeats\.\d+\.|)step_seconds", name))]
    return [steady_rate(series, prefix) for prefix in found]


def throughput_figures(record: Record, series: Series) -> dict[str, float | None]:
    """The steady rate with its interval, and the overall one."""
    found: dict[str, float | None] = {
        "overall_units_per_second": learning.overall_units_per_second(record.measurements)
    }
    series = timed(series)
    steady = steady_rate(series)
    if steady is not None:
        found |= {
            "units_per_second": steady.mean,
            "units_per_second_low": steady.low,
            "units_per_second_high": steady.high,
            "warmup_steps": steady.warmup,
            "steady": float(steady.steady),
            "drift": steady.drift or None,
            "rate_freedom": steady.freedom or None,
            **share_figures(series, steady.warmup),
            **utilisation_figures(record, steady.mean),
        }
    copies = copies_of(series)
    if len(copies) > 1:
        each = [rate(series[f"{copy}step_seconds"], series[f"{copy}step_units"]) for copy in copies]
        found |= {f"copy_{n}_units_per_second": None if one is None else one.mean for n, one in enumerate(each)}
    repeated = rate_over_repeats(_repeats(series))
    if repeated is not None:
        found |= {
            "units_per_second": repeated.mean,
            "units_per_second_low": repeated.low,
            "units_per_second_high": repeated.high,
            "rate_freedom": repeated.count - 1,
            "repeats": repeated.count,
            "between_repeats": repeated.between,
            "within_repeats": repeated.within,
        }
    return found


def loss_figures(series: Series) -> dict[str, float | None]:
    """The loss at both ends."""
    loss = np.asarray(series.get("loss", ()), dtype=np.float64)
    return {"first_loss": learning.first_loss(loss), "last_loss": learning.last_loss(loss)}


def evaluation_figures(record: Record) -> dict[str, float | None]:
    """Of every metric that was evaluated, masked or not: its averages; of accuracies transfer and forgetting too."""
    found: dict[str, float | None] = {}
    for metric in dict.fromkeys(entry["metric"] for entry in record.evaluations):
        for masked in (False, True):
            matrix = continual.accuracy_matrix(record.evaluations, metric, masked)
            functions = {**MATRIX_FIGURES, **(TRANSFER_FIGURES if metric in MORE_IS_BETTER else {})}
            for name, function in functions.items():
                found[name.replace("accuracy", metric) + ("_masked" if masked else "")] = function(matrix)
    found["amca"] = continual.amca(record.evaluations)
    found["sample_weighted_accuracy"] = continual.sample_weighted_accuracy(record.evaluations)
    return found | nats_figures(record)


def nats_figures(record: Record) -> dict[str, float | None]:
    """Of perplexities, in nats a token: averages of their logarithms, and transfer and forgetting of minus these."""
    nats = np.log(continual.accuracy_matrix(record.evaluations, "perplexity"))
    averages = {name.replace("accuracy", "nats"): function(nats) for name, function in MATRIX_FIGURES.items()}
    return averages | {f"{name}_nats": TRANSFER_FIGURES[name](-nats) for name in TRANSFERS}


def online_figures(series: Series) -> dict[str, float | None]:
    """Of the predictions made before their targets were learned from."""
    if "score" not in series:
        return {}
    scores, contexts = series["score"], series.get("context", ())
    return {"online_accuracy": continual.online_accuracy(scores), "lca_10": continual.lca(scores, contexts)}


def _sequoia(found: Mapping[str, float | None]) -> float | None:
    parts = [found.get(name) for name in ("online_accuracy", "average_accuracy", "learn_seconds")]
    return None if any(part is None for part in parts) else efficiency.cl_score_sequoia(*parts)  # type: ignore[arg-type]


def _diaz(found: Mapping[str, float | None]) -> float | None:
    parts = {name: found.get(figure) for name, figure in efficiency.DIAZ.items()}
    known = {name: value for name, value in parts.items() if value is not None}
    return efficiency.cl_score_diaz(known) if len(known) == len(parts) else None
