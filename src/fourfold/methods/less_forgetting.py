"""LFL: the features stay where they were, and so does the decision that is made from them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark, LossOf, Term
from fourfold.experience import Experience, Run
from fourfold.methods.distillation import Teacher
from fourfold.methods.features import caught_features, features, last_layer
from fourfold.methods.finetune import Finetune, masked
from fourfold.settings.stream import Observation, View


class LFL(Finetune):
    """Less-forgetting learning (Jung, Ju, Jung & Kim 2016).

    From the second context on, loss = l(new) + strength / 2 ||f(x) - f_old(x)||^2, f the input of the last layer and
    f_old that of the network as the last context ended; with ``freeze`` the last layer is learned in the first context
    only. The contexts must share their outputs.
    """

    def __init__(self, strength: float, freeze: bool) -> None:
        self.strength = strength
        self.freeze = freeze
        self.contexts_ended = 0

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.teacher = Teacher()

    def terms(self, observation: Observation) -> Iterator[Term]:
        if self.teacher.network is None or not self.strength:
            yield from super().terms(observation)
            return
        with torch.no_grad():
            before = features(self.teacher.network, observation.inputs)
        mask = self.mask(observation)
        with caught_features(self.network) as caught:
            for term in self.objective.terms(self.network, observation):
                loss_of = self._with_distance(masked(term.loss_of, mask), caught, before)
                yield Term(term.group, term.inputs, term.targets, loss_of)

    def _with_distance(self, loss_of: LossOf, caught: list[Tensor], before: Tensor) -> LossOf:
        def held_loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
            distances = self.strength / 2 * (caught[-1] - before).square().sum(1)
            return loss_of(outputs, targets, reduction=reduction) + (
                distances if reduction == "none" else distances.mean()
            )

        return held_loss

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        return super().observe(observation)  # its own forward pass, since the features of it are needed

    def end_context(self, experience: Experience) -> None:
        self.contexts_ended += 1
        self.teacher.take(self.network)
        self._freeze()

    def _freeze(self) -> None:
        if self.freeze and self.contexts_ended:
            last_layer(self.network).requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        own = {"teacher": self.teacher.state_dict(), "contexts_ended": self.contexts_ended}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.teacher.load_state_dict(state["teacher"], self.network)
        self.contexts_ended = state["contexts_ended"]
        self._freeze()
