"""What learning rules reach on Fashion-MNIST with LeNet at equal epochs, each tuned equally.

    FOURFOLD_DATA=... nice -n 19 python benchmarks/rules_accuracy.py measure [--only fast_dtp] [--minutes 20]
    python benchmarks/rules_accuracy.py table [--csv FILE] > docs/results/rules_accuracy.md

10,000 training pictures, batch 128, Adam. Each rule's rate is the one of ``RATES`` that is best after five epochs of
nine tenths of them, judged on the last tenth, seed 0; then five epochs of all of them, judged on the test set once,
seeds 0 to 2. Nothing else is tuned. ``measure`` runs what the CSV lacks and adds a line after each run: it can be
stopped and started again at any time.
"""

import csv
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from resumable import append, measure_or_table

CSV = Path(__file__).resolve().parent.parent / "docs" / "results" / "rules_accuracy.csv"
FIELDS = ("rule", "rate", "judged_on", "seed", "accuracy", "cpu_seconds", "angle_mean", "state", "message")
WORDS = (
    "benchmark=fashion_mnist",
    "benchmark/model=lenet",
    "benchmark.data.samples=10000",
    "scale=full",
    "hardware=cpu",
    "until=epochs",
    "optimizer=adam",
    "tracking=off",
    "measure.flops=off",
)
EPOCHS = 5
RATES = (0.0003, 0.001, 0.003)
SEEDS = (0, 1, 2)
# The rules, those that decide first, and what of them is not as in conf/method/rule, so that all fit an afternoon.
RULES: dict[str, tuple[str, ...]] = {
    "backprop": (),
    "fast_dtp": (),
    "direct_feedback_alignment": (),
    "feedback_alignment": (),
    "vanilla_dtp": ("method.rule.iterations=1",),
    "target_propagation": ("method.rule.iterations=1",),
    "drl": ("method.rule.iterations=1",),
}

Key = tuple[str, float, str, int]  # rule, rate, what it is judged on, seed
Lines = dict[Key, dict[str, str]]


def measured(path: Path) -> Lines:
    """What the CSV has."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {(r["rule"], float(r["rate"]), r["judged_on"], int(r["seed"])): r for r in csv.DictReader(file)}


def best_rate(lines: Lines, rule: str) -> float | None:
    """The rate with the best accuracy on held-out training pictures (a run that broke has none); None until all ran."""
    tried = [lines.get((rule, rate, "validation", 0)) for rate in RATES]
    if None in tried:
        return None
    scores = [float(line["accuracy"] or 0) for line in tried if line is not None]
    return RATES[scores.index(max(scores))]


def missing(lines: Callable[[], Lines], only: str | None = None) -> Iterator[Key]:
    """The runs that there are no lines of, rule by rule; ``lines`` is asked again after each."""
    for rule in RULES:
        if only in (None, rule):
            wanted = [(rule, rate, "validation", 0) for rate in RATES]
            yield from (key for key in wanted if key not in lines())
            rate = best_rate(lines(), rule)
            assert rate is not None
            wanted = [(rule, rate, "test", seed) for seed in SEEDS]
            yield from (key for key in wanted if key not in lines())


def run(key: Key) -> dict[str, Any]:
    """The line of one run."""
    import fourfold
    from fourfold.metrics import figures
    from fourfold.record import read_series

    rule, rate, judged_on, seed = key
    words = [*WORDS, f"method/rule={rule}", *RULES[rule], f"optimizer.learning_rate={rate}", f"seed={seed}"]
    words += [f"evaluate_on={judged_on}", f"until.epochs={EPOCHS}", "timeout=100000", "rerun=missing"]
    if judged_on == "test" and rule != "backprop":
        words.append("diagnose_every=79")  # an epoch's steps
    record = fourfold.run(words)
    folder = Path(record.config["output_dir"]) / "cells" / record.cell
    found = figures(record, read_series(folder) if record.state == "done" else None)
    return {
        **dict(zip(FIELDS[:4], key, strict=True)),
        "accuracy": f"{100 * found['average_accuracy']:.2f}" if "average_accuracy" in found else "",
        "cpu_seconds": round(found.get("cpu_seconds", 0)),
        "angle_mean": f"{found['angle_mean']:.1f}" if "angle_mean" in found else "",
        "state": record.state,
        "message": record.message or "",
    }


def measure(path: Path, only: str | None, minutes: float) -> None:
    """Runs what is missing, until the time is up."""
    ends = time.monotonic() + 60 * minutes
    os.environ.setdefault("FOURFOLD_OUTPUT", tempfile.mkdtemp(prefix="fourfold-rules-"))
    for key in missing(lambda: measured(path), only):
        if time.monotonic() > ends:
            return
        append(path, FIELDS, run(key))


def table(path: Path) -> str:
    """The table in Markdown."""
    lines = measured(path)
    parts = [
        "# Learning rules on Fashion-MNIST with LeNet",
        "",
        "Made by `python benchmarks/rules_accuracy.py table` from `rules_accuracy.csv`. 10,000 training pictures,",
        f"{EPOCHS} epochs, batch 128, Adam; test accuracy in percent, mean (range) of seeds 0 to 2. Each rule's rate",
        f"is the best of {', '.join(f'{rate:g}' for rate in RATES)} after as many epochs, judged on a held-out tenth",
        "of the training pictures, seed 0; nothing else is tuned. Validation: those accuracies, in that order. Angle:",
        "to backprop's gradient, mean over layers in the last epoch. Cost: CPU time in multiples of backprop's, on two",
        "cores that others used too.",
        "",
        "| rule | accuracy | less backprop's | rate | validation | angle | cost |",
        "|---|---|---|---|---|---|---|",
        *(row(lines, rule) for rule in RULES),
        "",
    ]
    for line in lines.values():
        if line["state"] != "done":
            what = f"`{line['rule']}` at {line['rate']}, {line['judged_on']}, seed {line['seed']}"
            parts.append(f"* {what}: {line['state']}, {line['message']}")
    return "\n".join(parts).rstrip()


def row(lines: Lines, rule: str) -> str:
    """A rule's row."""
    rate, found = best_rate(lines, rule), values_of(lines, rule, "accuracy")
    tried = [lines.get((rule, each, "validation", 0)) for each in RATES]
    validation = ", ".join("—" if line is None else line["accuracy"] or "failed" for line in tried)
    if not found:
        return f"| `{rule}` | not measured yet | | | {validation} | | |"
    own, exact = statistics.mean(found), values_of(lines, "backprop", "accuracy")
    angles, seconds = (values_of(lines, rule, field) for field in ("angle_mean", "cpu_seconds"))
    beside = values_of(lines, "backprop", "cpu_seconds")
    changed = ", ".join(word.removeprefix("method.rule.") for word in RULES[rule])
    cells = [
        f"`{rule}`" + (f", {changed}" if changed else ""),
        f"{own:.1f} ({min(found):.1f} to {max(found):.1f})" + ("" if len(found) == len(SEEDS) else ", not all seeds"),
        f"{own - statistics.mean(exact):+.1f}" if exact else "—",
        f"{rate:g}",
        validation,
        f"{statistics.mean(angles):.0f}°" if angles else "—",
        f"{statistics.mean(seconds) / statistics.mean(beside):.1f}" if beside else "—",
    ]
    return "| " + " | ".join(cells) + " |"


def values_of(lines: Lines, rule: str, field: str) -> list[float]:
    """A field of a rule's runs on the test set, by seed, where it has one."""
    rate = best_rate(lines, rule)
    own = [] if rate is None else [lines.get((rule, rate, "test", seed)) for seed in SEEDS]
    return [float(line[field]) for line in own if line is not None and line[field]]


if __name__ == "__main__":
    measure_or_table(__doc__, CSV, measure, table, "one rule", RULES)
