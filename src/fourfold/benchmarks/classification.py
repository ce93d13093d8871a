"""Classification, whatever is classified."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fourfold.benchmarks.interface import Benchmark, SupervisedObjective
from fourfold.benchmarks.objectives import cross_entropy
from fourfold.recipe import Recipe


class Classification(Benchmark):
    """Inputs [batch, ...] to scores [batch, classes]; the model is built for the shape and the classes of the data."""

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.objective = SupervisedObjective(cross_entropy)

    def call_builder(self, build: Callable[..., nn.Module], outputs: int, arguments: dict[str, Any]) -> nn.Module:
        assert self.sets is not None
        return build(shape=self.sets.shape, outputs=outputs, **arguments)

    def metric(self) -> MulticlassAccuracy:
        return MulticlassAccuracy(num_classes=self.outputs, average="micro", validate_args=False)
