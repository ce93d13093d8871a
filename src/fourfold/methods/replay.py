"""Experience replay (Rolnick et al. 2019), with a reservoir (Vitter 1985)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark, LossOf, Term
from fourfold.experience import Run
from fourfold.methods.buffers import Reservoir
from fourfold.methods.finetune import Finetune, masked
from fourfold.settings.stream import Observation, View


class Replay(Finetune):
    """Each step learns from the batch that came and from as many remembered samples.

    loss = w l(new) + v l(remembered); ``sum``: w = v = 1; ``balanced``: w = 1/t, v = 1 - 1/t in context t where
    boundaries are told (van de Ven, Tuytelaars & Tolias 2022), else one half each.
    """

    def __init__(self, memory: int, weighting: str) -> None:
        self.memory_size = memory
        self.weighting = weighting
        self.contexts_begun = 0

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.memory = Reservoir(self.memory_size, run.generator("reservoir"))

    def begin_context(self, number: int) -> None:
        self.contexts_begun += 1

    def terms(self, observation: Observation) -> Any:
        kept = {"inputs": observation.inputs, "targets": observation.targets}
        if self.task_outputs is not None:
            kept["task"] = observation.task
        new, old = self.weights()
        if len(self.memory) and old:
            past = self.memory.draw(len(observation.targets))
            together = {name: torch.cat([values, past[name]]) for name, values in kept.items()}
            weights = torch.cat(
                [
                    torch.full((len(observation.targets),), new / len(observation.targets), device=self.device),
                    torch.full((len(past["targets"]),), old / len(past["targets"]), device=self.device),
                ]
            )
            both = Observation(**together)
            mask = self.mask(both)
            for term in self.objective.terms(self.network, both):
                yield Term(term.group, term.inputs, term.targets, weighted(masked(term.loss_of, mask), weights))
        else:
            yield from super().terms(observation)
        self.memory.add(**kept)

    def weights(self) -> tuple[float, float]:
        """The weights of the losses on what is new and on what is remembered."""
        if self.weighting == "sum":
            return 1.0, 1.0
        if "boundaries_train" not in self.view.grants:
            return 0.5, 0.5
        contexts = max(1, self.contexts_begun)
        return 1 / contexts, 1 - 1 / contexts

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "memory": self.memory.state_dict(), "contexts_begun": self.contexts_begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
        self.contexts_begun = state["contexts_begun"]


def weighted(loss_of: LossOf, weights: Tensor) -> LossOf:
    """The sum of the samples' losses times their weights [batch]."""

    def weighted_loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        losses = loss_of(outputs, targets, reduction="none") * weights
        return losses if reduction == "none" else losses.sum()

    return weighted_loss
