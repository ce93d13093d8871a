"""One step of a cell in the steady state, traced at full size: what is computed, moved and held."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fourfold import tracing
from fourfold.benchmarks.interface import Benchmark
from fourfold.benchmarks.models import parameter_count
from fourfold.errors import FourfoldError, Unavailable
from fourfold.hardware.engine import held_in, make_optimizer
from fourfold.measure.flops import Operator, OperatorTrace
from fourfold.methods import interface as methods
from fourfold.projection.autocast import MetaAutocast
from fourfold.projection.memory import LiveBytes
from fourfold.recipe import Recipe
from fourfold.rules import interface as rules
from fourfold.settings.stream import Stream

MOST_WITH_VALUES = 20_000_000  # parameters of a network whose step is taken on the CPU where it must be
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}


@dataclass(frozen=True)
class Facts:
    """One step on one device. Sizes are bytes.

    unit: its word; units: of work; parameters: how many numbers; gradients: of those that are learned; static: held
    between steps (weights, gradients, optimizer states, data); peak: the most that is held within a step.
    """

    operators: tuple[Operator, ...]
    unit: str
    units: float
    samples: int
    parameters: int
    gradients: int
    static: int
    peak: int


class AcceleratorLike(tracing.NoEngine):
    """An engine with an accelerator's mixed precision and its way of updating, on the meta device or the CPU."""

    def __init__(self, device: str, precision: str, weights: str) -> None:
        super().__init__(device, precision)
        self.weights = weights
        self.networks: list[nn.Module] = []

    def autocast(self) -> AbstractContextManager[Any]:
        return MetaAutocast(AUTOCAST.get(self.precision))

    def network(self, build: Any) -> nn.Module:
        network = held_in(super().network(build), self.weights)
        self.networks.append(network)
        return network

    def parameters(self) -> int:
        """How many, of all its networks."""
        return sum(parameter_count(network) for network in self.networks)

    def gradient_bytes(self) -> int:
        """Of the parameters that are learned."""
        learned = [each for network in self.networks for each in network.parameters() if each.requires_grad]
        return sum(each.numel() * each.element_size() for each in learned)

    def optimizer(self, parameters: Iterable[nn.Parameter], recipe: Mapping[str, Any]) -> Any:
        """All parameters at once, which is torch's choice on an accelerator but not on the meta device."""
        made = make_optimizer(parameters, recipe)
        for group in made.param_groups:
            group["foreach"], group["fused"] = True, False
        return made


def trace(cell: Mapping[str, Any], recipe: Recipe, benchmark: Benchmark, stream: Stream) -> Facts:
    """The second step of the cell's method: the first one makes the optimizer's states.

    A step whose shapes hang on values (which atoms are neighbours) is really taken, on the CPU, where the network is
    small. Raises Unavailable if it is not, and for what no trace can follow.
    """
    if "kernel" in benchmark.facts:
        return _kernel(benchmark, recipe)
    made: list[AcceleratorLike] = []
    try:
        try:
            return _trace(cell, recipe, benchmark, stream, "meta", made)
        except FourfoldError:
            raise
        except Exception:
            if not made or not 0 < made[0].parameters() <= MOST_WITH_VALUES:
                raise
            return _trace(cell, recipe, benchmark, stream, "cpu", made)
    except FourfoldError:
        raise
    except Exception as error:
        raise Unavailable(
            f"mode=projected: a step of benchmark {benchmark.name} with method {cell['method']['name']} cannot be "
            f"traced without values ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"
        ) from error


def _trace(
    cell: Mapping[str, Any],
    recipe: Recipe,
    benchmark: Benchmark,
    stream: Stream,
    device: str,
    made: list[AcceleratorLike],
) -> Facts:
    engine: Any = AcceleratorLike(device, recipe.precision, recipe.weights_precision)
    made.append(engine)
    with torch.random.fork_rng(devices=[]), LiveBytes() as held:
        step = tracing._first_step(cell, recipe, benchmark, stream, device)
        run = tracing._run(cell, recipe, benchmark, engine)
        method = methods.build(cell["method"])
        method.setup(benchmark, stream.view(engine.device), run, rules.build(cell["method"]["rule"], engine))
        run.meter.start()
        experience: Any = tracing.OneStep(step)
        with sdpa_kernel(SDPBackend.MATH):
            with OperatorTrace():
                method.learn(experience, run)
            static = held.live
            held.reset()
            with OperatorTrace() as noted:
                method.learn(experience, run)
    return Facts(
        operators=noted.operators(),
        unit=benchmark.unit,
        units=step.units,
        samples=recipe.batch,
        parameters=engine.parameters(),
        gradients=engine.gradient_bytes(),
        static=static,
        peak=held.peak,
    )


def _kernel(benchmark: Any, recipe: Recipe) -> Facts:
    with LiveBytes() as held:
        call, work = benchmark.kernel(torch.device("meta"))
        static = held.live
        with OperatorTrace() as noted:
            call()
    operators = noted.operators()
    return Facts(operators, benchmark.unit, work, 1, 0, 0, static, held.peak)
