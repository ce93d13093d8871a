"""Continual-MAML and what it becomes with parts switched off: MAML, ANIL (Caccia et al. 2020)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark, LossOf
from fourfold.experience import Run
from fourfold.methods.fast_weights import FastWeights
from fourfold.methods.inner_loop import Values
from fourfold.settings.stream import Observation, View

OFF = 100.0  # a threshold from here on is no threshold; a modulation of 1000 leaves no loss unweighted

Batch = tuple[Tensor, Tensor, LossOf]


def update_weight(loss: Tensor, modulation: float) -> Tensor:
    """g(L) = 1 - exp(-modulation L): small where the batch is well predicted already (Caccia et al. 2020, UM)."""
    return -torch.expm1(-modulation * loss.detach())


class ContinualMAML(FastWeights):
    """C-MAML. Each batch is predicted with weights adapted to the one before it; its loss then trains the slow weights.

    threshold (gamma): the context is taken to have changed where adapting to a batch lowers its loss by gamma or more;
    then the adaptation before was to another context and nothing is learned from how it did. modulation (lambda): the
    weight of a meta-update is 1 - exp(-lambda loss); 0 leaves the slow weights as they are (MAML).

    ``prolonged`` (PAP): fast weights go on from batch to batch until a change is found, by first-order steps; the
    batches wait in a buffer, which makes one meta-update at the change, or when it is full: its first half is adapted
    to, its second half judges, batch by batch. ``restart`` next: the batch after the change is the first to start from
    the slow weights again, as in the published code; now: the one that showed it. ``lost`` restart: so do fast weights
    that an adaptation made worse by gamma, or turned into no numbers: many steps of sizes that were learned for few
    can run away, and then nothing lowers the loss any more and no change is found; keep: as published.
    """

    def __init__(
        self, modulation: float, threshold: float, prolonged: bool, buffer: int, restart: str, lost: str, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.modulation, self.threshold = modulation, threshold
        self.prolonged, self.full, self.at_once = prolonged, buffer, restart == "now"
        self.gives_up = lost == "restart"
        self.detects = threshold < OFF

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.start: Values | None = None  # the leaves that the fast weights were adapted from, if a meta-update waits
        self.start_rates: Values = {}
        self.support: Observation | None = None
        self.buffer: list[Observation] = []
        self.starts_anew = True

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        batch = self.told(observation)
        inputs, targets, loss_of = batch
        outputs = self.outputs_again(prediction, inputs)
        before = loss_of(outputs, targets)
        learn = self._prolonged if self.prolonged else self._step
        learn(observation, batch, before)
        return before.detach()

    # ------------------------------------------------------------------------------------- one batch at a time

    def _step(self, observation: Observation, batch: Batch, before: Tensor) -> None:
        start, rates = self.leaves()
        candidate = self.adapt(batch, start, rates, self.first_order or not self.modulation)
        changed = self.changed(self.fall(batch, before, candidate))
        if self.modulation and self.start is not None and not changed:
            self.step_outer(update_weight(before, self.modulation) * before, self.start, self.start_rates)
        if self.modulation:
            self.fast, self.start, self.start_rates, self.support = candidate, start, rates, observation
        else:
            self.fast = detached(candidate)

    def fall(self, batch: Batch, before: Tensor, candidate: Values) -> float:
        """By how much the loss falls when the weights adapt to the batch; 0 where nobody asks."""
        if not self.detects and not (self.prolonged and self.gives_up):
            return 0.0
        inputs, targets, loss_of = batch
        with torch.no_grad():
            return float(before - loss_of(self.forward(candidate, inputs), targets))

    def changed(self, fall: float) -> bool:
        """The boundary test: whether the loss falls by the threshold or more."""
        if not self.detects:
            return False
        found = fall >= self.threshold
        self.run.note("detected", float(found))
        return found

    def is_lost(self, fall: float) -> bool:
        """Whether adapting made the fast weights worse by the threshold, or left no number."""
        return self.gives_up and not fall > -min(self.threshold, OFF)

    # ------------------------------------------------------------------------------------ prolonged adaptation

    def _prolonged(self, observation: Observation, batch: Batch, before: Tensor) -> None:
        begun = self.slow if self.starts_anew else self.fast
        self.starts_anew = False
        candidate = detached(self.adapt(batch, detached(begun), detached(self.rates), first_order=True))
        fall = self.fall(batch, before, candidate)
        changed, lost = self.changed(fall), self.is_lost(fall)
        if not changed:
            self.buffer.append(observation)
        if changed or lost or len(self.buffer) >= self.buffer_size(batch):
            self.learn_from_buffer()
            self.starts_anew = True
            if lost or (changed and self.at_once):
                candidate = detached(self.adapt(batch, detached(self.slow), detached(self.rates), first_order=True))
                self.starts_anew = False
        self.fast = candidate

    def buffer_size(self, batch: Batch) -> int:
        """Batches that make a full buffer: ``buffer``, or for 0 more than two for each sample of a batch."""
        return self.full or 2 * len(batch[1]) + 1

    def learn_from_buffer(self) -> None:
        """One meta-update: slow weights, adapted to batch i of the first half, are judged on batch i of the second."""
        half = len(self.buffer) // 2
        for support, query in zip(self.buffer[:half], self.buffer[half : 2 * half], strict=True):
            start, rates = self.leaves()
            adapted = self.adapt(self.told(support), start, rates, self.first_order)
            inputs, targets, loss_of = self.told(query)
            loss = loss_of(self.forward(adapted, inputs), targets)
            self.add_outer(update_weight(loss, self.modulation) * loss / half, start, rates)
        if half:
            self.outer.step()
            self.outer.zero_grad(set_to_none=True)
        self.buffer = []

    # -------------------------------------------------------------------------------------------------- state

    def restart(self) -> None:
        super().restart()
        self.start = self.support = None
        self.starts_anew = True

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "start": None if self.start is None else detached(self.start),
            "start_rates": detached(self.start_rates),
            "support": None if self.support is None else dict(vars(self.support)),
            "support_seen": None if self.support is None or self.seen is None else self.seen.clone(),
            "buffer": [dict(vars(each)) for each in self.buffer],
            "starts_anew": self.starts_anew,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.buffer = [Observation(**each) for each in state["buffer"]]
        self.starts_anew = bool(state["starts_anew"])
        self.start = self.support = None
        if state["start"] is not None:  # the graph from the slow weights to the fast ones is made again
            self.support = Observation(**state["support"])
            self.start = {name: value.clone().requires_grad_() for name, value in state["start"].items()}
            self.start_rates = {name: value.clone().requires_grad_() for name, value in state["start_rates"].items()}
            self.fast = self.adapt(self.told(self.support), self.start, self.start_rates, self.first_order)


def detached(values: Mapping[str, Tensor]) -> Values:
    return {name: value.detach() for name, value in values.items()}
