"""The meter: always on. It counts steps and units of work and marks their times; it reads nothing back in the loop."""

from collections.abc import Iterator, Mapping
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
        self._before = np.zeros(0)  # seconds of the steps that were done before an interruption
        self._phases_before: dict[str, float] = {}

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
        series = {
            "step_seconds": self.step_seconds(),
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
        totals = dict(self._phases_before)
        for name, begin, end in self._phases:
            totals[name] = totals.get(name, 0.0) + float(times[end] - times[begin])
        return totals

    def step_seconds(self) -> np.ndarray:
        """The duration of each step. Waits for the device: outside the loop only."""
        times = self.clock.resolve()
        now = times[self._marks] - times[self._starts] if self._marks else np.zeros(0)
        return np.concatenate([self._before, now])

    def state_dict(self) -> dict[str, Any]:
        """All that was counted so far, for a cell that is to go on later. Between two steps, outside the loop only."""
        return {
            "units": self.units,
            "step_units": torch.tensor(self._units, dtype=torch.float64),
            "contexts": torch.tensor(self._contexts, dtype=torch.int64),
            "step_seconds": torch.from_numpy(self.step_seconds()),
            "phases": self.phase_seconds(),
            "losses": torch.stack(self._losses) if self._losses else None,
            "waiting": torch.stack(self._waiting) if self._waiting else None,
            "loss_steps": torch.tensor(self._loss_steps, dtype=torch.int64),
            "scores": torch.stack(self._scores) if self._scores else None,
            "score_steps": torch.tensor(self._score_steps, dtype=torch.int64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``state_dict`` gave, in a meter that has counted nothing yet."""
        self.units = state["units"]
        self._units, self._contexts = state["step_units"].tolist(), state["contexts"].tolist()
        self.steps = len(self._units)
        self._before, self._phases_before = state["step_seconds"].numpy(), dict(state["phases"])
        self._losses, self._waiting, self._scores = (
            [] if state[name] is None else list(state[name].unbind()) for name in ("losses", "waiting", "scores")
        )
        self._loss_steps, self._score_steps = state["loss_steps"].tolist(), state["score_steps"].tolist()
