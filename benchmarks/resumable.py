"""What the scripts share that fill a CSV in docs/results/ line by line and can be stopped and started again."""

import argparse
import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def append(path: Path, fields: Sequence[str], line: Mapping[str, Any]) -> None:
    """Adds a line to the CSV, with its head where it is new; prints it, too."""
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(line)
    print(*line.values(), flush=True)


def measure_or_table(
    about: str | None,
    path: Path,
    measure: Callable[[Path, str | None, float], None],
    table: Callable[[Path], str],
    only: str,
    choices: Iterable[str] | None = None,
) -> None:
    """The command line ``measure|table --csv --only --minutes``; ``only`` and ``choices``: what --only may name."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "table"))
    parser.add_argument("--csv", type=Path, default=path)
    parser.add_argument("--only", choices=choices, help=only)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no cell after this time")
    options = parser.parse_args()
    if options.what == "table":
        print(table(options.csv))
    else:
        measure(options.csv, options.only, options.minutes)
