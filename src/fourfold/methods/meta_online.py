"""Online meta-learning of other kinds: Reptile and La-MAML."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Run
from fourfold.methods.buffers import Reservoir
from fourfold.methods.continual_maml import detached
from fourfold.methods.fast_weights import FastWeights
from fourfold.methods.inner_loop import Values
from fourfold.methods.replay import together
from fourfold.settings.stream import Observation, View


class Reptile(FastWeights):
    """Slow weights move a part ``outer_rate`` of the way to what each batch makes of them (Nichol et al. 2018).

    phi <- phi + rate (theta - phi), theta adapted to the batch from phi. Predictions are made with theta.
    """

    def __init__(self, outer_rate: float, **shared: Any) -> None:
        super().__init__(**shared)
        self.outer_rate = outer_rate

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        batch = self.told(observation)
        inputs, targets, loss_of = batch
        with torch.no_grad():
            before = loss_of(self.outputs_again(prediction, inputs), targets)
        self.fast = detached(self.adapt(batch, detached(self.slow), detached(self.rates), first_order=True))
        with torch.no_grad():
            for name, value in self.slow.items():
                value.lerp_(self.fast[name], self.outer_rate)
        return before.detach()


class LaMAML(FastWeights):
    """Look-ahead MAML (Gupta, Yadav & Paull 2020): a step size for every single weight, learned with the weights.

    A batch is taken in ``inner_steps`` parts, one inner step each; the meta-loss is the mean, over these steps, of the
    loss on the batch and as many remembered samples. First the step sizes move by ``rates_rate``, then the weights by
    the positive part of their new step sizes. Predictions are made with the slow weights.
    """

    def __init__(self, memory: int, rates_rate: float, **shared: Any) -> None:
        super().__init__(**shared)
        self.memory_size, self.rates_rate = memory, rates_rate

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.rates = {name: torch.full_like(value, self.rate).detach() for name, value in self.slow.items()}
        self.memory = Reservoir(self.memory_size, run.generator("reservoir"))
        self.restart()

    def restart(self) -> None:
        self.fast = dict(self.slow)  # the slow weights themselves predict

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        inputs, targets, loss_of = self.told(observation)
        with torch.no_grad():
            before = loss_of(self.outputs_again(prediction, inputs), targets)
        start = {name: value.detach().clone().requires_grad_() for name, value in self.slow.items()}
        rates = {name: rate.detach().clone().requires_grad_() for name, rate in self.rates.items()}
        loss = self.look_ahead(observation, start, rates)
        found = torch.autograd.grad(loss, [*start.values(), *rates.values()], allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            for number, (name, value) in enumerate(self.slow.items()):
                self.rates[name] = self.rates[name] - self.rates_rate * found[len(start) + number]
                value.sub_(self.rates[name].clamp(min=0) * found[number])
        told = {"inputs": inputs, "targets": targets}
        self.memory.add(**({**told, "task": observation.task} if self.task_outputs is not None else told))
        return before.detach()

    def look_ahead(self, observation: Observation, start: Values, rates: Values) -> Tensor:
        """The mean loss on the batch and the remembered samples along the inner steps."""
        inputs, targets, _ = self.told(observation)
        own = {"inputs": inputs, "targets": targets}
        if self.task_outputs is not None:
            own["task"] = observation.task
        every = together(own, self.memory.draw(len(targets))) if len(self.memory) else observation
        all_inputs, all_targets, all_loss_of = self.told(every)
        values, losses = start, []
        count = max(1, min(self.steps, len(targets)))
        for part in torch.arange(len(targets), device=targets.device).tensor_split(count):
            piece = Observation(**{name: value[part] for name, value in own.items()})
            values = self.adapt(self.told(piece), values, rates, self.first_order, steps=1)
            losses.append(all_loss_of(self.forward(values, all_inputs), all_targets))
        return torch.stack(losses).mean()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "memory": self.memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
        self.restart()
