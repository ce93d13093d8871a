"""The meter: always on. It counts steps and units of work and marks their times; it reads nothing back in the loop."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourfold.measure.clock import Clock

# Parts of a step that have a series of their own, SHARE_seconds; of other phases the sum is kept.
SHARES = ("input", "forward", "backward", "optimizer")
LOSS_CHUNK = 256  # losses are stacked this many at a time, so that a long run does not hold a million small tensors


class Meter:
    """Ticked once a step. A span is a stretch of steps without a pause; what happens between spans is excluded."""

    def __init__(self, device: torch.device, unit: str) -> None:
        self.unit = unit
        self.clock = Clock(device)
        self.zero = time.perf_counter()
        self.steps = 0
        self.units = 0.0
        self._units: list[float] = []
        self._contexts: list[int] = []
        self._marks: list[int] = []  # the mark at the end of each step
        self._starts: list[int] = []  # the mark at the start of each step's span or step
        self._last: int | None = None
        self._spans: list[tuple[int, float]] = []  # the first mark of each span, and the host's time then
        self._losses: list[Tensor] = []
        self._waiting: list[Tensor] = []
        self._loss_steps: list[int] = []
        self._phases: dict[str, Phase] = {}
        self._notes: dict[str, tuple[list[int], list[Tensor | float]]] = {}  # by name: steps, and the value at each
        self._before = np.zeros(0)  # seconds of the steps that were done before an interruption
        self._phases_before: dict[str, float] = {}

    def start(self) -> None:
        """Begins a span: the next tick's step starts here."""
        self._last = self.clock.mark()
        self._spans.append((self._last, time.perf_counter() - self.zero))

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
            self._waiting.append(loss.detach() if loss.requires_grad else loss)
            if len(self._waiting) == LOSS_CHUNK:
                self._losses.append(torch.stack(self._waiting))
                self._waiting = []
        self.steps += 1
        self.units += units

    def note(self, name: str, value: Tensor | float, at: int | None = None) -> None:
        """Keeps a number of the running step, on its device, unread: the score of its prediction, say; or of step
        ``at``, which is over."""
        steps, values = self._notes.setdefault(name, ([], []))
        steps.append(self.steps if at is None else at)
        values.append(value)

    def phase(self, name: str) -> "Phase":
        """Names a part of a step, so that its share of the time is known: ``with meter.phase("forward"): ...``"""
        found = self._phases.get(name)
        if found is None:
            found = self._phases[name] = Phase(self)
        return found

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

    @property
    def has_losses(self) -> bool:
        """Whether any step had a loss."""
        return bool(self._loss_steps)

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
        """One entry a step: step_seconds, step_units, step_ended (since ``zero``), loss, context; of the shares that
        were marked SHARE_seconds; and what was noted, nan where it was not: score, if predictions were judged. Of steps
        before an interruption, when they ended and what they were made of is nan.
        """
        times = self.clock.resolve()
        series = {
            "step_seconds": self.step_seconds(),
            "step_units": self.step_units(),
            "step_ended": self._ends(times),
            **self._shares(times),
            "loss": self.losses(),
            "context": np.asarray(self._contexts, dtype=np.int32),
        }
        for name, (steps, values) in self._notes.items():
            series[name] = np.full(self.steps, np.nan)
            noted = [at for at in steps if at < self.steps]
            series[name][noted] = _read(values[: len(noted)])
        return series

    def _shares(self, times: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for name in SHARES:
            if name in self._phases:
                phase = self._phases[name]
                steps, own = np.asarray(phase.steps, dtype=int), self._blank(0.0)
                inside = steps < self.steps
                np.add.at(own, steps[inside], phase.seconds(times)[inside])
                found[f"{name}_seconds"] = own
        return found

    def _blank(self, value: float) -> np.ndarray:
        """One entry a step: nan for those before an interruption, then ``value``."""
        return np.concatenate([np.full(len(self._before), np.nan), np.full(len(self._marks), value)])

    def _ends(self, times: np.ndarray) -> np.ndarray:
        """When each step ended, in the host's time: that of its span's begin, and what the clock counted from there."""
        ends = self._blank(0.0)
        if not self._marks:
            return ends
        marks, began = (np.asarray(values) for values in zip(*self._spans, strict=True))
        span = np.searchsorted(marks, self._starts, side="right") - 1
        ends[len(self._before) :] = began[span] + times[self._marks] - times[marks[span].astype(int)]
        return ends

    def phase_seconds(self) -> dict[str, float]:
        """Total seconds of each named phase."""
        times = self.clock.resolve()
        totals = dict(self._phases_before)
        for name, phase in self._phases.items():
            totals[name] = totals.get(name, 0.0) + float(phase.seconds(times).sum())
        return totals

    def step_seconds(self) -> np.ndarray:
        """The duration of each step. Waits for the device: outside the loop only."""
        times = self.clock.resolve()
        now = times[self._marks] - times[self._starts] if self._marks else np.zeros(0)
        return np.concatenate([self._before, now])

    def step_units(self) -> np.ndarray:
        """The units of each step."""
        return np.asarray(self._units, dtype=np.float64)

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
            "notes": {
                name: [torch.tensor(steps, dtype=torch.int64), torch.from_numpy(_read(values))]
                for name, (steps, values) in self._notes.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``state_dict`` gave, in a meter that has counted nothing yet."""
        self.units = state["units"]
        self._units, self._contexts = state["step_units"].tolist(), state["contexts"].tolist()
        self.steps = len(self._units)
        self._before, self._phases_before = state["step_seconds"].numpy(), dict(state["phases"])
        self._losses, self._waiting = (
            [] if state[name] is None else list(state[name].unbind()) for name in ("losses", "waiting")
        )
        self._loss_steps = state["loss_steps"].tolist()
        self._notes = {name: (steps.tolist(), values.tolist()) for name, (steps, values) in state["notes"].items()}


class Phase:
    """All the times that one part of a step was entered. One object a name: to make one each time would cost more."""

    __slots__ = ("begins", "ends", "mark", "meter", "open", "steps")

    def __init__(self, meter: Meter) -> None:
        self.meter, self.mark = meter, meter.clock.mark
        self.steps: list[int] = []
        self.begins: list[int] = []
        self.ends: list[int] = []
        self.open: list[int] = []  # a part may be entered within itself

    def __enter__(self) -> None:
        self.open.append(self.mark())

    def __exit__(self, *_: object) -> None:
        self.ends.append(self.mark())
        self.begins.append(self.open.pop())
        self.steps.append(self.meter.steps)

    def seconds(self, times: np.ndarray) -> np.ndarray:
        """Of each time, given the clock's times."""
        return times[self.ends] - times[self.begins] if self.ends else np.zeros(0)


def _read(values: list[Tensor | float]) -> np.ndarray:
    """Numbers, or tensors [] of one device; a stretch of tensors is read at once."""
    if values and all(isinstance(value, Tensor) for value in values):
        return torch.stack(values).double().cpu().numpy()  # type: ignore[arg-type]
    return np.asarray([float(value) for value in values], dtype=np.float64)
