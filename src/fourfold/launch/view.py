"""What a person sees of a sweep that runs: counts by state, running cells with step, rate and time left, failures."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from io import StringIO
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fourfold import errors
from fourfold.launch.snapshot import NOT_RUN, QUEUED, RUNNING, STARTING, WAITING, Running, Snapshot
from fourfold.report.labels import rate_text, seconds_text

MOST_RUNNING, MOST_FAILURES = 10, 3
STYLES = {
    errors.DONE: "green",
    errors.FAILED: "red",
    errors.UNAVAILABLE: "red",
    errors.INTERRUPTED: "yellow",
    RUNNING: "cyan",
}
ORDER = (*errors.STATES, RUNNING, STARTING, QUEUED, WAITING, NOT_RUN)
REFRESH = 2  # times a second


def live(take: Callable[[], Snapshot], asked: str) -> AbstractContextManager[Any]:
    """A view that stays on the terminal and renews itself while its block runs; nothing where no person watches.

    What is printed meanwhile appears above it.
    """
    if asked == "off" or not sys.stdout.isatty():
        return nullcontext()
    return Live(get_renderable=lambda: render(take()), refresh_per_second=REFRESH, transient=True)


def text(snapshot: Snapshot, width: int, color: bool = False) -> str:
    """The same in lines."""
    stream = StringIO()
    console = Console(file=stream, width=width, force_terminal=color, no_color=not color, highlight=False)
    console.print(render(snapshot))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def render(snapshot: Snapshot) -> Group:
    """For rich."""
    parts: list[Any] = [_counts(snapshot), Text(_times(snapshot), style="dim")]
    if snapshot.running:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
        table.add_column(overflow="ellipsis", no_wrap=True)
        for _ in range(3):
            table.add_column(justify="right", no_wrap=True)
        for one in snapshot.running[:MOST_RUNNING]:
            table.add_row(one.cell, *_figures(one))
        parts.append(table)
        if len(snapshot.running) > MOST_RUNNING:
            parts.append(Text(f"and {len(snapshot.running) - MOST_RUNNING} more are running", style="dim"))
    for cell, why in snapshot.failures[-MOST_FAILURES:]:
        parts.append(Text(f"{cell}: {why}", style="red", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _counts(snapshot: Snapshot) -> Text:
    line = Text(f"{snapshot.settled}/{snapshot.total}", style="bold")
    for state in ORDER:
        if snapshot.counts[state]:
            line.append("  ")
            line.append(f"{snapshot.counts[state]} {state}", style=STYLES.get(state, ""))
    return line


def _times(snapshot: Snapshot) -> str:
    end = snapshot.ended if snapshot.ended is not None else snapshot.time
    words = [f"{seconds_text(max(0.0, end - snapshot.started))} so far" if snapshot.ended is None else ""]
    if snapshot.ended is not None:
        words = [f"took {seconds_text(max(0.0, end - snapshot.started))}"]
    elif snapshot.launcher is None and not snapshot.running:
        words.append("its launcher is gone; the same command with rerun=missing goes on")
    elif snapshot.left is not None:
        words.append(f"about {seconds_text(snapshot.left)} left")
    return ", ".join(words)


def _figures(one: Running) -> tuple[str, str, str]:
    beat = one.beat
    if beat is None:
        return "starts", "", str(one.holder)
    step = f"step {beat.steps}" if beat.of is None else f"step {beat.steps}/{beat.of}"
    rate = "" if beat.rate is None else f"{rate_text(beat.rate)} {beat.unit}/s"
    return step, rate, "" if beat.left is None else f"{seconds_text(beat.left)} left"
