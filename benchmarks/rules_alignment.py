"""Do the fast formulations align as well? The angle to backprop's gradient, by layer, after one epoch at full width.

    FOURFOLD_DATA=... python benchmarks/rules_alignment.py [--only lenet] [--row fast_dtp]
    FOURFOLD_DATA=... python benchmarks/rules_alignment.py --spending

LeNet on 4,000 pictures of Fashion-MNIST (32 batches of 128), SimpleVGG on 768 of a JPEG copy of CIFAR-10 (6 batches),
Adam 0.001, seed 0: ``fast_dtp`` beside ``dtp`` with the paper's iterations and noise, whose ``linear`` gradient is that
of the loss as written. ``--spending``: what fewer iterations save and cost, on LeNet at a quarter of its width, two
batches of 128 for each of these. What is done already is read from its record.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

NETWORKS: dict[str, tuple[str, ...]] = {
    "lenet": ("benchmark=fashion_mnist", "benchmark.data.samples=4000", "diagnose_every=31"),
    "simple_vgg": (
        "benchmark=cifar10",
        "benchmark/data=cifar10_jpeg",
        "benchmark.data.samples=768",
        "diagnose_every=5",
    ),
}
WORDS = (
    "tuned/rule=off",
    "scale=full",
    "hardware=cpu",
    "until=epochs",
    "until.epochs=1",
    "measure.flops=off",
    "tracking=off",
    "rerun=missing",
    "timeout=100000",
)
# The paper's iterations and noise; the rates are automatic, since its own belong to its optimizer and many epochs.
PAPER = {
    "lenet": ("method.rule.iterations=[41,51,24]", "method.rule.noise=[0.4164,0.38263,0.13954]"),
    "simple_vgg": ("method.rule.iterations=[20,30,35,55,20]", "method.rule.noise=[0.4,0.4,0.2,0.2,0.08]"),
}
ROWS = ("fast_dtp", "dtp, gated", "dtp, mirror")

NARROW = ("benchmark=fashion_mnist", "benchmark.model.width=0.25", "benchmark.data.samples=8000", "diagnose_every=61")
BY_ANGLE = "method.rule.train_above=5 method.rule.look_every=8"
SPENDING = (
    "method/rule=fast_dtp",
    "method/rule=fast_dtp method.rule.later_iterations=1 method.rule.later_after=16",
    f"method/rule=fast_dtp {BY_ANGLE}",
    "method/rule=dtp method.rule.inversion=gated method.rule.iterations=20",
    "method/rule=dtp method.rule.inversion=gated method.rule.iterations=20 method.rule.later_iterations=2"
    " method.rule.later_after=16",
    f"method/rule=dtp method.rule.inversion=gated method.rule.iterations=20 {BY_ANGLE}",
)


def words_of(network: str, row: str) -> list[str]:
    """The overrides of a row's cell."""
    words = [*NETWORKS[network], f"benchmark/model={network}", *WORDS]
    if row == "fast_dtp":
        return [*words, "method/rule=fast_dtp"]
    return [*words, "method/rule=dtp", f"method.rule.inversion={row.partition(', ')[2]}", *PAPER[network]]


def run(words: list[str]) -> tuple[str, Any]:
    """(degrees by layer at the last look, the record) of a cell, run unless it was."""
    import fourfold
    from fourfold.metrics import alignment
    from fourfold.record import read_series

    record = fourfold.run(words)
    if record.state != "done":
        raise SystemExit(f"{' '.join(words)}: {record.state}, {record.message}")
    curves: dict[str, Any] = alignment.curves(read_series(Path(record.config["output_dir"]) / "cells" / record.cell))
    found = [float(values[-1]) for name, values in curves.items() if name.startswith("angle/")]
    return ", ".join(f"{angle:.1f}" for angle in found), record


def spending() -> None:
    """Prints what spending fewer iterations is worth."""
    print("| | angle by layer | CPU s |\n|---|---|---|")
    for row in SPENDING:
        found, record = run([*NARROW, "benchmark/model=lenet", *WORDS, *row.split()])
        print(f"| `{row}` | {found} | {record.measurements['cpu_seconds']:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NETWORKS, help="one network")
    parser.add_argument("--row", choices=ROWS, help="one row")
    parser.add_argument("--spending", action="store_true", help="what spending fewer iterations is worth")
    options = parser.parse_args()
    os.environ.setdefault("FOURFOLD_OUTPUT", tempfile.mkdtemp(prefix="fourfold-alignment-"))
    if options.spending:
        spending()
        return
    print("# Angles to backprop's gradients after one epoch, at full width\n")
    print("Made by `python benchmarks/rules_alignment.py`, which says what was run. Degrees, the lowest layer first.\n")
    print("| network | rule | angle by layer | CPU s |\n|---|---|---|---|")
    for network in NETWORKS:
        for row in ROWS:
            if options.only in (None, network) and options.row in (None, row):
                found, record = run(words_of(network, row))
                print(f"| {network} | {row} | {found} | {record.measurements['cpu_seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
