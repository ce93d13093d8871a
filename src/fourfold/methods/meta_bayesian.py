"""MetaBGD and MetaCOG: fast weights over slow weights that Bayesian gradient descent learns (He et al. 2019)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark, LossOf
from fourfold.experience import Run
from fourfold.methods.bayesian import bayesian_step
from fourfold.methods.continual_maml import detached
from fourfold.methods.fast_weights import FastWeights
from fourfold.methods.inner_loop import Values, adapt, head_of
from fourfold.settings.stream import Observation, View


class MetaBGD(FastWeights):
    """MAML online, with Bayesian gradient descent for its outer step and no boundaries.

    Each batch is predicted with the means adapted to the batch before. Its loss, with weights adapted to that batch
    from each of ``samples`` draws of the slow weights, summed over the batch, then moves means and deviations as in
    ``BGD``.
    """

    def __init__(self, rate: float, deviation: float, samples: int, **shared: Any) -> None:
        super().__init__(**shared)
        self.outer_rate, self.first_deviation, self.samples = rate, deviation, samples

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.deviation = {name: torch.full_like(p, self.first_deviation).detach() for name, p in self.slow.items()}
        self.draw = run.generator("parameters")
        self.support: Observation | None = None

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        batch = self.told(observation)
        inputs, targets, loss_of = batch
        with torch.no_grad():
            before = loss_of(self.outputs_again(prediction, inputs), targets)
        if self.support is not None:
            self.update_posterior(self.told(self.support), batch)
        self.support = observation
        self.fast = detached(self.fast_from(detached(self.slow), batch, first_order=True))
        return before.detach()

    def update_posterior(self, support: tuple[Tensor, Tensor, LossOf], query: tuple[Tensor, Tensor, LossOf]) -> None:
        """One Bayesian step by the loss on ``query`` of weights adapted to ``support``."""
        inputs, targets, loss_of = query
        slope = {name: torch.zeros_like(value) for name, value in self.deviation.items()}
        bend = {name: torch.zeros_like(value) for name, value in self.deviation.items()}
        share = len(targets) / self.samples  # the loss is a mean over the batch, Bayes' rule asks for the sum
        for _ in range(self.samples):
            noise = {
                name: torch.randn(value.shape, generator=self.draw).to(self.device) for name, value in slope.items()
            }
            drawn = {
                name: (value.detach() + noise[name] * self.deviation[name]).requires_grad_()
                for name, value in self.slow.items()
            }
            fast = self.fast_from(drawn, support, self.first_order)
            loss = loss_of(self.forward(fast, inputs), targets)
            for name, gradient in zip(drawn, torch.autograd.grad(loss, list(drawn.values())), strict=True):
                slope[name] += gradient * share
                bend[name] += gradient * noise[name] * share
        with torch.no_grad():
            for name, value in self.slow.items():
                mean, self.deviation[name] = bayesian_step(
                    value, self.deviation[name], slope[name], bend[name], self.outer_rate
                )
                value.copy_(mean)

    def fast_from(self, slow: Values, batch: tuple[Tensor, Tensor, LossOf], first_order: bool) -> Values:
        """What predicts once ``slow`` was adapted to a batch: values for ``forward``."""
        return self.adapt(batch, slow, detached(self.rates), first_order)

    def state_dict(self) -> dict[str, Any]:
        support = None if self.support is None else dict(vars(self.support))
        state = {"deviation": self.deviation, "draw": self.draw.get_state(), "support": support}
        return {**super().state_dict(), **state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.deviation = dict(state["deviation"])
        self.draw.set_state(state["draw"])
        self.support = None if state["support"] is None else Observation(**state["support"])


MASK = "mask of "  # in front of a parameter's name: its mask, before the sigmoid


class MetaCOG(MetaBGD):
    """MetaBGD whose inner loop leaves the weights alone and learns which of them count in this context.

    Each weight but those of the last layer is multiplied by the sigmoid of a mask; masks begin at ``mask``, and the
    inner loss has ``l1`` times the sum of their sigmoids besides. The last layer has no masks: its weights themselves
    take the inner steps.
    """

    def __init__(self, mask: float, l1: float, **shared: Any) -> None:
        super().__init__(**shared)
        self.mask_begins, self.l1 = mask, l1

    def forward(self, values: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return super().forward(gated(values), inputs)

    def fast_from(self, slow: Values, batch: tuple[Tensor, Tensor, LossOf], first_order: bool) -> Values:
        inputs, targets, loss_of = batch
        head = head_of(self.network)
        moved = {name: name if name in head else MASK + name for name in self.adapted}
        masks = {
            mask: torch.full_like(slow[name], self.mask_begins).detach() for name, mask in moved.items() if mask != name
        }
        rates = {moved[name]: rate.detach() for name, rate in self.rates.items()}

        def loss(values: Values) -> Tensor:
            found = loss_of(self.forward(values, inputs), targets)
            return found + self.l1 * sum(values[mask].sigmoid().sum() for mask in masks)

        return adapt(loss, {**slow, **masks}, rates, self.steps, moved.values(), first_order)


def gated(values: Mapping[str, Tensor]) -> Values:
    """Weights times the sigmoids of their masks, where they have one."""
    weights = {name: value for name, value in values.items() if not name.startswith(MASK)}
    return {
        name: value * values[MASK + name].sigmoid() if MASK + name in values else value
        for name, value in weights.items()
    }
