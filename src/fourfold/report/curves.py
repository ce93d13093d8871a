"""How soon learners adapt when the context switches: curves over seeds as a picture, and the figures beside it."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fourfold import errors
from fourfold.errors import Refused
from fourfold.metrics.statistics import Summary, summarise
from fourfold.report.groups import Group, group
from fourfold.report.labels import USUAL_RULES
from fourfold.report.read import Cell

LEARNERS = ("method.", "method/", "optimizer.", "tuned=", "rule.")  # words that say more of the learner
ALPHA = "setting.alpha="
LONGEST = 40  # steps since a switch that a picture shows
SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Learner:
    """One line of a picture: what a learner is called, and its cells (one a seed) with their figures."""

    name: str
    row: Group

    def curve(self) -> list[Summary]:
        """The score by steps since a switch, over seeds; as far as at least half of them have that position."""
        curves = [cell.adaptation for cell in self.row.cells]
        found = []
        for place in range(max(map(len, curves))):
            summary = summarise(curve[place] for curve in curves if place < len(curve))
            if summary is None or 2 * summary.count < len(curves):
                break
            found.append(summary)
        return found


@dataclass(frozen=True)
class Panel:
    """Learners that went through the same streams. ``score``: what their predictions were judged by."""

    title: str
    score: str
    learners: list[Learner]


def panels(cells: Sequence[Cell]) -> list[Panel]:
    """The finished cells whose contexts switched, a panel for each choice of all that is not their learner's.

    A learner is called after its method, with what it was told that others of that method in the panel were not.
    Raises Refused if there are none.
    """
    rows = group(cell for cell in cells if cell.state == errors.DONE and cell.adaptation)
    shared = _in_all([row.variant.split() for row in rows])
    alphas = {_alpha(row) for row in rows}
    found: dict[str, list[Group]] = {}
    for row in rows:
        others = [
            word for word in row.variant.split() if not word.startswith((*LEARNERS, ALPHA)) and word not in shared
        ]
        alpha = [f"alpha {_alpha(row)}"] if len(alphas) > 1 else []
        found.setdefault(", ".join([row.benchmark, row.hardware, row.setting, *alpha, *others]), []).append(row)
    if not found:
        raise Refused(
            "--adaptation: none of these cells is done and was asked while its contexts switched; "
            "setting=osaka, continual_meta and meta_learning do that"
        )
    return [Panel(title, _score(own), [Learner(_name(row, own), row) for row in own]) for title, own in found.items()]


def _name(row: Group, panel: Sequence[Group]) -> str:
    shared = _in_all([other.variant.split() for other in panel if other.method == row.method])
    told = [word for word in row.variant.split() if word.startswith(LEARNERS) and word not in shared]
    return " ".join([row.method, *([] if row.rule in USUAL_RULES else [row.rule]), *told])


def _score(rows: Sequence[Group]) -> str:
    records = [cell.record for row in rows for cell in row.cells if cell.record]
    return str(next((record.measurements.get("score") for record in records), None) or "accuracy")


def _alpha(row: Group) -> Any:
    """The chance that a context stays, which tuned values set too."""
    return next(((cell.record.config.get("setting") or {}).get("alpha") for cell in row.cells if cell.record), None)


def _in_all(words: Sequence[Sequence[str]]) -> set[str]:
    return set.intersection(*map(set, words)) if words else set()


# -------------------------------------------------------------------------------------------- picture


def adaptation_picture(found: Sequence[Panel], path: Path) -> None:
    """Writes the curves, a panel each, with 95 % intervals over seeds as bands. Raises Refused for a kind of file or a
    folder that cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise Refused(f"--adaptation {path}: a picture's name ends in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise Refused(f"--adaptation {path}: there is no folder {path.parent}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(learner.name for panel in found for learner in panel.learners))
    figure = Figure(figsize=(6.2 * len(found), 4.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for number, panel in enumerate(found):
        axes = figure.add_subplot(1, len(found), number + 1)
        for learner in panel.learners:
            curve = learner.curve()[:LONGEST]
            color = f"C{names.index(learner.name)}"  # the same in every panel
            axes.plot([point.mean for point in curve], label=learner.name, color=color, marker=".", markersize=3)
            low = [point.mean if point.low is None else point.low for point in curve]
            high = [point.mean if point.high is None else point.high for point in curve]
            axes.fill_between(range(len(curve)), low, high, color=color, alpha=0.15, linewidth=0)
        axes.set(xlabel="steps since the context switched", ylabel=panel.score.replace("_", " "))
        axes.set_title(panel.title, fontsize=9)
        if panel.score == "accuracy":
            axes.set_ylim(0, 1.02)
        axes.legend(fontsize=7)
    figure.savefig(path)


# -------------------------------------------------------------------------------------------- forms


def adaptation_text(found: Sequence[Panel], width: int, color: bool = False) -> str:
    """Figures of each panel for a person: the score in all, by mode and after a switch; detection; cost."""
    stream = StringIO()
    console = Console(file=stream, width=width, force_terminal=color, no_color=not color, highlight=False)
    for number, panel in enumerate(found):
        if number:
            console.print()
        console.print(panel.title, style="bold")
        for columns in _tables(panel):
            console.print(_table(panel, columns))
        if any(len(learner.row.cells) > 1 for learner in panel.learners):
            console.print("±: half of the 95 % interval over seeds")
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _tables(panel: Panel) -> list[dict[str, str]]:
    """Column heads and the figures below them, a table each; without those that no learner has."""
    names = list(dict.fromkeys(name for learner in panel.learners for name in learner.row.figures))
    total = f"cumulative_{panel.score}"
    modes = {name.removeprefix(f"{total}_"): name for name in names if name.startswith(f"{total}_")}
    after = {
        f"{match[1]} after": name
        for name in names
        if (match := re.fullmatch(rf"{panel.score}_(\d+)_after_switch", name))
    }
    detection = {"switches": "switches"}
    detection |= {name.removeprefix("detection_"): name for name in names if name.startswith("detection_")}
    cost = {"units/s": "overall_units_per_second", "CPU seconds": "cpu_seconds"}
    return [{panel.score.replace("_", " "): total, **modes}, after, {**detection, **cost}]


def _table(panel: Panel, columns: dict[str, str]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    shown.add_column("method", no_wrap=True)
    columns = {head: name for head, name in columns.items() if any(name in each.row.figures for each in panel.learners)}
    for head in columns:
        shown.add_column(head.replace(" ", "\n"), justify="right")
    for learner in panel.learners:
        shown.add_row(learner.name, *(_shown(learner.row.figures.get(name)) for name in columns.values()))
    return shown


def _shown(found: Summary | None) -> str:
    if found is None:
        return ""
    half = "" if found.half_width is None else f" ±{found.half_width:.2g}"
    return (f"{found.mean:.3f}" if abs(found.mean) < 10 else f"{found.mean:.4g}") + half


def adaptation_json(found: Sequence[Panel]) -> str:
    """Everything: the figures of each learner over seeds, and its curve."""
    return json.dumps(
        [
            {
                "panel": panel.title,
                "score": panel.score,
                "learners": [
                    {
                        "name": learner.name,
                        "figures": {name: _plain(value) for name, value in learner.row.figures.items()},
                        "curve": [_plain(point) for point in learner.curve()],
                    }
                    for learner in panel.learners
                ],
            }
            for panel in found
        ],
        indent=1,
        ensure_ascii=False,
    )


def _plain(found: Summary) -> dict[str, Any]:
    return {"mean": found.mean, "interval_low": found.low, "interval_high": found.high, "seeds": found.count}


def adaptation_csv(found: Sequence[Panel]) -> str:
    """A line for each learner and position of its curve."""
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["panel", "learner", "steps_since_switch", "mean", "interval_low", "interval_high", "seeds"])
    for panel in found:
        for learner in panel.learners:
            for place, point in enumerate(learner.curve()):
                writer.writerow([panel.title, learner.name, place, *_plain(point).values()])
    return stream.getvalue().rstrip("\n")
