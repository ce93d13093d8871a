"""Self-supervised tasks beside the labels: what the inputs teach about themselves."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark, LossOf, Term
from fourfold.errors import Refused
from fourfold.experience import Run
from fourfold.methods.features import caught_features, last_layer
from fourfold.methods.finetune import Finetune, masked
from fourfold.randomness import seed_of
from fourfold.settings.stream import Observation, View


class SelfSupervised(Finetune):
    """Training with auxiliary tasks on the features, the idea of Sequoia's base method (Normandin et al. 2021).

    loss = l(x, y) + rotation l4(r(f(turn_k x)), k) + reconstruction mean (d(f(x)) - x)^2: l4 the cross entropy over
    four quarter turns k drawn anew (Gidaris, Singh & Komodakis 2018), f the input of the last layer, r and d one
    linear layer each, trained along. A weight of 0 leaves its task out.
    """

    def __init__(self, rotation: float, reconstruction: float) -> None:
        self.rotation = rotation
        self.reconstruction = reconstruction

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        shape = None if benchmark.sets is None else benchmark.sets.shape
        if not isinstance(shape, tuple):
            raise Refused(f"method: {benchmark.name} has no inputs of one shape; choose another benchmark")
        if self.rotation and (len(shape) != 3 or shape[1] != shape[2]):
            raise Refused(f"method.rotation={self.rotation}: {benchmark.name} has no square pictures; choose 0")
        width = last_layer(self.network).in_features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(run.seed, "heads"))
            heads = nn.ModuleDict({"turns": nn.Linear(width, 4), "pixels": nn.Linear(width, math.prod(shape))})
        self.heads = heads.to(self.device)
        self.heads_optimizer = run.engine.optimizer(list(self.heads.parameters()), run.recipe.optimizer)
        self.turns = run.generator("turns")

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        return super().observe(observation)  # its own forward pass, since the features of it are needed

    def terms(self, observation: Observation) -> Iterator[Term]:
        if not self.rotation and not self.reconstruction:
            yield from super().terms(observation)
            return
        inputs, turns = observation.inputs, None
        if self.rotation:
            turns = torch.randint(4, (len(inputs),), generator=self.turns).to(self.device)
            inputs = torch.cat([inputs, turned(inputs, turns)])
        mask = self.mask(observation)
        with caught_features(self.network) as caught:
            for term in self.objective.terms(self.network, observation):
                loss_of = self._with_tasks(masked(term.loss_of, mask), caught, observation.inputs, turns)
                yield Term(term.group, inputs, term.targets, loss_of)

    def _with_tasks(self, loss_of: LossOf, caught: list[Tensor], inputs: Tensor, turns: Tensor | None) -> LossOf:
        count = len(inputs)

        def whole_loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
            losses = loss_of(outputs[:count], targets, reduction="none")
            if turns is not None:
                guessed = self.heads["turns"](caught[-1][count:])
                losses = losses + self.rotation * F.cross_entropy(guessed, turns, reduction="none")
            if self.reconstruction:
                drawn = self.heads["pixels"](caught[-1][:count])
                losses = losses + self.reconstruction * (drawn - inputs.flatten(1)).square().mean(1)
            return losses if reduction == "none" else losses.mean()

        return whole_loss

    def after_gradients(self) -> None:
        self.heads_optimizer.step()
        self.heads_optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "heads": self.heads.state_dict(),
            "heads_optimizer": self.heads_optimizer.state_dict(),
            "turns": self.turns.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.heads.load_state_dict(state["heads"])
        self.heads_optimizer.load_state_dict(state["heads_optimizer"])
        self.turns.set_state(state["turns"])


def turned(pictures: Tensor, turns: Tensor) -> Tensor:
    """Pictures [n, channels, side, side], each turned by as many quarters as ``turns`` [n] says."""
    every = torch.stack([pictures.rot90(quarters, (2, 3)) for quarters in range(4)])
    return every[turns, torch.arange(len(pictures), device=pictures.device)]
