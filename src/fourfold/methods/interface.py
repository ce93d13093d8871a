"""What a method is. A method meets one cell: it is set up, learns one experience after another, and predicts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Experience, Run
from fourfold.members import parameters, target
from fourfold.methods.buffers import Memory, stored_bytes
from fourfold.settings.protocols import judged
from fourfold.settings.stream import Observation, View


class Method:
    """A learning algorithm. The default ``learn`` drives ``observe``; one with a loop of its own overrides ``learn``
    and lists ``owns_loop`` among its needs. ``judged``: whether its predictions can be asked for. ``asks_first``: that
    it is asked for a prediction of each batch that is new, as its steps compute none on the way and one more is cheap.
    """

    judged = True
    asks_first = False
    task_outputs: Tensor | None = None  # [tasks, outputs]: the view's

    @property
    def outputs_before(self) -> Tensor | None:
        """The scores [batch, outputs] that the last batch had before it was learned from, where they are at hand."""
        return None

    @property
    def accumulates(self) -> bool:
        """Whether it takes a batch in parts where the recipe says ``accumulate``."""
        return False

    def require(self) -> None:
        """Raises Unavailable if a library or program that it needs is not here. Called before ``setup``."""

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        """Builds networks and optimizers; ``rule`` is the rule of credit assignment, or None."""
        raise NotImplementedError

    def pretrain(self, experience: Experience, run: Run) -> None:
        """Called once before the stream, where the setting grants pre-training."""

    def begin_context(self, number: int) -> None:
        """Called before a context's experience, where boundaries are granted."""

    def end_context(self, experience: Experience) -> None:
        """Called after a context's experience, where boundaries are granted; the experience can be sampled again."""

    def learn(self, experience: Experience, run: Run) -> None:
        """Learns all of an experience."""
        for step in experience:
            if experience.prequential:
                prediction = self.predict(step.observation)
                if step.fresh:
                    run.judge(step, judged(prediction, self.mask(step.observation)))
                loss = self.observe(step.reveal(), prediction)
            elif step.fresh and self.asks_first and "classification" in run.benchmark.facts:
                with torch.no_grad(), run.meter.phase("judge"):
                    self.mode(training=False)
                    run.judge(step, judged(self.predict(step.observation), self.mask(step.observation)))
                    self.mode(training=True)
                loss = self.observe(step.reveal())
            else:
                loss = self.observe(step.reveal())
                if step.fresh and (outputs := self.outputs_before) is not None:
                    run.judge(step, outputs)
            if step.query is not None:
                asked = step.query.observation
                with torch.no_grad():
                    run.judge(step.query, judged(self.predict(asked), self.mask(asked)))
            run.tick(step, loss)

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        """Learns from one batch; returns its loss before the update, on its device and without graph, or None.

        ``prediction`` is what ``predict`` returned for the same inputs a moment ago, graph included.
        """
        raise NotImplementedError

    def predict(self, observation: Observation) -> Tensor:
        """Scores [batch, outputs] for the inputs, the higher the likelier; for text [batch, length, outputs].

        Of all outputs: what ``mask`` rules out is taken out where the scores are judged.
        """
        raise NotImplementedError

    def mask(self, observation: Observation) -> Tensor | None:
        """The outputs that it takes for possible: [batch, outputs], [outputs] for any sample, or None for all.

        Here those of the sample's task, where ``task_outputs`` are known.
        """
        return None if self.task_outputs is None else self.task_outputs[observation.task]

    def mode(self, training: bool) -> None:
        """Switches networks between training and evaluation."""

    def series(self) -> dict[str, np.ndarray]:
        """Raw facts of its own for the record, one array a name; asked for once, after the loop."""
        return {}

    def sample_bytes(self) -> int | None:
        """Bytes of past samples that it keeps; None where that is not known."""
        return sum(map(_bytes_of, vars(self).values()))

    def is_idle(self, name: str) -> bool:
        """Whether a parameter of its network waits for a task that has not come; it does not count as held yet."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning has changed."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what ``state_dict`` gave, after ``setup``."""


def _bytes_of(part: Any) -> int:
    """Of a memory, or of batches that are learned from later; of anything else 0."""
    if isinstance(part, Memory):
        return part.bytes()
    if isinstance(part, list):
        return sum(map(_bytes_of, part))
    values = vars(part).values() if isinstance(part, Observation) else ()
    return sum(stored_bytes(value) for value in values if isinstance(value, Tensor))


def build(node: Mapping[str, Any]) -> Method:
    """The method of a configuration, not yet set up."""
    made = target(node)(**parameters(node, "method"))
    assert isinstance(made, Method), f"{node['_target_']} is not a Method"
    return made
