"""A cell lived more than once: short trials that find its batch size, and repeats that show how far rates vary."""

import gc
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourfold.errors import BatchTooLarge, Failed, Refused
from fourfold.metrics.throughput import rate
from fourfold.metrics.verification import same_work
from fourfold.record import Record
from fourfold.settings.protocols import AFTER_A_PHASE

Live = Callable[[Mapping[str, Any], Path, Record, dict[str, np.ndarray]], None]

# A search ends after so many trials, or when two doublings in a row gain less than this.
MOST_TRIALS, LEAST_GAIN = 12, 0.02
# A trial: so many steps, or seconds, whichever is over first.
TRIAL_STEPS, TRIAL_SECONDS = 30, 20.0
# On a CPU a batch is not tried that would take more than this of the memory that is left.
HOST_SHARE = 0.5


@dataclass(frozen=True)
class Trial:
    """One batch size: units a second, None if it did not fit (``outcome`` says), and peak bytes, None if not told."""

    batch: int
    rate: float | None
    memory: float | None
    outcome: str = "done"


def search(start: int, attempt: Callable[[int], Trial]) -> list[Trial]:
    """Trials from ``start`` on, doubled while that gains and fits, halved while nothing fits, then once between the
    best and its larger neighbour, and once between the best and its smaller one. The best is the one of highest rate.
    """
    trials = [attempt(start)]
    while trials[-1].rate is None and trials[-1].batch > 1 and len(trials) < MOST_TRIALS:
        trials.append(attempt(max(1, trials[-1].batch // 2)))
    if trials[-1].rate is None:
        return trials
    if len(trials) == 1:
        trials += _doubled(trials[0], attempt)
    best = best_of(trials)
    for batch in (best * 3 // 2, best * 3 // 4):
        if len(trials) < MOST_TRIALS and batch > 1 and batch not in {trial.batch for trial in trials}:
            trials.append(attempt(batch))
    return trials


def _doubled(first: Trial, attempt: Callable[[int], Trial]) -> list[Trial]:
    trials, batch, poor = [first], first.batch, 0
    while poor < 2 and len(trials) < MOST_TRIALS - 2:
        batch *= 2
        best = max(trial.rate or 0.0 for trial in trials)
        trials.append(attempt(batch))
        if trials[-1].rate is None:
            break
        poor = 0 if trials[-1].rate > best * (1 + LEAST_GAIN) else poor + 1
    return trials[1:]


def best_of(trials: list[Trial]) -> int:
    """The batch of highest rate. Raises ValueError if none had a rate."""
    return max((trial for trial in trials if trial.rate is not None), key=lambda trial: trial.rate or 0.0).batch


def with_best_batch(cell: Mapping[str, Any], live: Live, default: int, record: Record) -> dict[str, Any]:
    """The cell with the batch size of the largest rate that fits; the trials are left in the record.

    Raises Refused for a cell of several processes, Failed if not even a batch of 1 fits.
    """
    if cell["hardware"]["devices"] * cell["hardware"]["nodes"] > 1:
        raise Refused("batch=auto: the search runs in one process; give a number for several devices")
    grown = [_host_peak()]

    def attempt(batch: int) -> Trial:
        if len(grown) > 1 and 2 * (grown[-1] - grown[-2]) > HOST_SHARE * _host_available():
            return Trial(batch, None, None, "not tried: memory would run out")
        trial = _trial(cell, batch, live)
        grown.append(_host_peak())
        return trial

    trials = search(default, attempt)
    record.measurements["batch_search"] = [asdict(trial) for trial in trials]
    if not any(trial.rate for trial in trials):
        raise Failed(
            f"batch=auto: not even a batch of {trials[-1].batch} fits: {trials[-1].outcome}", reason="out of memory"
        )
    return {**cell, "batch": best_of(trials)}


def _trial(cell: Mapping[str, Any], batch: int, live: Live) -> Trial:
    until = {"rule": "steps", "steps": TRIAL_STEPS, "epochs": None, "seconds": TRIAL_SECONDS, "interval": None}
    record, outcome = _blank(cell), "done"
    series: dict[str, np.ndarray] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            live(_learning_only({**cell, "batch": batch, "until": until}), Path(folder), record, series)
    except torch.OutOfMemoryError:
        outcome = "out of memory"
    except BatchTooLarge:
        outcome = "larger than the data"
    gc.collect()
    if torch.accelerator.is_available():
        torch.get_device_module().empty_cache()
    found = rate(series["step_seconds"], series["step_units"]) if outcome == "done" else None
    memory = (record.measurements.get("memory") or {}).get("allocated_peak")
    return Trial(batch, None if found is None else found.mean, memory, outcome)


def repeat(cell: Mapping[str, Any], live: Live, record: Record, series: dict[str, np.ndarray]) -> None:
    """Lives the cell again, cell["repeats"] - 1 times: a fresh model from the same seed in the same process, without
    evaluation. The step times go into the series as repeats.N.*, and whether the work was the same into the record.
    """
    agreements = []
    for number in range(1, cell["repeats"]):
        again: dict[str, np.ndarray] = {}
        other = _blank(cell)
        with tempfile.TemporaryDirectory() as folder:
            live(_learning_only(cell), Path(folder), other, again)
        timed = [name for name in again if name.split(".")[-1] in ("step_seconds", "step_units", "step_ended")]
        series |= {f"repeats.{number}.{name}": again[name] for name in timed}
        agreements.append(same_work(record, other).same)
    record.measurements["repeats_agree"] = None if None in agreements else all(agreements)


def _learning_only(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Without evaluation, checkpoints, monitors and a count of FLOP."""
    while_learning = [name for name in cell["setting"]["protocol"] if name not in AFTER_A_PHASE]
    return {
        **cell,
        "setting": {**cell["setting"], "protocol": while_learning or ["none"]},
        "checkpoint": {"seconds": None, "steps": None},
        "measure": {**cell["measure"], "period": None, "flops": "off"},
        "progress": "off",
    }


def _blank(cell: Mapping[str, Any]) -> Record:
    return Record("trial", {}, dict(cell), [])


def _host_peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _host_available() -> int:
    import psutil

    return psutil.virtual_memory().available
