"""Recommendation: DLRM, which predicts clicks from numbers and from categories with large tables."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import BinaryAUROC

from fourfold.benchmarks.interface import Benchmark, SupervisedObjective
from fourfold.errors import Refused
from fourfold.recipe import Recipe


class ClickPrediction(Benchmark):
    """Impressions to the score of a click, [batch]. Units are impressions.

    Raises Refused for an optimizer that does not take sparse gradients.
    """

    metric_name = "auroc"

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        if recipe.optimizer["name"] != "sgd":
            raise Refused(
                f"optimizer={recipe.optimizer['name']}: the gradients of dlrm's tables are sparse, which only "
                "optimizer=sgd takes"
            )
        self.objective = SupervisedObjective(click_loss)

    @property
    def outputs(self) -> int:
        return 1

    def metric(self) -> BinaryAUROC:
        return BinaryAUROC(thresholds=None)


def click_loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """-log p(click) or -log (1 - p(click)) for scores [batch] and targets [batch] of 0 and 1; [] or [batch]."""
    return F.binary_cross_entropy_with_logits(outputs.float(), targets.float(), reduction=reduction)


class DLRM(nn.Module):
    """Deep learning recommendation model (Naumov et al. 2019).

    Numbers go through the bottom layers, each category's members are summed from its table, all pairs of the results
    are multiplied, and the top layers make a score of the products and the bottom's result. The gradients of tables
    are sparse, as in the paper's code: only sgd without momentum and weight decay takes them.
    """

    def __init__(
        self, dense: int, tables: int, rows: int, width: int, bottom: Sequence[int], top: Sequence[int]
    ) -> None:
        super().__init__()
        self.bottom = layers([dense, *bottom, width], last=nn.ReLU())
        self.tables = nn.ModuleList(nn.EmbeddingBag(rows, width, mode="sum", sparse=True) for _ in range(tables))
        for table in self.tables:
            nn.init.uniform_(table.weight, -(rows**-0.5), rows**-0.5)  # type: ignore[arg-type]
        pairs = (tables + 1) * tables // 2
        self.top = layers([width + pairs, *top, 1])

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """ "dense" [batch, numbers] and "sparse" [batch, tables, members] to scores [batch]."""
        known = self.bottom(inputs["dense"])
        found = [table(members) for table, members in zip(self.tables, inputs["sparse"].unbind(1), strict=True)]
        return self.top(torch.cat([known, interactions(torch.stack([known, *found], 1))], dim=1)).squeeze(1)


def interactions(vectors: Tensor) -> Tensor:
    """The products of all pairs of different vectors [batch, n, width]: [batch, n (n - 1) / 2]."""
    products = vectors @ vectors.transpose(1, 2)
    below = torch.tril_indices(vectors.shape[1], vectors.shape[1], offset=-1, device=vectors.device)
    return products[:, below[0], below[1]]


def layers(sizes: Sequence[int], last: nn.Module | None = None) -> nn.Sequential:
    """Linear layers with ReLU between them, and ``last`` after the last; weights as wide as Glorot's (2010)."""
    parts: list[nn.Module] = []
    for into, out in pairwise(sizes):
        linear = nn.Linear(into, out)
        nn.init.xavier_normal_(linear.weight)
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1], *([] if last is None else [last]))


def dlrm(dense: int, tables: int, rows: int, width: int, bottom: list[int], top: list[int]) -> nn.Module:
    """DLRM with ``bottom`` and ``top`` hidden layers."""
    return DLRM(dense, tables, rows, width, bottom, top)
