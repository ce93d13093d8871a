"""Methods with a network for each task: separate networks and progressive networks."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark, Term
from fourfold.errors import Refused
from fourfold.experience import Run
from fourfold.methods.finetune import Finetune
from fourfold.methods.gates import WEIGHTED, leaves, weighted_layers
from fourfold.randomness import seed_of
from fourfold.settings.stream import Observation, View


class Columns(nn.Module):
    """One network a task. ``task`` [batch], set before a call, says which one a sample goes through."""

    def __init__(self, columns: list[nn.Module]) -> None:
        super().__init__()
        self.columns = nn.ModuleList(columns)
        self.task: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        assert self.task is not None
        scores: Tensor | None = None
        present = self.task.unique().tolist()
        for number in present:
            if len(present) == 1:
                return self.through(number, inputs)
            rows = self.task == number
            found = self.through(number, inputs[rows])
            scores = found.new_zeros(len(rows), *found.shape[1:]) if scores is None else scores
            scores = scores.index_put((rows.nonzero().flatten(),), found)
        assert scores is not None
        return scores

    def through(self, number: int, inputs: Tensor) -> Tensor:
        """The outputs of one task's network."""
        return self.columns[number](inputs)


class Progressive(Columns):
    """Columns of plain sequences, each with adapters from the layers of all earlier ones, which it does not change.

    h_l^k = f(W_l^k h_{l-1}^k + sum_{j<k} U_l^{kj} h_{l-1}^j), from the second layer with weights on.
    """

    def __init__(self, columns: list[nn.Module]) -> None:
        super().__init__(columns)
        self.adapters = nn.ModuleDict()  # "to, layer, from"
        for number, column in enumerate(columns):
            for depth, layer in enumerate(weighted_layers(column)):
                for other in range(number if depth else 0):
                    self.adapters[f"{number}_{depth}_{other}"] = _adapter(layer)
        if len(columns) > 1 and not self.adapters:
            raise Refused(
                "this method adapts hidden layers, and the network has none; choose a model with a hidden layer"
            )

    def through(self, number: int, inputs: Tensor) -> Tensor:
        self.columns[number].train(self.training)
        with torch.no_grad():
            earlier: list[list[Tensor]] = []
            for other in range(number):
                self.columns[other].eval()  # what it normalises by stays as it was learned
                earlier.append(self._column(other, inputs, earlier)[1])
        return self._column(number, inputs, earlier)[0]

    def _column(self, number: int, inputs: Tensor, earlier: list[list[Tensor]]) -> tuple[Tensor, list[Tensor]]:
        """A column's outputs, and the inputs of each of its layers with weights."""
        values = inputs
        below: list[Tensor] = []
        for layer in leaves(self.columns[number]):
            if not isinstance(layer, WEIGHTED):
                values = layer(values)
                continue
            depth = len(below)
            below.append(values)
            values = layer(values)
            if depth:
                for other, given in enumerate(earlier):
                    values = values + self.adapters[f"{number}_{depth}_{other}"](given[depth])
        return values, below


def _adapter(layer: Any) -> nn.Module:
    """A layer without bias from the same kind of input to the same units; of size 1 where it slides."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features, bias=False)
    kind, window = type(layer), (layer.kernel_size, layer.stride, layer.padding)
    return kind(layer.in_channels, layer.out_channels, *window, bias=False)


class SeparateNetworks(Finetune):
    """A network of its own for each task: nothing is forgotten, nothing is shared. A bound: it is told the tasks."""

    container: type[Columns] = Columns

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        assert view.tasks is not None
        self.begun = torch.zeros(view.tasks, dtype=torch.bool, device=self.device)

    def build_network(self, benchmark: Benchmark, view: View, device: torch.device) -> nn.Module:
        assert view.tasks is not None
        seeds = [seed_of(self.run.seed, "column", number) >> 1 for number in range(view.tasks)]
        columns = [benchmark.network(seed, device, outputs=view.outputs) for seed in seeds]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.run.seed, "adapters"))
            return self.container(columns).to(device)

    def terms(self, observation: Observation) -> Iterator[Term]:
        self.network.task = observation.task
        self.begun[observation.task] = True
        yield from super().terms(observation)

    def is_idle(self, name: str) -> bool:
        kind, number = name.split(".")[:2]  # "columns.2.…" or "adapters.2_1_0.…"
        return kind in ("columns", "adapters") and not bool(self.begun[int(number.split("_")[0])])

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "begun": self.begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.begun.copy_(state["begun"])

    def predict(self, observation: Observation) -> Tensor:
        self.network.task = observation.task
        return super().predict(observation)


class PNN(SeparateNetworks):
    """Progressive neural networks (Rusu et al. 2016): a new column for each task, with adapters from all earlier ones.

    Earlier columns are never trained again. All columns are there from the start, and count as held from their task
    on; the adapters are linear.
    """

    container = Progressive
