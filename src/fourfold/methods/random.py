"""Chance."""

from typing import Any

import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Run
from fourfold.methods.interface import Method
from fourfold.settings.stream import Observation, View


class Random(Method):
    """Scores drawn uniformly at random; learns nothing."""

    asks_first = True

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        self.outputs = view.outputs
        self.device = run.engine.device
        self.draw = run.generator("random scores")
        self.task_outputs = view.task_outputs
        self.like_targets = "classification" not in benchmark.facts

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        return None

    def predict(self, observation: Observation) -> Tensor:
        shape = observation.inputs.shape if self.like_targets else observation.inputs.shape[:1]
        return torch.rand(*shape, self.outputs, generator=self.draw).to(self.device)

    def state_dict(self) -> dict[str, Any]:
        return {"draw": self.draw.get_state()}

    def load_state_dict(self, state: Any) -> None:
        self.draw.set_state(state["draw"])
