"""Several processes of one cell: what each of them knows, put together for the record of the first."""

import time
from typing import Any

import numpy as np

from fourfold.experience import Run
from fourfold.metrics.throughput import COPY

# Of each further copy these are kept, as copies.N.NAME.
KEPT = ("step_seconds", "step_units", "step_ended", "loss")
# Of every copy, the first too.
PER_COPY = ("steps", "units", "memory", "stopped_by")


def together(run: Run, series: dict[str, np.ndarray], measurements: dict[str, Any]) -> None:
    """Losses as means over the ranks that share the work; of ranks that each do their own, the series of all.

    Every rank must come here. ``step_ended`` of a further copy counts from the first one's zero, by the hosts' clocks.
    """
    engine = run.engine
    if engine.world == 1:
        return
    if not engine.alone:
        if run.meter.has_losses:
            series["loss"] = engine.mean_over_ranks(series["loss"])
        return
    own = {name: series[name] for name in KEPT}
    zero = time.time() - (time.perf_counter() - run.meter.zero)
    told = engine.told_by_all({"series": own, "zero": zero, **{name: measurements[name] for name in PER_COPY}})
    for number, other in enumerate(told[1:], 1):
        other["series"]["step_ended"] = other["series"]["step_ended"] + other["zero"] - zero
        series.update({COPY.format(number) + name: values for name, values in other["series"].items()})
    measurements["units"] = sum(each["units"] for each in told)
    measurements["copies"] = [{name: each[name] for name in PER_COPY} for each in told]
    measurements["copies_agree"] = all(
        np.array_equal(each["series"]["loss"], own["loss"], equal_nan=True) for each in told
    )
