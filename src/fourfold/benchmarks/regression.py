"""Workloads that predict numbers."""

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.regression import MeanAbsoluteError

from fourfold.benchmarks.interface import Benchmark, LossOf, SupervisedObjective
from fourfold.recipe import Recipe


def absolute_error(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """|outputs - targets|, averaged over all but the first dimension; [] or, for "none", [batch]."""
    each = F.l1_loss(outputs.float(), targets.float(), reduction="none").flatten(1 if targets.dim() > 1 else 0)
    each = each.mean(1) if each.dim() > 1 else each
    return each if reduction == "none" else each.mean()


class Regression(Benchmark):
    """Inputs to one number each, or one field each, by least absolute error."""

    metric_name = "absolute error"
    loss_of: LossOf = staticmethod(absolute_error)

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.objective = SupervisedObjective(self.loss_of)

    def metric(self) -> MeanAbsoluteError:
        return MeanAbsoluteError()


def squared_error(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """(outputs - targets)^2, averaged over all but the first dimension; [] or, for "none", [batch]."""
    each = F.mse_loss(outputs.float(), targets.float(), reduction="none").flatten(1).mean(1)
    return each if reduction == "none" else each.mean()


class FewShotRegression(Regression):
    """Numbers to numbers by least squares; the model is built for the shape of the data."""

    score_name = "squared_error"
    more_is_better = False
    loss_of: LossOf = staticmethod(squared_error)

    def call_builder(self, build: Callable[..., nn.Module], outputs: int, arguments: dict[str, Any]) -> nn.Module:
        assert self.sets is not None
        return build(shape=self.sets.shape, outputs=outputs, **arguments)

    def score(self, scores: Tensor, targets: Tensor) -> Tensor:
        return squared_error(scores, targets)
