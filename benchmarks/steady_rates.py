"""Series of step times recorded on this machine, with the steady rate that is found in each.

    OMP_NUM_THREADS=1 python benchmarks/steady_rates.py record FOLDER digits:2000 resnet:250 bert:250 llama:400
    python benchmarks/steady_rates.py table FOLDER

``record`` runs each benchmark's smoke size for so many steps and leaves BENCHMARK.csv: the seconds of each step after
a line that says the units of a step and what was found. ``table`` shows each as a line of docs/results/steady_rates.md:
all steps together, Milabench's way (the mean of 60 single rates, trimmed), and the steady rate with its interval.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.metrics.score import milabench_trim
from fourfold.metrics.throughput import Rate, rate

MILABENCH_OBSERVATIONS = 60


def record(folder: Path, benchmark: str, steps: int) -> None:
    """Runs the cell and writes its series."""
    from fourfold.composition import compose, plain
    from fourfold.experiment import run_cell
    from fourfold.record import read_series

    asked = [f"benchmark={benchmark}", "hardware=cpu", "scale=smoke", f"until.steps={steps}"]
    with tempfile.TemporaryDirectory() as temporary:
        done = run_cell(plain(compose([*asked, "tracking=off", "progress=off"])), Path(temporary), [])
        if done.state != "done":
            raise SystemExit(f"{benchmark}: {done.message}")
        series = read_series(Path(temporary))
    seconds = [float(f"{value:.4g}") for value in series["step_seconds"]]
    units = float(np.mean(series["step_units"]))
    said = {
        "unit": done.measurements["unit"],
        "units": units,
        "found": found(rate(seconds, np.full(len(seconds), units))),
    }
    lines = ["# " + json.dumps(said), *(f"{value:g}" for value in seconds)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{benchmark}.csv").write_text("\n".join(lines) + "\n")


def found(steady: Rate | None) -> dict[str, Any]:
    """What a test holds the method to."""
    assert steady is not None
    return {
        "rate": steady.mean,
        "low": steady.low,
        "high": steady.high,
        "warmup": steady.warmup,
        "steady": steady.steady,
    }


def read(file: Path) -> tuple[dict[str, Any], np.ndarray]:
    """(what the first line says, seconds of each step)."""
    first, *rest = file.read_text().splitlines()
    return json.loads(first.removeprefix("# ")), np.asarray(rest, dtype=np.float64)


def line(file: Path) -> str:
    said, seconds = read(file)
    units = np.full(len(seconds), said["units"])
    steady = rate(seconds, units)
    assert steady is not None
    singles = milabench_trim((units / seconds)[:MILABENCH_OBSERVATIONS])
    half = steady.relative_half_width
    return (
        f"| {file.stem}, {said['unit']}/s | {len(seconds):,} | {units.sum() / seconds.sum():.4g} "
        f"| {singles.mean():.4g} ± {100 * singles.std() / singles.mean():.0f} % "
        f"| {steady.mean:.4g}{'' if half is None else f' ± {100 * half:.1f} %'} | {steady.warmup} "
        f"| {'yes' if steady.steady else 'no'} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("record", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", nargs="*", help="BENCHMARK:STEPS")
    options = parser.parse_args()
    for run in options.runs:
        name, _, count = run.partition(":")
        record(options.folder, name, int(count))
    if options.command == "table":
        print("| run | steps | all steps together | as Milabench would | steady rate, 95 % | warm-up cut | steady |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
        for file in sorted(options.folder.glob("*.csv")):
            print(line(file))
