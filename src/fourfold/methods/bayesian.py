"""Methods that keep a distribution over parameters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Run
from fourfold.methods.finetune import Finetune
from fourfold.methods.gradients import trained
from fourfold.settings.stream import Observation, View


class BGD(Finetune):
    """Bayesian gradient descent (Zeno et al. 2018): each parameter is N(mean, deviation^2), and no boundary is needed.

    With p = mean + e deviation, e ~ N(0, 1), L the loss summed over the batch, and expectations over ``samples`` draws
    of e:
    mean <- mean - rate deviation^2 E[dL/dp];
    deviation <- deviation sqrt(1 + (deviation E[dL/dp e] / 2)^2) - deviation^2 E[dL/dp e] / 2.
    Predictions are made with the means. The optimizer of the recipe is not used.
    """

    asks_first = True

    def __init__(self, rate: float, deviation: float, samples: int) -> None:
        self.rate = rate
        self.first_deviation = deviation
        self.samples = samples

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.parameters = trained(self.network)
        self.deviation = {name: torch.full_like(p, self.first_deviation) for name, p in self.parameters.items()}
        self.draw = run.generator("parameters")

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        if self.seen is not None:
            self.seen[observation.targets] = True
        means = {name: p.detach().clone() for name, p in self.parameters.items()}
        slope = {name: torch.zeros_like(p) for name, p in means.items()}
        bend = {name: torch.zeros_like(p) for name, p in means.items()}
        losses: list[Tensor] = []
        count = batch_size(observation) * self.run.engine.parts  # .grad is the mean over all ranks' samples
        for _ in range(self.samples):
            noise = {name: self._noise(p) for name, p in means.items()}
            ask = self.rule.gradients_beside if losses else self.rule.gradients  # one update, however many draws
            losses.append(self._gradient_at(observation, means, noise, ask))
            for name, parameter in self.parameters.items():
                if parameter.grad is not None:
                    gradient = parameter.grad * (count / (self.run.engine.gradient_scale() * self.samples))
                    slope[name] += gradient
                    bend[name] += gradient * noise[name]
        self._update(means, slope, bend)
        return torch.stack(losses).mean()

    def _gradient_at(
        self, observation: Observation, means: Mapping[str, Tensor], noise: Mapping[str, Tensor], ask: Any
    ) -> Tensor:
        """Fills ``.grad`` at means + noise * deviation; returns the loss there."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(means[name] + noise[name] * self.deviation[name])
                parameter.grad = None
        total = torch.zeros((), device=self.device)
        for term in self.terms(observation):
            _, loss = ask(self.network, term.inputs, term.targets, term.loss_of)
            total = total + loss
        return total

    @torch.no_grad()
    def _update(self, means: Mapping[str, Tensor], slope: Mapping[str, Tensor], bend: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            mean, self.deviation[name] = bayesian_step(
                means[name], self.deviation[name], slope[name], bend[name], self.rate
            )
            parameter.copy_(mean)
            parameter.grad = None

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.draw).to(self.device)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "deviation": self.deviation, "draw": self.draw.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.deviation = dict(state["deviation"])
        self.draw.set_state(state["draw"])


def batch_size(observation: Observation) -> int:
    """The samples of a batch: its targets', or its inputs' where it has none."""
    leaves = tree_leaves((vars(observation).get("targets"), observation.inputs))
    return len(next(leaf for leaf in leaves if isinstance(leaf, Tensor)))


def bayesian_step(mean: Tensor, deviation: Tensor, slope: Tensor, bend: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """The new mean and deviation of a parameter; slope is E[dL/dp] and bend E[dL/dp e] (Zeno et al. 2018, eq. 8-9).

    L is a sum over the batch, as a likelihood is: with its mean a published rate would be a batch size too small.
    """
    half = 0.5 * deviation * bend
    return mean - rate * deviation.square() * slope, deviation * ((1 + half.square()).sqrt() - half)
