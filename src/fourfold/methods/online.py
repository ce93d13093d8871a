"""Plain online training with a step size of its own, from scratch or from meta-trained weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Run
from fourfold.methods.fast_weights import FastWeights
from fourfold.methods.finetune import Finetune
from fourfold.settings.stream import Observation, View


class Online(Finetune):
    """One step of ``update`` (sgd or adam) of size ``rate`` a batch, whatever the benchmark trains with."""

    def __init__(self, update: str, rate: float) -> None:
        self.own = {"name": update, "learning_rate": rate, "momentum": 0.0, "weight_decay": 0.0}

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        groups = self.objective.groups(self.network)
        self.optimizers = {name: run.engine.optimizer(own, self.own) for name, own in groups.items()}


class FineTuning(FastWeights):
    """MAML before the stream, in the stream one step of the recipe's optimizer on the whole network for each batch."""

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        return Finetune.observe(self, observation, prediction)

    def predict(self, observation: Observation) -> Tensor:
        return Finetune.predict(self, observation)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **Finetune.state_dict(self)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        Finetune.load_state_dict(self, state)
