"""One page on learning rules in continual learning, from the records of suite=rules_continual.

    python run.py -m suite=rules_continual hardware=auto
    python benchmarks/rules_continual.py [--output-dir outputs] > docs/results/rules_continual.md

Accuracy and forgetting over the stream, the angle to backprop's gradients at its end and just after each change of
task, and what a step costs in multiples of backprop's in the same setting with the same method.
"""

import argparse
from pathlib import Path

from fourfold.metrics.statistics import Summary
from fourfold.report.groups import Group, group, problems, rate_of
from fourfold.report.read import Cell, read_all

SUITE = "rules_continual"
EXACT = "backprop"


def cells_of(output_dir: Path) -> list[Cell]:
    """The suite's cells on disk."""
    cells = read_all(output_dir).cells
    return [cell for cell in cells if cell.record and (cell.record.config.get("suite") or {}).get("name") == SUITE]


def page(cells: list[Cell]) -> str:
    """The page in Markdown: a table a setting and benchmark, what did not run below."""
    rows = group(cells)
    parts = ["# Learning rules in continual learning", "", *_about(cells)]
    for benchmark, setting in dict.fromkeys((row.benchmark, row.setting) for row in rows):
        own = [row for row in rows if (row.benchmark, row.setting) == (benchmark, setting)]
        methods = [row.method for row in own]
        own.sort(key=lambda row: (methods.index(row.method), row.rule != EXACT))
        parts += [
            "",
            f"## {benchmark}, {setting}",
            "",
            "| method | rule | accuracy | forgetting | angle at the end | after a switch | cost of a step |",
            "|---|---|---|---|---|---|---|",
            *(_line(row, rows) for row in own),
        ]
    for state, message, broken in problems(cells):
        parts += ["", f"{len(broken)} {state}: {message}"]
    return "\n".join(parts)


def _about(cells: list[Cell]) -> list[str]:
    records = [cell.record for cell in cells if cell.record]
    seeds = sorted({record.axes["seed"] for record in records})
    updates = sorted({record.measurements.get("steps") for record in records if record.state == "done"} - {None})
    scales = sorted({record.recipe.get("scale", "?") for record in records})
    return [
        f"Made by `python benchmarks/rules_continual.py` from {len(records)} cells of `suite={SUITE}`: scale",
        f"{', '.join(scales)}, {', '.join(map(str, updates))} updates each, seeds {', '.join(map(str, seeds))}.",
        "Accuracy after the last task, and the largest loss of it since it was learned, percent, mean over seeds",
        "± standard error. Angle of the rule's gradient to backprop's in degrees, mean over layers: in the last tenth",
        "of training, and at the first look after a change of task. Cost: backprop's rate in the same setting with the",
        "same method over the rule's; the looks at the angles are no part of it.",
    ]


def _line(row: Group, rows: list[Group]) -> str:
    figures = row.figures
    cells = [
        row.method,
        f"`{row.rule}`",
        _percent(figures.get("average_accuracy")),
        _percent(figures.get("forgetting_max")),
        _degrees(figures.get("angle_mean")),
        _degrees(figures.get("angle_at_switch")),
        _cost(row, rows),
    ]
    return "| " + " | ".join(cells) + " |"


def _cost(row: Group, rows: list[Group]) -> str:
    """How many steps of backprop a step takes, all else equal."""
    like = (row.benchmark, row.setting, row.method, row.hardware)
    exact = next(
        (o for o in rows if (o.benchmark, o.setting, o.method, o.hardware) == like and o.rule == EXACT),
        None,
    )
    theirs, own = (None if one is None else rate_of(one) for one in (exact, row))
    return "—" if theirs is None or own is None else f"{theirs.mean / own.mean:.1f}"


def _percent(summary: Summary | None) -> str:
    if summary is None:
        return "—"
    error = "" if summary.standard_error is None else f" ± {100 * summary.standard_error:.1f}"
    return f"{100 * summary.mean:.1f}{error}"


def _degrees(summary: Summary | None) -> str:
    return "—" if summary is None else f"{summary.mean:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"))
    cells = cells_of(parser.parse_args().output_dir)
    if not cells:
        parser.error(f"no cells of suite {SUITE}; first: python run.py -m suite={SUITE}")
    print(page(cells))


if __name__ == "__main__":
    main()
