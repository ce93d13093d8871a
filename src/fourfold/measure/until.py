"""When to stop: after steps, passes, a time, or when the rate is known well enough."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from fourfold.errors import Failed
from fourfold.measure.meter import Meter
from fourfold.metrics.throughput import rate

# The rate is looked at after so many steps, and again whenever there are a tenth more: each look waits for the device
# (outside the steps), and a rule that looks too often stops too early, on a narrow interval that is luck.
FIRST_LOOK, LOOK_AGAIN = 50, 1.1


class Until:
    """Decides, step by step, whether a phase is over. ``reason`` says why the last one ended.

    share: the phase's part of the whole stream, by which steps and seconds are divided.
    agree: where ranks learn together, what makes one rank's word that of all: each has a clock and a rate of its own,
    and one that stopped a step before the others would leave them waiting. It costs, so that they look at their time
    after the first step and whenever there are a tenth more. None for a single one.
    """

    def __init__(self, rule: Mapping[str, Any], timeout: float) -> None:
        self.rule = rule
        self.deadline = time.monotonic() + timeout
        self.timeout = timeout
        self.reason = "data"
        self.started = time.monotonic()
        self.agree: Callable[[bool], bool] | None = None

    def begin(self, share: float, steps_in_a_pass: int, most: float = math.inf, spent: float = 0.0) -> None:
        """A new phase of ``most`` steps at most starts, or goes on after the seconds ``spent`` on it before."""
        self.started = time.monotonic() - spent
        self.share = share
        self.next_look, self.next_time = FIRST_LOOK, 1
        self.limit = self._limit(steps_in_a_pass)
        self.last = min(self.limit, most)
        if self.last == math.inf and self.rule["rule"] in ("steps", "epochs"):
            self.last = steps_in_a_pass

    def spent(self) -> float:
        """Seconds of this phase so far."""
        return time.monotonic() - self.started

    def _limit(self, steps_in_a_pass: int) -> float:
        if self.rule["rule"] == "steps":
            return max(1, round(self.rule["steps"] * self.share))
        if self.rule["rule"] == "epochs":
            return max(1, math.ceil(self.rule["epochs"] * steps_in_a_pass))
        return math.inf

    def over(self, steps: int, meter: Meter) -> bool:
        """Whether the phase is over after this many of its steps. Raises Failed once the cell's time is up."""
        now = self.check_time()
        if steps >= self.last:
            self.reason = self.rule["rule"] if steps >= self.limit else "data"
            return True
        if self._out_of_time(now, steps, meter):
            self.reason = "budget"
            return True
        if self.rule["rule"] == "steady" and steps >= self.next_look:
            self.next_look = math.ceil(steps * LOOK_AGAIN)
            if self._agreed(self._steady(meter), meter):
                self.reason = "steady"
                return True
        return False

    def _out_of_time(self, now: float, steps: int, meter: Meter) -> bool:
        seconds = self.rule["seconds"]
        if seconds is None or (self.agree is not None and steps < self.next_time):
            return False
        self.next_time = max(steps + 1, math.ceil(steps * LOOK_AGAIN))
        return self._agreed(now - self.started > seconds * self.share, meter)

    def _agreed(self, over: bool, meter: Meter) -> bool:
        """The word of all ranks; to get it is part of no step."""
        if self.agree is None:
            return over
        with meter.excluded():
            return self.agree(over)

    def check_time(self) -> float:
        """The time now, in seconds. Raises Failed once the cell's time is up."""
        now = time.monotonic()
        if now > self.deadline:
            raise Failed(f"not done after timeout={self.timeout:g} seconds; timeout= gives it longer", reason="timeout")
        return now

    def _steady(self, meter: Meter) -> bool:
        with meter.excluded():
            found = rate(meter.step_seconds(), meter.step_units())
        if found is None or found.relative_half_width is None or not found.steady:
            return False
        return bool(found.relative_half_width <= self.rule["interval"])
