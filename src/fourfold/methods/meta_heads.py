"""Many heads over one body that all of them teach: after iTAML, for contexts that nobody names."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Run
from fourfold.methods.continual_maml import Batch, detached
from fourfold.methods.fast_weights import FastWeights
from fourfold.methods.inner_loop import Values, head_of
from fourfold.settings.stream import Observation, View


class ManyHeads(FastWeights):
    """A last layer for each context that was recognised, over a body that moves towards what each of them makes of it.

    As in iTAML (Rajasegaran et al. 2020): the body and the head of a context take the inner steps together; the head
    keeps them, the body goes a part ``outer_rate`` of the way, phi <- phi + r (theta - phi). There tasks are labelled
    in training and exemplars tell them apart at test; here nobody names a context: it is the one whose head has the
    lowest loss on the batch just revealed. Where no head does better than chance, log(outputs), a new one begins as
    the common head; with ``heads`` of them taken, in the place of the one that was not used for longest.
    """

    def __init__(self, heads: int, outer_rate: float, **shared: Any) -> None:
        super().__init__(**shared)
        self.most, self.outer_rate = heads, outer_rate

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.head = head_of(self.network)
        self.chance = math.log(view.outputs)
        self.heads: list[Values] = []
        self.used: list[int] = []  # the step at which each was used last
        self.step = 0

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        batch = self.told(observation)
        inputs, targets, loss_of = batch
        with torch.no_grad():
            before = loss_of(self.outputs_again(prediction, inputs), targets)
        number = self.head_for(batch)
        start = {**detached(self.slow), **self.heads[number]}
        self.fast = detached(self.adapt(batch, start, detached(self.rates), first_order=True))
        self.heads[number] = {name: self.fast[name] for name in self.head}
        with torch.no_grad():
            for name, value in self.slow.items():
                value.lerp_(self.fast[name], self.outer_rate)
        return before.detach()

    def head_for(self, batch: Batch) -> int:
        """The head that knows the context of a batch best, or a new one."""
        self.step += 1
        losses = self.losses(batch)
        number = min(range(len(losses)), key=losses.__getitem__, default=-1)
        if number < 0 or losses[number] >= self.chance:
            fresh = {name: self.slow[name].detach().clone() for name in self.head}
            if len(self.heads) < self.most:
                self.heads.append(fresh)
                self.used.append(self.step)
                return len(self.heads) - 1
            number = min(range(self.most), key=self.used.__getitem__)
            self.heads[number] = fresh
        self.used[number] = self.step
        return number

    @torch.no_grad()
    def losses(self, batch: Batch) -> list[float]:
        """The loss on a batch of each head over the body as it is; the body computes its features once."""
        if not self.heads:
            return []
        inputs, targets, loss_of = batch
        seen: list[Tensor] = []
        layer: nn.Module = self.network.get_submodule(self.head[0].rpartition(".")[0])
        hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        self.forward(self.slow, inputs)
        hook.remove()
        scores = [F.linear(seen[0], *(head[name] for name in self.head)) for head in self.heads]
        return [float(loss_of(each, targets)) for each in scores]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "heads": self.heads, "used": self.used, "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.heads = [{name: value.to(self.device) for name, value in head.items()} for head in state["heads"]]
        self.used, self.step = list(state["used"]), int(state["step"])
