"""The meter: always on. It counts steps and units of work and marks their times; it reads nothing back in the loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourfold.measure.clock import Clock

LOSS_CHUNK = 256  # losses are stacked this many at a time, so that a long run does not hold a million small tensors


class Meter:
    """Ticked once a step. A span is a stretch of steps without a pause; what happens between spans is excluded."""

    def __init__(self, device: torch.device, unit: str) -> None:
        self.unit = unit
        self.clock = Clock(device)
        self.steps = 0
        self.units = 0.0
        self._units: list[float] = []
        self._contexts: list[int] = []
        self._marks: list[int] = []  # the mark at the end of each step
        self._starts: list[int] = []  # the mark at the start of each step's span or step
        self._last: int | None = None
        self._losses: list[Tensor] = []
        self._waiting: list[Tensor] = []
        self._loss_steps: list[int] = []
        self._phases: list[tuple[str, int, int]] = []
        self._scores: list[Tensor] = []
        self._score_steps: list[int] = []

    def start(self) -> None:
        """Begins a span: the next tick's step starts here."""
        self._last = self.clock.mark()

    def stop(self) -> None:
        """Ends a span: what follows, until the next start, is not part of any step."""
        self._last = None

    def tick(self, units: float, loss: Tensor | None = None, context: int = -1) -> None:
        """Ends a step that did ``units`` of work; ``loss`` is kept on its device, unread."""
        assert self._last is not None, "meter.start() comes before the first tick of a span"
        mark = self.clock.mark()
        self._starts.append(self._last)
        self._marks.append(mark)
        self._last = mark
        self._units.append(units)
        self._contexts.append(context)
        if loss is not None:
            self._loss_steps.append(self.steps)
            self._waiting.append(loss.detach())
            if len(self._waiting) == LOSS_CHUNK:
                self._losses.append(torch.stack(self._waiting))
                self._waiting = []
        self.steps += 1
        self.units += units

    def score(self, value: Tensor) -> None:
        """Keeps the score of the running step's prediction, on its device, unread."""
        self._score_steps.append(self.steps)
        self._scores.append(value)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Names a part of a step, so that its share of the time is known."""
        begin = self.clock.mark()
        yield
        self._phases.append((name, begin, self.clock.mark()))

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """What is done inside belongs to no step: evaluation, checkpoints."""
        running = self._last is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()

    def losses(self) -> np.ndarray:
        """The loss of each step, nan where there was none. Reads from the device: outside the loop only."""
        values = np.full(self.steps, np.nan)
        parts = self._losses + ([torch.stack(self._waiting)] if self._waiting else [])
        if parts:
            values[self._loss_steps] = torch.cat([part.reshape(-1) for part in parts]).float().cpu().numpy()
        return values

    def last_losses_finite(self) -> bool:
        """Whether the newest full chunk of losses is finite; reads from the device, so ask seldom."""
        return not self._losses or bool(torch.isfinite(self._losses[-1]).all())

    def series(self) -> dict[str, np.ndarray]:
        """One entry a step: step_seconds, step_units, loss, context, and score if predictions were judged."""
        times = self.clock.resolve()
        seconds = times[self._marks] - times[self._starts] if self._marks else np.zeros(0)
        series = {
            "step_seconds": seconds,
            "step_units": np.asarray(self._units, dtype=np.float64),
            "loss": self.losses(),
            "context": np.asarray(self._contexts, dtype=np.int32),
        }
        if self._scores:
            series["score"] = np.full(self.steps, np.nan)
            judged = [at for at in self._score_steps if at < self.steps]
            series["score"][judged] = torch.stack(self._scores[: len(judged)]).float().cpu().numpy()
        return series

    def phase_seconds(self) -> dict[str, float]:
        """Total seconds of each named phase."""
        times = self.clock.resolve()
        totals: dict[str, float] = {}
        for name, begin, end in self._phases:
            totals[name] = totals.get(name, 0.0) + float(times[end] - times[begin])
        return totals

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "units": self.units}
