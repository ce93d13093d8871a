"""Figures 4.2 and 4.3 of Ernoult et al. 2022, drawn from the records of suite=dtp_figures.

    python run.py -m suite=dtp_figures hardware=auto [benchmark/data=cifar10_jpeg]
    python benchmarks/dtp_figures.py [--output-dir outputs] [--to docs/results]

4.2: angle and distance between feedback and forward weights of the last layer, over the iterations on one batch.
4.3: angle to backprop's gradients by layer, with random, trained and symmetric feedback. Lines and bars are means over
the seeds that there are, bands and whiskers their range. Prints the same numbers.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from fourfold.record import DIAGNOSED_STEP, read, read_series

LAST = "block_4"
CURVES = {"last_layer_dtp": "L-DRL", "last_layer_drl": "DRL"}
BARS = {
    "all_layers_drl_untrained": "DRL, untrained",
    "all_layers_dtp_untrained": "L-DRL, untrained",
    "all_layers_drl": "DRL, trained",
    "all_layers_dtp": "L-DRL, trained",
    "all_layers_dtp_symmetric": "L-DRL, symmetric",
}
LAYERS = ("conv 1", "conv 2", "fully connected 1", "fully connected 2")

DATA = {"cifar10": "CIFAR-10", "cifar10_jpeg": "a JPEG copy of CIFAR-10"}

Looks = dict[str, np.ndarray]


def looks_by_row(output_dir: Path) -> tuple[dict[str, list[Looks]], str]:
    """(row of the suite -> the series of each seed's cell that is done, the pictures that they saw).

    The series get the ``iterations`` of the last layer until each look.
    """
    found: dict[str, list[Looks]] = defaultdict(list)
    pictures: set[str] = set()
    for path in sorted(output_dir.glob("cells/*/record.json")):
        record = read(path.parent)
        suite = record.config.get("suite") or {}
        if suite.get("name") == "dtp_figures" and record.state == "done":
            series = read_series(path.parent)
            counts = record.config["method"]["rule"]["iterations"]
            a_step = counts[-1] if isinstance(counts, list) else counts
            found[suite["row"]].append(series | {"iterations": a_step * np.arange(1, len(series[DIAGNOSED_STEP]) + 1)})
            pictures.add(DATA[record.config["benchmark"]["data"]["source"]])
    return found, ", ".join(sorted(pictures))


def draw_weights(rows: dict[str, list[Looks]], pictures: str, to: Path) -> None:
    """Figure 4.2."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for row, label in CURVES.items():
        for axis, kind in zip(axes, ("weight_angle", "weight_distance"), strict=True):
            values = np.stack([looks[f"{kind}/{LAST}"] for looks in rows[row]])
            iterations = rows[row][0]["iterations"]
            axis.plot(iterations, values.mean(0), label=counted(label, values))
            axis.fill_between(iterations, values.min(0), values.max(0), alpha=0.25)
            at = np.searchsorted(iterations, [100, 500, 1000, 1500, 2000, 2500, 5000]).clip(max=len(iterations) - 1)
            print(f"{row:16s} {kind:16s}", *(f"{iterations[i]}: {values.mean(0)[i]:.2f}" for i in at))
    axes[0].set(xlabel="iterations", ylabel="angle (degrees)")
    axes[1].set(xlabel="iterations", ylabel="relative distance", yscale="log")
    axes[0].legend()
    figure.suptitle(f"last layer, one batch of {pictures}")
    figure.savefig(to / "dtp_figure_4_2.png", dpi=110)


def draw_updates(rows: dict[str, list[Looks]], pictures: str, to: Path) -> None:
    """Figure 4.3."""
    figure, axis = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    present = [row for row in BARS if rows.get(row)]
    width = 0.8 / max(1, len(present))
    for number, row in enumerate(present):
        names = [name for name in rows[row][0] if name.startswith("angle/")]
        last = np.array([[looks[name][-1] for name in names] for looks in rows[row]])
        mean = last.mean(0)
        spread = np.stack([mean - last.min(0), last.max(0) - mean])
        places = np.arange(len(names)) + number * width
        axis.bar(places, mean, width, yerr=spread, capsize=2, label=counted(BARS[row], last))
        print(
            f"{row:26s}",
            *(f"{value:.1f} ({a:.1f} to {b:.1f})" for value, a, b in zip(mean, last.min(0), last.max(0), strict=True)),
        )
    axis.set_xticks(np.arange(len(LAYERS)) + 0.4 - width / 2, LAYERS)
    axis.set(ylabel="angle to backprop (degrees)", title=f"one batch of {pictures}")
    axis.legend()
    figure.savefig(to / "dtp_figure_4_3.png", dpi=110)


def counted(label: str, runs: np.ndarray) -> str:
    """A label with the number of seeds behind it."""
    return f"{label}, {len(runs)} seed{'' if len(runs) == 1 else 's'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"))
    parser.add_argument("--to", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    rows, pictures = looks_by_row(options.output_dir)
    missing = [row for row in CURVES if not rows.get(row)]
    if missing:
        parser.error(f"no finished cell of {', '.join(missing)}; first: python run.py -m suite=dtp_figures")
    options.to.mkdir(parents=True, exist_ok=True)
    draw_weights(rows, pictures, options.to)
    draw_updates(rows, pictures, options.to)


if __name__ == "__main__":
    main()
