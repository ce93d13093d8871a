"""OSAKA's table at a size that two processor cores can do: accuracy by mode, adaptation and detection, over seeds.

    python benchmarks/osaka_table.py measure glyphs [--minutes 20] [--only maml] [--seeds 0,1]
    FOURFOLD_DATA=... python benchmarks/osaka_table.py measure trio [--minutes 20]
    python benchmarks/osaka_table.py table > docs/results/osaka_table.md
    python benchmarks/osaka_table.py separable glyphs

``measure`` runs what the CSV lacks of a study, one seed after the other, and adds a line after each cell: it can be
stopped and started again at any time. All rows of a seed and an alpha go through the identical stream, and those with
pre-training share it where it is the same mathematics: second order, the same inner steps, learned step sizes
(``method.keep``). Studies whose name begins with sweep_ look for values.
"""

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resumable import append

from fourfold.metrics.statistics import summarise

CSV = Path(__file__).resolve().parent.parent / "docs" / "results" / "osaka_table.csv"
POSITIONS = (0, 1, 2, 5, 10, 20)
DETECTION = ("precision", "recall", "f1", "delay")
PLACE = ("study", "alpha", "row", "seed")
FIELDS = (
    *PLACE,
    "state",
    "accuracy",
    "mode_0",
    "mode_1",
    "mode_2",
    *(f"after_{place}" for place in POSITIONS),
    *DETECTION,
    "switches",
    "validation",
    "stream_cpu_seconds",
    "version",
)
FULL = "cmaml_pre_um_pap"


@dataclass(frozen=True)
class Study:
    """Cells that are compared: the words that all have and those of each row, at these alphas, over these seeds.

    modes: the names of the three; online: the rows that learn without fast weights; later: rows that come once all
    others are there.
    """

    says: str
    words: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    modes: tuple[str, str, str] = ("characters", "invented", "digits")
    alphas: tuple[float, ...] = (0.9, 0.98)
    seeds: tuple[int, ...] = (0,)
    online: tuple[str, ...] = ()
    later: tuple[str, ...] = ()

    def cells(self, seeds: Sequence[int] | None = None, only: str | None = None) -> Iterator[tuple[float, str, int]]:
        """Every cell: alpha, row, seed; a seed after the other."""
        for last in (False, True):
            for seed in seeds or self.seeds:
                for alpha in self.alphas:
                    for row in self.rows:
                        if only in (None, row) and last == (row in self.later):
                            yield alpha, row, seed


NET = (
    "setting=osaka",
    "hardware=cpu",
    "scale=full",
    "tracking=off",
    "progress=off",
    "tuned=off",
    "benchmark.data.convert=[1,16,16]",
    "benchmark.model.width=0.25",
    "benchmark.model.blocks=3",
    "benchmark.data.epoch_batches=50",
    "optimizer.learning_rate=0.003",
)
GLYPHS = ("benchmark=osaka_glyphs", *NET)
TRIO = ("benchmark=osaka_omniglot", "benchmark/data=osaka_omniglot_small", *NET)
FAST = ("method.learned_rates=true", "method.inner_steps=2")
QUERIES = "method.meta_queries=5"
PRE = (*FAST, QUERIES)

ROWS: dict[str, tuple[str, ...]] = {
    "online_sgd 0.1": ("method=online_sgd", "method.rate=0.1"),
    "online_sgd 0.01": ("method=online_sgd", "method.rate=0.01"),
    "online_adam 0.001": ("method=online_adam", "method.rate=0.001"),
    "online_adam 0.005": ("method=online_adam", "method.rate=0.005"),
    "fine_tuning": ("method=fine_tuning", *PRE),
    "maml": ("method=maml", *PRE),
    "cmaml": ("method=cmaml", *FAST),
    "cmaml_pre": ("method=cmaml_pre", *PRE),
    FULL: (f"method={FULL}", *PRE),
    "anil": ("method=anil", *PRE),
    "cmaml_pre_um": ("method=cmaml_pre_um", *PRE),
    "cmaml_pre_pap": ("method=cmaml_pre_pap", *PRE),
    f"{FULL} lost=keep": (f"method={FULL}", "method.lost=keep", *PRE),
    "bgd": ("method=bgd", "method.rate=10", "method.deviation=0.01", "method.samples=5"),
    "metabgd": ("method=metabgd",),
    "metacog": ("method=metacog",),
}
ONLINE = (*(row for row in ROWS if row.startswith("online")), "bgd")
FIRST = ("online_sgd 0.1", "online_adam 0.001", "maml", FULL)
LATER = tuple(row for row in ROWS if row not in FIRST)

STUDIES = {
    "glyphs": Study(
        "`osaka_glyphs`: 10-way 5-shot, T = 1,000, pictures of 16x16, three convolutions of 16 channels, two\n"
        "second-order inner steps from 0.1 with learned sizes, Adam 0.003 outside; pre-training: up to 300\n"
        "meta-batches of 4 tasks; BGD, MetaBGD and MetaCOG: outside the published eta 10 and deviation 0.01, inner\n"
        "steps of a fixed 0.1, for MetaCOG on masks that begin at 0.5, with an L1 of 0.1",
        (*GLYPHS, "until.steps=1000", "benchmark.data.epochs=6"),
        ROWS,
        seeds=(0, 1, 2, 3, 4),
        online=ONLINE,
        later=LATER,
    ),
    "trio": Study(
        "Omniglot's two small sets (180 characters for pre-training, 30 to judge it), MNIST, Fashion-MNIST: 10-way\n"
        "5-shot, T = 500, all else as above",
        (*TRIO, "until.steps=500", "benchmark.data.epochs=6"),
        ROWS,
        modes=("omniglot", "mnist", "fashion_mnist"),
        seeds=(0, 1, 2),
        online=ONLINE,
        later=LATER,
    ),
    "sweep_online": Study(
        "Step sizes of online learning on `osaka_glyphs`: the first 500 steps of seed 0",
        (*GLYPHS, "until.steps=500"),
        {f"online_{kind} {rate}": (f"method=online_{kind}", f"method.rate={rate}")
         for kind, rates in {"sgd": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), "adam": (0.0005, 0.001, 0.005, 0.02)}.items()
         for rate in rates},
        seeds=(0,),
    ),
    "sweep_inner": Study(
        "Inner loops of MAML on `osaka_glyphs`, 150 meta-batches, T = 300; validation: accuracy on tasks of\n"
        "characters kept out of pre-training, after each 50",
        (*GLYPHS, "until.steps=300", "benchmark.data.epochs=3", "method=maml", QUERIES),
        {
            f"{steps} x {rate}{' learned' if learned else ''}, {'first' if first else 'second'} order": (
                f"method.inner_steps={steps}",
                f"method.inner_rate={rate}",
                f"method.learned_rates={str(learned).lower()}",
                f"method.first_order={str(first).lower()}",
            )
            for steps, rate, learned, first in (
                (2, 0.1, False, False),
                (2, 0.1, True, False),
                (2, 0.4, False, False),
                (2, 0.4, True, False),
                (1, 0.4, True, False),
                (2, 0.4, False, True),
            )
        },
        alphas=(0.9,),
        seeds=(5,),
    ),
    "sweep_modulation": Study(
        "lambda and gamma of C-MAML + Pre + UM + PAP on `osaka_glyphs`: the first 400 steps of seed 0",
        (*GLYPHS, "until.steps=400", "benchmark.data.epochs=6", f"method={FULL}", *PRE),
        {f"lambda {weight}, gamma {gamma}": (f"method.modulation={weight}", f"method.threshold={gamma}")
         for weight in (0.25, 1, 1000) for gamma in (1, 2, 1000)},
        seeds=(0,),
    ),
}  # fmt: skip


def measured(path: Path) -> dict[tuple[str, str, str, str], dict[str, str]]:
    """What the CSV has: (study, alpha, row, seed) -> its line."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {tuple(line[key] for key in PLACE): line for line in csv.DictReader(file)}  # type: ignore[misc]


def measure(path: Path, name: str, minutes: float, seeds: Sequence[int] | None, only: str | None) -> None:
    """Runs what is missing of a study, until the time is up."""
    ends = time.monotonic() + 60 * minutes
    output = Path(os.environ.setdefault("FOURFOLD_OUTPUT", tempfile.mkdtemp(prefix="fourfold-osaka-")))
    study = STUDIES[name]
    for alpha, row, seed in study.cells(seeds, only):
        place = (name, str(alpha), row, str(seed))
        if place in measured(path):
            continue
        if time.monotonic() > ends:
            return
        words = [*study.words, *study.rows[row], f"setting.alpha={alpha}", f"seed={seed}"]
        if QUERIES in words:  # it is trained before the stream
            words.append(f"method.keep={output / 'pretraining'}")
        line = {**dict(zip(PLACE, place, strict=True)), **one_cell(words, output)}
        append(path, FIELDS, line)


def one_cell(words: list[str], output: Path) -> dict[str, Any]:
    """The fields that a cell fills, from its record."""
    import fourfold
    from fourfold.metrics import figures
    from fourfold.record import read_series

    before = time.process_time()
    record = fourfold.run(words)
    spent = time.process_time() - before
    version = (record.environment.get("git") or {}).get("commit", "")[:9] or fourfold.__version__
    line: dict[str, Any] = {"state": record.state, "version": version, "stream_cpu_seconds": round(spent)}
    if record.state != "done":
        print(record.message, file=sys.stderr)
        return line
    found = figures(record, read_series(output / "cells" / record.cell))
    names = [text.split(": ")[1].split(",")[0] for text in record.measurements["contexts"]]
    line["accuracy"] = percent(found.get("cumulative_accuracy"))
    line |= {f"mode_{k}": percent(found.get(f"cumulative_accuracy_{mode}")) for k, mode in enumerate(names)}
    line |= {f"after_{place}": percent(found.get(f"accuracy_{place}_after_switch")) for place in POSITIONS}
    line |= {key: percent(found.get(f"detection_{key}")) for key in DETECTION[:-1]}
    delay = found.get("detection_delay")
    line["delay"] = "" if delay is None else f"{delay:.2f}"
    line["switches"] = f"{found['switches']:g}"
    told = (record.measurements.get("method") or {}).get("pretraining") or {}
    line["validation"] = " ".join(f"{100 * value:.0f}" for value in told.get("validation", ()))
    if told and not told.get("kept"):
        line["stream_cpu_seconds"] = ""  # with the pre-training, which others take from it
    return line


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def separable(name: str, contexts: int = 200) -> None:
    """How hard a mode's contexts are without learning: 5 samples a class shown, 5 asked, the nearest one's label."""
    import torch

    from fourfold.benchmarks import interface as benchmarks
    from fourfold.composition import compose, plain
    from fourfold.hardware.device import acquire
    from fourfold.recipe import resolve
    from fourfold.settings.episodes import Classes, tasks_of

    cell = plain(compose(["method=cmaml", *STUDIES[name].words]))
    device = acquire(cell["hardware"])
    sets = benchmarks.build(cell, resolve(cell, device.accelerator, list(device.offers))).sets
    assert sets is not None
    by_class, draw = Classes.of(sets.train.targets), torch.Generator().manual_seed(0)
    for mode in sets.modes:  # type: ignore[attr-defined]
        right = 0.0
        for classes in tasks_of([mode.classes], torch.zeros(contexts, dtype=torch.long), 10, draw):
            samples = by_class.draw(classes[None], 10, draw).flatten()
            pixels = torch.nn.functional.normalize(sets.train.batch(samples).inputs.view(10, 10, -1), dim=-1)
            shown, asked = pixels[:, :5].flatten(0, 1), pixels[:, 5:].flatten(0, 1)
            nearest = (asked @ shown.T).argmax(1) // 5
            right += float((nearest == torch.arange(50) // 5).float().mean()) / contexts
        print(f"{mode.name}: nearest neighbour of pixels {100 * right:.1f} %")


# ---------------------------------------------------------------------------------------------- table


def column(lines: Any, name: str, alpha: float, row: str, field: str) -> dict[int, float]:
    """seed -> the value of a field."""
    found = {int(key[3]): line[field] for key, line in lines.items() if key[:3] == (name, str(alpha), row)}
    return {seed: float(value) for seed, value in found.items() if value}


def text_of(values: Sequence[float], digits: int = 1) -> str:
    """Mean and half of the 95 % interval (Student)."""
    found = summarise(values)
    if found is None:
        return "–"
    half = "" if found.half_width is None else f" ± {found.half_width:.{digits}f}"
    return f"{found.mean:.{digits}f}{half}"


def table(path: Path) -> str:
    """All studies in Markdown: means over seeds with the half-width of their 95 % intervals (Student's t)."""
    lines = measured(path)
    parts = [
        "# OSAKA at reduced size",
        "",
        "Made by `python benchmarks/osaka_table.py table` from `osaka_table.csv`. Accuracy in percent, each prediction",
        "made before its labels were revealed, the first step included; mean over seeds ± half of the 95 % interval",
        "(Student's t). All rows of a seed go through the same stream, so that differences are paired. Chance is 10.",
    ]
    for name, study in STUDIES.items():
        parts += ["", f"## {name}", "", study.says + "."]
        for alpha in study.alphas:
            done = {row: column(lines, name, alpha, row, "accuracy") for row in study.rows}
            done |= {on(mode): column(lines, name, alpha, "maml", f"mode_{k}") for k, mode in enumerate(study.modes)}
            if any(done.values()):
                parts += ["", *one_table(lines, name, study, alpha)]
                parts += detections(lines, name, study, alpha) + differences(done, study, alpha)
            else:
                parts += ["", f"α = {alpha:g}: not measured."]
    return "\n".join(parts)


def one_table(lines: Any, name: str, study: Study, alpha: float) -> list[str]:
    places = ", ".join(map(str, POSITIONS))
    trained = any(line["validation"] for key, line in lines.items() if key[0] == name)
    head = [f"α = {alpha:g}", "seeds", "all", *study.modes, f"{places} steps after a switch"]
    head += ["validation"] if trained else []
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in study.rows:
        values = column(lines, name, alpha, row, "accuracy")
        if not values:
            rows.append(f"| {row} | 0 | not measured |{' |' * (len(head) - 3)}")
            continue
        cells = [row, str(len(values)), text_of(list(values.values()))]
        cells += [text_of(list(column(lines, name, alpha, row, f"mode_{k}").values())) for k in range(3)]
        after = [list(column(lines, name, alpha, row, f"after_{place}").values()) for place in POSITIONS]
        cells.append(", ".join(f"{sum(each) / len(each):.0f}" if each else "–" for each in after))
        if trained:
            own = [line["validation"] for key, line in lines.items() if key[:3] == (name, str(alpha), row)]
            best = [max(map(float, each.split())) for each in own if each]
            cells.append(text_of(best, 0) if len(own) > 1 else (own or [""])[0].replace(" ", ", "))
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def on(mode: str) -> str:
    return f"maml on {mode}"


def detections(lines: Any, name: str, study: Study, alpha: float) -> list[str]:
    """How well switches are found, a line for each row that looks for them."""
    found = []
    for row in study.rows:
        own = {key: list(column(lines, name, alpha, row, key).values()) for key in (*DETECTION, "switches")}
        if own["f1"]:
            told = ", ".join(f"{key} {text_of(own[key], 0)} %" for key in DETECTION[:-1])
            found.append(
                f"- {row}: {told}, delay {text_of(own['delay'])} steps ({text_of(own['switches'], 0)} switches)"
            )
    return ["", "Switches found:", "", *found] if found else []


def differences(done: dict[str, dict[int, float]], study: Study, alpha: float) -> list[str]:
    """Paired differences: of each learner with fast weights to each without; of the full method to every other; of
    MAML on the mode that it was trained for to MAML on the others.
    """
    pairs = [(row, other) for row in study.rows if row not in study.online for other in study.online]
    pairs += [(FULL, other) for other in study.rows if FULL in study.rows and other not in (*study.online, FULL)]
    pairs += [(on(study.modes[0]), on(mode)) for mode in study.modes[1:]]
    found = []
    for row, other in pairs:
        both = sorted(done[row].keys() & done[other].keys())
        if len(both) > 1:
            told = summarise([done[row][seed] - done[other][seed] for seed in both])
            assert told is not None
            assert told.low is not None
            assert told.high is not None
            verdict = "above" if told.low > 0 else "below" if told.high < 0 else "not told apart"
            found.append(f"| {row} | {other} | {told.mean:+.1f} ± {told.half_width:.1f} | {verdict} |")
    return ["", f"| α = {alpha:g} | less | paired difference | |", "|---|---|---|---|", *found] if found else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    measuring = commands.add_parser("measure", help="run what the CSV lacks of a study")
    measuring.add_argument("study", choices=tuple(STUDIES))
    measuring.add_argument("--minutes", type=float, default=20)
    measuring.add_argument("--seeds", type=lambda text: [int(word) for word in text.split(",")])
    measuring.add_argument("--only", metavar="ROW")
    separating = commands.add_parser("separable", help="how hard each mode is without learning")
    separating.add_argument("study", choices=tuple(STUDIES))
    for command in (measuring, commands.add_parser("table", help="the tables in Markdown")):
        command.add_argument("--csv", type=Path, default=CSV)
    options = parser.parse_args()
    if options.what == "table":
        print(table(options.csv))
    elif options.what == "separable":
        separable(options.study)
    else:
        measure(options.csv, options.study, options.minutes, options.seeds, options.only)


if __name__ == "__main__":
    main()
