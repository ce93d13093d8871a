"""The floating-point work of a cell's step, counted by tracing it on the meta device: no memory, no arithmetic.

    trace = trace_step(cell, recipe, benchmark, stream)         the step that the cell's method takes
    trace = trace_step(plain_training(cell), ...)               one of plain training by backpropagation
    trace.flops_per_unit
    trace.by_kind()                    {"matmul": ..., "batched_matmul": ..., "convolution": ...}

A step is traced as the method takes it: forward, backward, update. Attention is traced as two batched products over
the whole of its score matrix, causal or not, without recomputation: the convention of model FLOP (Chowdhery et al.
2022, appendix B).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from fourfold.benchmarks.interface import Benchmark
from fourfold.benchmarks.models import parameter_count
from fourfold.data.tensors import Batch
from fourfold.errors import Unavailable
from fourfold.experience import Experience, Run, Step
from fourfold.hardware.engine import make_optimizer, unmarked
from fourfold.measure.flops import OperatorTrace, StepTrace
from fourfold.measure.until import Until
from fourfold.methods import interface as methods
from fourfold.recipe import Recipe
from fourfold.rules import interface as rules
from fourfold.settings.stream import Stream


class NoEngine:
    """Stands for an engine where nothing is computed: an engine's words, on the meta device or for drawing data."""

    facts = None
    rank, world, part, parts, alone, plain = 0, 1, 0, 1, True, True

    def __init__(self, device: str, precision: str) -> None:
        self.device = torch.device(device)
        self.precision = precision
        self.phase: Callable[[str], AbstractContextManager[Any]] = unmarked

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def without_sync(self, network: nn.Module) -> AbstractContextManager[Any]:
        return nullcontext()

    def add_gradient(
        self, parameter: nn.Parameter, gradient: Tensor, factor: Tensor | None = None, weight: float = 1.0
    ) -> None:
        added = weight * (gradient if factor is None else gradient * factor)
        parameter.grad = added if parameter.grad is None else parameter.grad + added

    def stored(self, network: nn.Module) -> nn.Module:
        return network

    def network(self, build: Callable[[torch.device], nn.Module]) -> nn.Module:
        return build(self.device)

    def optimizer(self, parameters: Iterable[nn.Parameter], recipe: Mapping[str, Any]) -> Any:
        return make_optimizer(parameters, recipe)


class OneStep:
    """An experience of a single step."""

    prequential, number, samples = False, 0, 0

    def __init__(self, step: Step) -> None:
        self.step = step

    def __iter__(self) -> Iterator[Step]:
        yield self.step

    def sample(self, *_: Any) -> Iterator[Any]:
        raise Unavailable("a step cannot be traced where a server does it: its time is not that of operators")


SMALL = 10_000_000  # parameters of a network whose step a CPU takes in a moment
PLAIN: dict[str, Any] = {
    "_target_": "fourfold.methods.finetune.Finetune",
    "oracle": False,
    "rule": {"_target_": "fourfold.rules.backprop.Backprop"},
}


def plain_work(cell: Mapping[str, Any]) -> dict[str, Any]:
    """What a unit of work takes at least: plain training, where the method trains by gradients; for methods whose units
    are tokens that they write, writing them, or the method itself where it learns from them.
    """
    method = cell["method"]
    if "generates" not in method.get("needs", ()):
        return plain_training(cell)
    if "gradients" in method["needs"]:
        return dict(cell)
    writing = {key: method[key] for key in ("oracle", "rule", "new_tokens")}
    return {**cell, "method": {"_target_": "fourfold.methods.inference.Inference", **writing}}


def plain_training(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The same cell, learned by plain training if it is trained by gradients at all."""
    trained = bool((cell["method"].get("rule") or {}).get("_target_"))
    return {**cell, "method": PLAIN} if trained else dict(cell)


def trace_step(
    cell: Mapping[str, Any], recipe: Recipe, benchmark: Benchmark, stream: Stream, device: str = "meta"
) -> StepTrace:
    """The first step of the cell's method on the stream, traced.

    Leaves torch's random state as it was. It sets the benchmark's objective up for a network of its own, so trace
    before the objective is used in earnest, or after. Raises whatever a step raises that needs values, which tensors
    on the meta device have not.
    """
    node = cell["method"]
    engine: Any = NoEngine(device, recipe.precision)
    with torch.random.fork_rng(devices=[]):
        step = _first_step(cell, recipe, benchmark, stream, device)
        run = _run(cell, recipe, benchmark, engine)
        method = methods.build(node)
        method.setup(benchmark, stream.view(engine.device), run, rules.build(node["rule"], engine))
        run.meter.start()
        experience: Any = OneStep(step)
        with OperatorTrace() as trace, sdpa_kernel(SDPBackend.MATH):
            method.learn(experience, run)
    return StepTrace(trace.operators(), step.units)


def _first_step(
    cell: Mapping[str, Any], recipe: Recipe, benchmark: Benchmark, stream: Stream, device: str = "meta"
) -> Step:
    """The first step of the stream: drawn on the CPU, then moved."""
    run = _run(cell, replace(recipe, workers=0), benchmark, NoEngine("cpu", recipe.precision))
    step = next(Experience(stream, stream.phases[0], run)._steps())
    move = lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf  # noqa: E731
    step._batch = Batch(tree_map(move, step._batch.inputs), tree_map(move, step._batch.targets))
    step._told = tree_map(move, step._told)
    return step


def _run(cell: Mapping[str, Any], recipe: Recipe, benchmark: Benchmark, engine: Any) -> Run:
    until = Until({"rule": "steps", "steps": 1, "epochs": None, "seconds": None, "interval": None}, timeout=1e9)
    oracle = bool(cell["method"]["oracle"])
    return Run(cell["seed"], benchmark, engine, recipe, until, progress=False, oracle=oracle)


def work(cell: Mapping[str, Any], recipe: Recipe, benchmark: Benchmark, stream: Stream) -> dict[str, Any]:
    """For the record: FLOP a unit of work.

    model: of what a unit takes at least (``plain_work``), by kind of operator; executed: of the method's own first
    step, null where that depends on values; alike: whether all steps are known to be like that one; and the reason, if
    ``model`` is null.
    """
    model = executed = reason = None
    plain, whole = plain_work(cell), copy(benchmark)
    whole.recipe = replace(benchmark.recipe, recompute=False)
    try:
        model = _traced(plain, recipe, whole, stream)
        known = not recipe.recompute and (_trains_plainly(cell) or plain["method"] is not PLAIN)
        executed = model if known else _traced(cell, recipe, benchmark, stream)
    except Exception as error:
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}" if model is None else None
    return {
        "model": None if model is None else model.flops_per_unit,
        "by_kind": {} if model is None or not model.units else {k: v / model.units for k, v in model.by_kind().items()},
        "executed": None if executed is None else executed.flops_per_unit,
        "alike": _trains_plainly(cell),
        "reason": reason,
    }


def _traced(cell: Mapping[str, Any], recipe: Recipe, benchmark: Benchmark, stream: Stream) -> StepTrace:
    """On the meta device; a small network's step that asks for values is really taken, on the CPU."""
    try:
        return trace_step(cell, recipe, benchmark, stream)
    except Exception:
        if parameter_count(benchmark.network(cell["seed"], "meta")) > SMALL:
            raise
        return trace_step(cell, recipe, benchmark, stream, "cpu")


def countable(cell: Mapping[str, Any], engine: Any) -> bool:
    """Whether a method's steps can be counted as they are taken, and have to be: those of plain training are alike.

    Not over several processes, of which each would count another part; nor where operators are compiled, or those that
    watch a rule would count as the method's.
    """
    compiled = (cell["method"].get("rule") or {}).get("compiled")
    return engine.world == 1 and not compiled and cell["diagnose_every"] is None and not _trains_plainly(cell)


def _trains_plainly(cell: Mapping[str, Any]) -> bool:
    method = cell["method"]
    return method["_target_"] == PLAIN["_target_"] and method["rule"]["_target_"] == PLAIN["rule"]["_target_"]
