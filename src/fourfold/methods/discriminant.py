"""Streaming linear discriminant analysis: no gradient, one pass."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Run
from fourfold.methods.features import features_of_all
from fourfold.methods.interface import Method
from fourfold.settings.stream import Observation, View


class SLDA(Method):
    """Deep SLDA (Hayes & Kanan 2020): a running mean of each class and one covariance, of fixed features.

    score_y(x) = m_y' L x - 1/2 m_y' L m_y, L = ((1 - shrinkage) S + shrinkage I)^-1. Means and the covariance within
    classes, S, are exact at any time (merged a batch at a time, Chan et al. 1979). Features are the inputs, or what the
    untrained network computes before its last layer.
    """

    asks_first = True

    def __init__(self, features: str, shrinkage: float) -> None:
        self.kind = features
        self.shrinkage = shrinkage

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        self.view, self.device = view, run.engine.device
        self.task_outputs = view.task_outputs
        if self.kind == "network":
            self.network = run.engine.network(lambda device: benchmark.network(run.seed, device, view.outputs))
        self.counts = torch.zeros(view.outputs, device=self.device)
        self.means: Tensor | None = None  # [outputs, features]
        self.scatter: Tensor | None = None  # [features, features], sum within classes
        self.solved: tuple[Tensor, Tensor] | None = None

    def vectors(self, observation: Observation) -> Tensor:
        """[batch, features]."""
        inputs = observation.inputs
        return inputs.flatten(1).float() if self.kind == "inputs" else features_of_all(self.network, inputs)

    @torch.no_grad()
    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        x = self.vectors(observation)
        if self.means is None or self.scatter is None:
            self.means = x.new_zeros(self.view.outputs, x.shape[1])
            self.scatter = x.new_zeros(x.shape[1], x.shape[1])
        member = F.one_hot(observation.targets, self.view.outputs).to(x.dtype)
        count = member.sum(0)
        mean = member.T @ x / count.clamp(min=1)[:, None]
        within = x - mean[observation.targets]
        apart = mean - self.means
        total = self.counts + count
        both = self.counts * count / total.clamp(min=1)
        self.scatter = self.scatter + within.T @ within + (apart * both[:, None]).T @ apart
        self.means = self.means + apart * (count / total.clamp(min=1))[:, None]
        self.counts = total
        self.solved = None
        return None

    @torch.no_grad()
    def predict(self, observation: Observation) -> Tensor:
        if self.means is None:
            return torch.zeros(len(observation.inputs), self.view.outputs, device=self.device)
        if self.solved is None:
            self.solved = self.solve()
        weight, bias = self.solved
        return (self.vectors(observation) @ weight + bias).masked_fill(self.counts == 0, -1e9)

    def solve(self) -> tuple[Tensor, Tensor]:
        """The linear classifier: weight [features, outputs] and bias [outputs]."""
        assert self.means is not None
        assert self.scatter is not None
        covariance = self.scatter / self.counts.sum()
        shrunk = (1 - self.shrinkage) * covariance + self.shrinkage * torch.eye(len(covariance), device=self.device)
        weight = torch.linalg.solve(shrunk, self.means.T)
        return weight, -0.5 * (self.means * weight.T).sum(1)

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts, "means": self.means, "scatter": self.scatter}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.counts, self.means, self.scatter = state["counts"], state["means"], state["scatter"]
        self.solved = None
