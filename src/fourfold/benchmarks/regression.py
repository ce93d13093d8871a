"""Workloads that predict numbers."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
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
