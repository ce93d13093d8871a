"""The accuracy matrix of a cell as a picture."""

from pathlib import Path

import numpy as np

from fourfold.metrics.continual import accuracy_matrix
from fourfold.record import Record

MOST_NUMBERS = 12  # contexts up to which the values are written into the squares


def heat_map(record: Record, path: Path) -> bool:
    """Writes R as a PNG: contexts over contexts learned, the masked values beside them if there are any.

    False, and no file, where a cell has no matrix of accuracies of several contexts.
    """
    pictures = [accuracy_matrix(record.evaluations, masked=masked) for masked in (False, True)]
    pictures = [matrix for matrix in pictures if matrix.shape[1] > 1 and np.isfinite(matrix).any()]
    if not pictures:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = pictures[0].shape
    side = min(10.0, 1.2 + 0.55 * columns)
    figure = Figure(figsize=(0.8 + side * len(pictures), 1.2 + side * rows / columns), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for number, matrix in enumerate(pictures):
        axes = figure.add_subplot(1, len(pictures), number + 1)
        image = axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set(xlabel="context", title="accuracy" if number == 0 else "with the context's outputs only")
        axes.set_xticks(range(columns), [str(k) for k in range(columns)])
        axes.set_yticks(range(rows), [str(k) for k in range(rows)])
        if number == 0:
            axes.set_ylabel("contexts learned")
        if columns <= MOST_NUMBERS:
            _write_values(axes, matrix)
    figure.colorbar(image, ax=figure.axes)
    names = [str(record.axes.get(axis)) for axis in ("benchmark", "setting", "method")]
    figure.suptitle(f"{', '.join(names)}, seed {record.axes.get('seed')}", fontsize=10)
    canvas.print_png(str(path))
    return True


def _write_values(axes: object, matrix: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            ink = "black" if value > 0.6 else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=7)  # type: ignore[attr-defined]
