"""A running cell's pulse: how far it is, in a small file of its folder, for ``status`` and the live view.

A thread of its own writes it once a second from what the meter counts anyway, so that a step costs nothing more.
"""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PULSE_FILE = "pulse.json"
EVERY = 1.0  # seconds between two writes
WINDOW = 10  # writes over which the rate is taken


@dataclass(frozen=True)
class Beat:
    """steps of ``of`` (None where that is not known); rate in ``unit`` a second; left: seconds to expect, or None."""

    time: float
    steps: int
    of: int | None
    rate: float | None
    unit: str
    left: float | None


class Pulse:
    """Writes beats while its block runs, and takes the file away at the end."""

    def __init__(self, folder: Path, count: Callable[[], tuple[int, float]], unit: str, until: Any) -> None:
        """``count`` gives (steps, units) so far; ``until`` is the cell's stopping rule."""
        self.path = folder / PULSE_FILE
        self.count, self.unit, self.until = count, unit, until
        self._before: deque[tuple[float, int, float]] = deque(maxlen=WINDOW)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="pulse")

    def __enter__(self) -> "Pulse":
        self.begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join(timeout=5)
        with suppress(OSError):
            self.path.unlink()

    def _beat(self) -> None:
        while not self._over.wait(EVERY):
            with suppress(OSError):  # a full disk must not end a cell
                temporary = self.path.with_name(f".{PULSE_FILE}")
                temporary.write_text(json.dumps(asdict(self.beat())))
                os.replace(temporary, self.path)

    def beat(self) -> Beat:
        """How far the cell is now."""
        now = time.monotonic()
        steps, units = self.count()
        self._before.append((now, steps, units))
        then, steps_then, units_then = self._before[0]
        seconds = now - then
        rate = (units - units_then) / seconds if seconds else None
        pace = (steps - steps_then) / seconds if seconds else 0.0
        of = planned_steps(self.until)
        left = (of - steps) / pace if of is not None and pace else None
        budget = self.until.rule.get("seconds")
        if budget is not None:
            at_most = max(0.0, budget - (now - self.begun))
            left = at_most if left is None else min(left, at_most)
        return Beat(time.time(), steps, of, rate, self.unit, left)


def planned_steps(until: Any) -> int | None:
    """The steps of the whole cell, as far as the rule of its present phase tells: all phases alike."""
    last, share = getattr(until, "last", None), getattr(until, "share", 1.0)
    return None if last is None or last == float("inf") or not share else round(last / share)


def read(folder: Path) -> Beat | None:
    """The latest beat of a cell; None where there is none that can be read."""
    try:
        return Beat(**json.loads((folder / PULSE_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
