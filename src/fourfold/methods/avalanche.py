"""Avalanche's strategies as methods (Lomonaco et al. 2021; Carta et al. 2023), with Fourfold's streams and judging."""

import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark
from fourfold.benchmarks.libraries import library
from fourfold.errors import Refused, Unavailable, nearest
from fourfold.experience import Experience, Run, Step
from fourfold.hardware.engine import make_optimizer
from fourfold.methods.interface import Method
from fourfold.randomness import seed_of
from fourfold.settings.stream import Observation, View

GATHERED = 1000  # samples of a context that are gathered at a time
WITHOUT_END = 10**9  # epochs: how long it learns is the cell's affair


class AvalancheStrategy(Method):
    """A supervised strategy of Avalanche, by its name there, in its own training loop.

    It is handed a context's samples as an experience of tensors in memory, with their task labels where the setting
    grants them in training and at test; then the scores of other tasks are taken out. How long it learns, on which
    network and with which optimizer, is the cell's. ``strategies`` gives each strategy its arguments beside these.

    Its state is not plain data (data sets, running iterators, copies of networks, in fields of each plugin's own), so
    that there are no checkpoints: a cell that is interrupted starts anew, which its record says (``checkpoints``).
    """

    def __init__(self, strategy: str, strategies: Mapping[str, Mapping[str, Any]]) -> None:
        if strategy not in strategies:
            choices = f"choose one of {', '.join(strategies)}{nearest(strategy, list(strategies))}"
            another = f"for another one +method.strategies.{strategy}={{...}} gives its arguments"
            raise Refused(f"method.strategy={strategy}: {choices}; {another}")
        self.name, self.arguments = strategy, dict(strategies[strategy] or {})
        self.classes: list[list[int]] = []  # of each context learned

    def require(self) -> None:
        _library("training.supervised")

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        _seed(run.seed, "setup")
        self.task_outputs = view.task_outputs
        network = benchmark.network(run.seed, run.engine.device, outputs=view.outputs)
        self.network = network if self.task_outputs is None else _multi_task(network, self.task_outputs)
        self.pace = _pace()
        supervised = _library("training.supervised")
        if not hasattr(supervised, self.name):
            raise Refused(f"method.strategy={self.name}: Avalanche has no supervised strategy of that name")
        common = {
            "model": self.network,
            "optimizer": make_optimizer(self.network.parameters(), run.recipe.optimizer),
            "criterion": nn.CrossEntropyLoss(),
            "train_mb_size": run.recipe.batch,
            "train_epochs": WITHOUT_END,
            "device": run.engine.device,
            "plugins": [self.pace],
        }
        with warnings.catch_warnings(record=True):  # that it has nobody to tell its metrics
            try:
                self.strategy = getattr(supervised, self.name)(**common, evaluator=None, **self.arguments)
            except TypeError as error:
                raise Refused(f"method.strategies.{self.name}={self.arguments}: {error}") from error

    def learn(self, experience: Experience, run: Run) -> None:
        inputs, targets = _gathered(experience)
        _seed(run.seed, experience.number)
        self.classes.append(targets.unique().tolist())
        if self.pace.begin(iter(experience), run):
            with warnings.catch_warnings(record=True):  # its own calls of what it has deprecated
                self.strategy.train(self._experience(inputs, targets), eval_streams=[], num_workers=0)

    def _experience(self, inputs: Tensor, targets: Tensor) -> Any:
        """The context as Avalanche knows one: its number and classes are those of a stream whose earlier experiences
        hold a blank sample of each class that was there."""
        blank = [(inputs.new_zeros(len(own), *inputs.shape[1:]), torch.tensor(own)) for own in self.classes[:-1]]
        number = len(blank)
        made = _library("benchmarks").tensors_benchmark(
            train_tensors=[*blank, (inputs, targets)],
            test_tensors=[(inputs[:1], targets[:1])],
            task_labels=list(range(number + 1)) if self.task_outputs is not None else [0] * (number + 1),
        )
        return made.train_stream[number]

    def predict(self, observation: Observation) -> Tensor:
        if self.task_outputs is None:
            return self.network(observation.inputs)
        return self.network(observation.inputs, observation.task)

    def sample_bytes(self) -> None:
        """What a strategy keeps is in fields of its plugins' own."""

    def mode(self, training: bool) -> None:
        self.network.train(training)


def _gathered(experience: Experience) -> tuple[Tensor, Tensor]:
    """All inputs and targets of an experience, on the CPU, whose processes make the batches."""
    parts = list(experience.sample(experience.samples, "avalanche", GATHERED))
    return torch.cat([part.inputs.cpu() for part in parts]), torch.cat([part.targets.cpu() for part in parts])


def _library(part: str) -> Any:
    try:
        return library(f"avalanche.{part}", "avalanche")
    except RuntimeError as error:  # torchvision's, where it was built for another torch
        why = next(iter(str(error).splitlines()), "")
        raise Unavailable(f"avalanche cannot be imported: {why}; torch is {torch.__version__}") from error


def _seed(seed: int, *names: str | int) -> None:
    """Avalanche draws from generators that the process shares."""
    number = seed_of(seed, "avalanche", *names)
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


def _multi_task(network: nn.Module, task_outputs: Tensor) -> Any:
    """The network as Avalanche asks one with task labels: outputs of other tasks cannot be right."""
    dynamic = _library("models.dynamic_modules")

    class MultiTask(dynamic.MultiTaskModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, inputs: Tensor, *task_labels: Tensor | int | None) -> Any:
            if not task_labels:  # a strategy that does not know of tasks: the scores of all
                return self.network(inputs)
            if task_labels[0] is None:  # those of each task apart
                return super().forward(inputs, None)
            return self.forward_single_task(inputs, task_labels[0])

        def forward_single_task(self, inputs: Tensor, task_label: Tensor | int) -> Tensor:
            return self.network(inputs).masked_fill(~task_outputs[task_label], -1e9)

    return MultiTask()


def _pace() -> Any:
    """A plugin that ticks each iteration as a step of the experience, and ends the training with it."""
    core = _library("core")

    class Pace(core.SupervisedPlugin):  # type: ignore[name-defined]
        def begin(self, steps: Iterator[Step], run: Run) -> bool:
            """Whether there is a step to be done."""
            self.steps, self.run = steps, run
            self.step = next(steps, None)
            return self.step is not None

        def after_training_iteration(self, strategy: Any, *_: Any, **__: Any) -> None:
            if self.step is None:
                return
            self.run.tick(self.step, strategy.loss.detach())
            self.step = next(self.steps, None)
            if self.step is None:
                strategy.stop_training()

    return Pace()
