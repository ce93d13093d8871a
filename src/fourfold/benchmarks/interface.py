"""What a benchmark is: data to draw from, a network to build, an objective that says what is wanted of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fourfold.benchmarks import published
from fourfold.data.tensors import Batch, Sets, normalised, with_validation
from fourfold.errors import Refused, Unavailable
from fourfold.hardware.sharding import recomputing
from fourfold.members import parameters, target
from fourfold.randomness import seed_of
from fourfold.recipe import Recipe

VALIDATION_SHARE = 0.1  # of the training samples, where evaluate_on=validation

LossOf = Callable[..., Tensor]  # (outputs, targets, reduction="mean" | "none") -> [] or [batch]


@dataclass(frozen=True)
class Term:
    """One loss to be minimised by one group of parameters: ``loss_of(network(inputs), targets)``.

    group: the parameters that it trains, "all" or a name that ``Objective.groups`` knows.
    """

    group: str
    inputs: Any
    targets: Any
    loss_of: LossOf


class Objective(Protocol):
    """What is wanted of a network. A step takes each term in turn, so a later term may see an earlier one's update."""

    def terms(self, network: nn.Module, batch: Any) -> Iterator[Term]: ...

    def groups(self, network: nn.Module) -> Mapping[str, list[nn.Parameter]]: ...

    def after_update(self, network: nn.Module) -> None: ...


class SupervisedObjective:
    """One loss between the outputs for the inputs and the targets."""

    def __init__(self, loss_of: LossOf) -> None:
        self.loss_of = loss_of

    def terms(self, network: nn.Module, batch: Any) -> Iterator[Term]:
        yield Term("all", batch.inputs, batch.targets, self.loss_of)

    def groups(self, network: nn.Module) -> Mapping[str, list[nn.Parameter]]:
        return {"all": list(network.parameters())}

    def after_update(self, network: nn.Module) -> None:
        """Nothing here; objectives with an averaged teacher update it."""


class Benchmark:
    """A workload at one scale. ``outputs`` is the number of scores that a prediction has in its last dimension."""

    objective: Objective
    metric_name = "accuracy"
    score_name = "accuracy"  # of ``score``
    more_is_better = True  # of ``score``

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        self.name: str = node["name"]
        self.unit: str = node["unit"]
        self.facts = frozenset(node["offers"])
        self.recipe = recipe
        self.seed = seed
        self.data_dir = data_dir
        self.augment = _augmentation(node.get("augmentation"))
        self.sets: Sets | None = self._load(data_dir)

    @property
    def outputs(self) -> int:
        """Scores in the last dimension of a prediction."""
        assert self.sets is not None
        return self.sets.classes

    def _load(self, data_dir: str) -> Sets | None:
        arguments = dict(self.recipe.data)
        if not arguments.get("_target_"):
            return None
        load = target(arguments)
        arguments.pop("_target_")
        statistics = arguments.pop("normalise", None)
        sets: Sets = load(data_dir=data_dir, seed=self.seed, **arguments)
        return sets if statistics is None else normalised(sets, statistics)

    def network(self, seed: int, device: str | torch.device = "cpu", outputs: int | None = None) -> nn.Module:
        """A freshly initialised network on a device; "meta" builds it without memory.

        ``outputs`` is the number of scores, where a setting needs another than the benchmark's own.

        The initial values depend on the seed alone: they are drawn on the CPU, whatever the device.
        """
        build_on = "meta" if str(device) == "meta" else "cpu"
        with torch.random.fork_rng(devices=[]), torch.device(build_on):
            torch.manual_seed(seed_of(seed, "network"))
            network = self.build_network(self.outputs if outputs is None else outputs)
        if self.recipe.recompute:
            network = recomputing(network)
        if self.recipe.weights != "seeded" and build_on == "cpu":
            published.load(network, self.recipe.weights, self.data_dir)
        return network if build_on == "meta" else network.to(device)

    def build_network(self, outputs: int) -> nn.Module:
        """The model that the configuration names, on torch's current default device."""
        arguments = dict(self.recipe.model)
        build = target(arguments)
        arguments.pop("_target_")
        return self.call_builder(build, outputs, arguments)

    def call_builder(self, build: Callable[..., nn.Module], outputs: int, arguments: dict[str, Any]) -> nn.Module:
        """Calls a model's builder; families that give it more than its own values override this."""
        return build(**arguments)

    def units(self, batch: Batch) -> float:
        """Units of work in a batch."""
        return float(len(batch.targets))

    def generated_units(self, prompts: Tensor, written: Tensor) -> float:
        """Units of work in what was written after the prompts; ``written`` [batch, length] begins with them."""
        raise NotImplementedError

    def examination(self, batch: Batch) -> Batch:
        """The questions and answers that a batch of held-out data makes; the batch itself unless overridden."""
        return batch

    def score(self, scores: Tensor, targets: Tensor) -> Tensor:
        """One number [] for a batch's prediction: the share of right ones, over tokens where targets are tokens."""
        return (scores.argmax(-1) == targets).float().mean()

    def metric(self) -> Any:
        """A fresh torchmetrics metric of (scores, targets), recorded as ``metric_name``."""
        raise NotImplementedError


def _augmentation(node: Mapping[str, Any] | None) -> Callable[[Any, torch.Generator], Any] | None:
    """(inputs, stream) -> inputs as a method is to see them in training; None for as they are."""
    if not node or not node["_target_"]:
        return None
    return partial(target(node), **parameters(node, "benchmark.augmentation"))


def build(cell: Mapping[str, Any], recipe: Recipe) -> Benchmark:
    """The benchmark of a cell. Raises Unavailable if its data or a library is absent."""
    node = cell["benchmark"]
    made = target(node)(node, recipe, cell["data_dir"], cell["seed"])
    if not isinstance(made, Benchmark):
        raise Unavailable(f"benchmark {node['name']}: {node['_target_']} is not a Benchmark")
    if made.augment is not None and made.sets is None:
        raise Refused(f"benchmark/augmentation: benchmark {node['name']} has no samples to change; choose none")
    if cell["evaluate_on"] == "validation":
        if made.sets is None:
            raise Refused(f"evaluate_on=validation: benchmark {node['name']} has no data to hold out; choose test")
        made.sets = with_validation(made.sets, VALIDATION_SHARE, cell["seed"])
    return made
