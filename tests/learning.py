"""Cells on a small bench: a method, a setting's stream and a run on `digits`, put together without a launcher."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from fourfold import compatibility, composition, experiment
from fourfold.benchmarks import interface as benchmarks
from fourfold.benchmarks.interface import Benchmark
from fourfold.cli.sources import hydra
from fourfold.composition import config_directory
from fourfold.experience import Experience, Run, Step
from fourfold.hardware.device import acquire
from fourfold.hardware.engine import Engine
from fourfold.keeper import FileKeeper
from fourfold.measure.until import Until
from fourfold.methods import interface as methods
from fourfold.methods.interface import Method
from fourfold.randomness import seed_of
from fourfold.recipe import Recipe
from fourfold.record import Record
from fourfold.rules import interface as rules
from fourfold.settings import stream as streams
from fourfold.settings.protocols import judged
from fourfold.settings.stream import Observation, Stream

SGD = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}
ADAM = {"name": "adam", "learning_rate": 0.001, "momentum": 0.0, "weight_decay": 0.0}
MLP = {"_target_": "fourfold.benchmarks.models.mlp", "hidden": [24, 16], "width": 1.0}
LINEAR = {**MLP, "hidden": []}
WIDE = {**MLP, "hidden": [100, 100]}
CONV4 = {"_target_": "fourfold.benchmarks.models.conv4", "channels": 8, "blocks": 2, "width": 1.0}
LENET = {
    "_target_": "fourfold.benchmarks.layered.lenet",
    "channels": [4, 6],
    "hidden": 12,
    "activation": "relu",
    "width": 1.0,
}
RESIDUAL = {
    "_target_": "fourfold.benchmarks.layered.residual_network",
    "channels": [4, 6],
    "depths": [1, 1],
    "activation": "relu",
    "normalisation": True,
    "width": 1.0,
}
SHAPES = {"mlp": MLP, "linear": LINEAR, "wide": WIDE, "conv4": CONV4, "lenet": LENET, "residual": RESIDUAL}


@cache
def member(path: str) -> dict[str, Any]:
    """The configuration of one member, as Hydra composes it, e.g. ``member("method/ewc")``."""
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        node = OmegaConf.to_container(compose(path), resolve=False)
    for part in path.split("/")[:-1]:
        node = node[part]  # type: ignore[index,call-overload]
    return node  # type: ignore[return-value]


def names(group: str) -> list[str]:
    """The members of a group of conf/, but for methods whose library is not here."""
    found = (path.stem for path in (config_directory() / group).glob("*.yaml") if not path.stem.startswith("_"))
    return sorted(name for name in found if group != "method" or name != "avalanche" or find_spec("avalanche"))


@cache
def catalogue() -> dict[str, dict[str, compatibility.Member]]:
    """The facts of all members: axis -> name -> member."""
    with hydra():
        return {axis: {one.name: one for one in members} for axis, members in composition.catalogue().items()}


def facts(path: str) -> compatibility.Member:
    """The facts of one member, e.g. ``facts("method/ewc")``."""
    axis, _, name = path.rpartition("/")
    return catalogue()[axis][name]


def applies(method: str, setting: str) -> bool:
    """Whether the method, with its own rule, can be used in the setting on `digits` and a CPU."""
    chosen = [facts(f"method/{method}"), facts(f"setting/{setting}"), facts("benchmark/digits"), facts("hardware/cpu")]
    rule = "backprop" if "gradients" in chosen[0].needs else "none"
    return not compatibility.unmet([*chosen, facts(f"method/rule/{rule}")])


def built_by(setting: str, target: str) -> bool:
    """Whether a setting's own file, or the part that it begins with, names this builder."""
    folder = config_directory() / "setting"
    text = (folder / f"{setting}.yaml").read_text()
    return target in text or ("_supervised" in text and target in (folder / "_supervised.yaml").read_text())


@cache
def digits(samples: int = 300, model: str = "mlp", optimizer: str = "adam", batch: int = 16) -> Benchmark:
    """`digits` with few samples and a small network."""
    node = member("benchmark/digits")
    recipe = Recipe(
        scale="smoke",
        size=None,
        batch=batch,
        precision="fp32",
        precision_asked="fp32",
        evaluation=None,
        until={},
        optimizer={"adam": ADAM, "sgd": SGD}[optimizer],
        model=SHAPES[model],
        data={"_target_": "fourfold.data.packaged.digits", "samples": samples},
    )
    cell = {"benchmark": node, "data_dir": "data", "seed": 0, "evaluate_on": "test"}
    return benchmarks.build(cell, recipe)


@lru_cache(maxsize=1)
def engine() -> Engine:
    return Engine(acquire(member("hardware/cpu")), "fp32", "auto")


def make_stream(setting: str, benchmark: Benchmark | None = None, seed: int = 0, **values: Any) -> Stream:
    """The stream of a setting with some of its values changed."""
    return streams.build({**member(f"setting/{setting}"), **values}, benchmark or digits(), seed)


class Killed(BaseException):
    """Stands for the end of a process between two steps, of which it hears nothing."""


class Bench:
    """A method set up in a setting, with a run of its own. ``values`` are values of the method's own keys."""

    def __init__(
        self,
        method: str,
        setting: str,
        seed: int = 0,
        benchmark: Benchmark | None = None,
        setting_values: Mapping[str, Any] | None = None,
        steps: int = 25,
        **values: Any,
    ) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed_of(seed, "global"))  # as an experiment does
        self.benchmark = benchmark or digits()
        node = {**member(f"method/{method}"), **values}
        own = {**member(f"setting/{setting}"), **(setting_values or {})}
        self.stream = streams.build(own, self.benchmark, seed, node)
        until = Until({"rule": "steps", "steps": steps, "seconds": None}, 600)
        self.run = Run(seed, self.benchmark, engine(), self.benchmark.recipe, until, False, bool(node["oracle"]))
        self.told = "boundaries_train" in self.stream.grants
        self.method: Method = methods.build(node)
        self.method.setup(
            self.benchmark, self.stream.view(engine().device), self.run, rules.build(node["rule"], engine())
        )

    def experience(self, phase: int) -> Experience:
        return Experience(self.stream, self.stream.phases[phase], self.run)

    def observations(self, phase: int) -> Iterator[Observation]:
        """What the method is shown in a phase, batch by batch."""
        for step in self.experience(phase)._steps():
            yield step.reveal()

    def begin(self, phase: int) -> None:
        if self.told:
            self.method.begin_context(phase)

    def end(self, phase: int) -> None:
        if self.told:
            self.method.end_context(self.experience(phase))

    def learn(self, phase: int, steps: int = 5) -> None:
        """A phase from its beginning to its end, of a few steps."""
        self.begin(phase)
        for _, observation in zip(range(steps), self.observations(phase), strict=False):
            self.method.observe(observation)
        self.end(phase)

    def learn_all(self) -> None:
        """The whole stream, as an experiment does it."""
        for phase in self.stream.phases:
            self.begin(phase.index)
            self.method.learn(self.experience(phase.index), self.run)
            self.end(phase.index)

    def live(self, folder: Path, every: int = 4, killed_at: int | None = None) -> Record:
        """The whole cell as an experiment does it, a checkpoint every few steps, from the newest one in ``folder``.

        killed_at: raises Killed once so many of its own steps are done.
        """
        cell = {
            "mode": "measured",
            "method": {"name": type(self.method).__name__},
            "checkpoint": {"seconds": None, "steps": every},
        }
        found = Record("bench", {}, cell, [])
        if experiment.not_kept(cell, self.run, self.method) is None:
            self.run.keeper = FileKeeper(folder, cell, self.method, self.run, found)
            assert self.run.keeper.resume()
        tick, done = self.run.tick, itertools.count(1)

        def counting(step: Step, loss: Tensor | None) -> None:
            tick(step, loss)
            if next(done) == killed_at:
                raise Killed

        self.run.tick = counting  # type: ignore[method-assign]
        with self.run.keeper:
            experiment.learn_and_judge(self.method, self.stream, self.run, found)
        return found

    def scores(self, context: int = 0) -> Tensor:
        """Predictions for the test samples of a context, as a protocol asks for them."""
        assert self.stream.contexts[context].test is not None
        indices = self.stream.contexts[context].test
        told = {}
        if "task_labels_test" in self.stream.grants:
            told = {"task": torch.full((len(indices),), context)}
        self.method.mode(training=False)
        with torch.no_grad():
            observation = Observation(self.stream.test.batch(indices).inputs, **told)
            scores = judged(self.method.predict(observation), self.method.mask(observation))
        self.method.mode(training=True)
        return scores

    def parameters(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.method.network.named_parameters()}  # type: ignore[attr-defined]


def untimed(series: Mapping[str, Any]) -> dict[str, Any]:
    """The series of a cell without those of times and of the machine."""
    return {name: values for name, values in series.items() if not _timed(name)}


def _timed(name: str) -> bool:
    return name.endswith(("_seconds", "step_ended")) or name.startswith("monitor.")


def same(one: Any, other: Any) -> bool:
    """Whether two nests of dictionaries, lists, tensors and plain values are equal, bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def killed_and_resumed(made: Callable[[], Bench], folder: Path, every: int, killed_at: int) -> tuple[Bench, Bench]:
    """(a cell that was left alone, one that was killed after so many steps and went on), both at their ends."""
    whole = made()
    whole.live(folder / "whole", every=every)
    with pytest.raises(Killed):
        made().live(folder / "parts", every=every, killed_at=killed_at)
    resumed = made()
    resumed.live(folder / "parts", every=every)
    return whole, resumed
