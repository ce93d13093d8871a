"""The looks at a cell's rule as a picture: angles to backprop, by layer, over training."""

from pathlib import Path

import numpy as np

from fourfold.metrics import Series
from fourfold.metrics.alignment import curves
from fourfold.record import DIAGNOSED_STEP, Record

TITLES = {"angle": "gradients to backprop's", "weight_angle": "feedback to forward weights"}


def angle_curves(record: Record, series: Series, path: Path) -> bool:
    """Writes the angles as a PNG, the gradients' and, where there are any, the feedback weights' beside them.

    False, and no file, where nobody looked (``diagnose_every``).
    """
    found = curves(series)
    kinds = [kind for kind in TITLES if any(name.startswith(f"{kind}/") for name in found)]
    if not kinds:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = np.asarray(series[DIAGNOSED_STEP])
    figure = Figure(figsize=(5.2 * len(kinds), 3.8), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for number, kind in enumerate(kinds):
        axes = figure.add_subplot(1, len(kinds), number + 1)
        for name, values in found.items():
            if name.startswith(f"{kind}/"):
                axes.plot(steps, values, label=name.partition("/")[2], marker="." if len(steps) < 3 else None)
        axes.set(xlabel="step", ylabel="angle (degrees)", ylim=(0, None), title=TITLES[kind])
        axes.legend(fontsize=7)
    names = [str(record.axes.get(axis)) for axis in ("benchmark", "setting", "method", "rule")]
    figure.suptitle(f"{', '.join(names)}, seed {record.axes.get('seed')}", fontsize=10)
    canvas.print_png(str(path))
    return True
