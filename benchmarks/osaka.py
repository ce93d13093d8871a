"""Steps a second of OSAKA's stream against a bare loop of plain PyTorch that does the same mathematics.

    OMP_NUM_THREADS=1 python benchmarks/osaka.py [--steps 20] [--pairs 3] [--width 1.0] [--methods NAMES] [--meta]
    OMP_NUM_THREADS=1 python benchmarks/osaka.py --draw

10-way 5-shot pictures of 28x28, the network of four convolutions of 64 channels (``--width 0.5``: 32). Each pair is
one stretch of our loop (stream, method, meter) and one of the bare loop, in one process; the figure is the median over
pairs of bare seconds / our seconds, in CPU time. The bare loop drew its batches beforehand, has no meter or stream,
and is written out below. ``--meta`` compares a vectorised meta-batch with a loop over its tasks. ``--draw`` measures
what a step of the stream costs by itself.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fourfold.benchmarks import interface as benchmarks
from fourfold.benchmarks.models import conv4
from fourfold.benchmarks.objectives import cross_entropy
from fourfold.composition import compose, plain
from fourfold.experience import Experience, Run
from fourfold.hardware.device import acquire
from fourfold.hardware.engine import Engine
from fourfold.measure.until import Until
from fourfold.methods import interface as methods
from fourfold.methods.inner_loop import losses_of_tasks
from fourfold.recipe import resolve
from fourfold.rules import interface as rules
from fourfold.settings import stream as streams
from fourfold.settings.episodes import BLOCK

WORDS = {
    "online": ["method=online_sgd"],
    "maml": ["method=cmaml", "method.modulation=0", "method.learned_rates=false"],
    "cmaml": ["method=cmaml", "method.learned_rates=false"],
    "pap": ["method=cmaml_um_pap", "method.learned_rates=false", "method.buffer=8"],
}
STEPS, RATE = 2, 0.1  # of the inner loop
MODULATION, THRESHOLD, BUFFER = 1.0, 2.0, 8

Batch = tuple[Tensor, Tensor]


class Ours:
    """One cell, whose stream is gone through a stretch at a time."""

    def __init__(self, name: str, width: float, first_order: bool) -> None:
        words = [
            "benchmark=osaka_glyphs",
            "setting=osaka",
            "hardware=cpu",
            "scale=full",
            f"benchmark.model.width={width}",
        ]
        words += WORDS[name] + ([] if name == "online" else [f"method.first_order={str(first_order).lower()}"])
        cell = plain(compose(words))
        device = acquire(cell["hardware"])
        recipe = resolve(cell, device.accelerator, list(device.offers))
        engine = Engine(device, recipe.precision, cell["strategy"], 1)
        self.benchmark = benchmarks.build(cell, recipe)
        self.stream = streams.build(cell["setting"], self.benchmark, cell["seed"])
        until = Until({"rule": "steps", "steps": 10**9, "seconds": None}, 1e9)
        self.run = Run(cell["seed"], self.benchmark, engine, recipe, until, False, False)
        self.method = methods.build(cell["method"])
        self.method.setup(
            self.benchmark, self.stream.view(engine.device), self.run, rules.build(cell["method"]["rule"], engine)
        )
        self.learning = self._learn()

    def _learn(self) -> Iterator[None]:
        """The method's own loop, given back after every step."""
        for step in Experience(self.stream, self.stream.phases[0], self.run):
            prediction = self.method.predict(step.observation)
            self.run.judge(step, prediction)
            self.run.tick(step, self.method.observe(step.reveal(), prediction))
            yield

    def batches(self, count: int) -> list[Batch]:
        """The first batches of the same stream, for the bare loop."""
        data, found = self.benchmark.sets.train, []  # type: ignore[union-attr]
        for drawn, _ in zip(self.stream.phases[0].draw(None, 0, 0, 0), range(count), strict=False):  # type: ignore[misc]
            found.append((data.batch(drawn.indices).inputs, drawn.targets))
        return found  # type: ignore[return-value]

    def stretch(self, steps: int) -> None:
        for _ in range(steps):
            next(self.learning)


# ------------------------------------------------------------------------------------------ the bare loops


def inner(net: nn.Module, values: dict[str, Tensor], x: Tensor, y: Tensor, graph: bool) -> dict[str, Tensor]:
    for _ in range(STEPS):
        loss = F.cross_entropy(functional_call(net, values, (x,)), y)
        gradients = torch.autograd.grad(loss, list(values.values()), create_graph=graph)
        values = {name: value - RATE * g for (name, value), g in zip(values.items(), gradients, strict=True)}
    return values


def leaves(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}


def constants(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().requires_grad_() for name, value in values.items()}


def online(net: nn.Module, first_order: bool) -> Callable[[Tensor, Tensor], Tensor]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def step(x: Tensor, y: Tensor) -> Tensor:
        outputs = net(x)
        loss = F.cross_entropy(outputs, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return outputs.detach()

    return step


def maml(net: nn.Module, first_order: bool) -> Callable[[Tensor, Tensor], Tensor]:
    fast = leaves(net)

    def step(x: Tensor, y: Tensor) -> Tensor:
        nonlocal fast
        with torch.no_grad():
            outputs = functional_call(net, fast, (x,))
        fast = {name: value.detach() for name, value in inner(net, leaves(net), x, y, graph=False).items()}
        return outputs

    return step


def cmaml(net: nn.Module, first_order: bool) -> Callable[[Tensor, Tensor], Tensor]:
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    fast, start = leaves(net), None

    def step(x: Tensor, y: Tensor) -> Tensor:
        nonlocal fast, start
        outputs = functional_call(net, fast, (x,))
        loss = F.cross_entropy(outputs, y)
        begun = leaves(net)
        adapted = inner(net, begun, x, y, graph=not first_order)
        if start is not None:
            for parameter, gradient in zip(
                net.parameters(), torch.autograd.grad(loss, list(start.values())), strict=True
            ):
                parameter.grad = gradient
            optimizer.step()
        fast, start = adapted, begun
        return outputs.detach()

    return step


def pap(net: nn.Module, first_order: bool) -> Callable[[Tensor, Tensor], Tensor]:
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    fast, anew, buffer = leaves(net), True, []  # type: ignore[var-annotated]

    def step(x: Tensor, y: Tensor) -> Tensor:
        nonlocal fast, anew, buffer
        outputs = functional_call(net, fast, (x,))
        before = F.cross_entropy(outputs, y).detach()
        candidate = constants(inner(net, leaves(net) if anew else fast, x, y, graph=False))
        anew = False
        with torch.no_grad():
            changed = bool(before - F.cross_entropy(functional_call(net, candidate, (x,)), y) >= THRESHOLD)
        if not changed:
            buffer.append((x, y))
        if changed or len(buffer) >= BUFFER:
            half = len(buffer) // 2
            optimizer.zero_grad(set_to_none=True)
            for (a, b), (c, d) in zip(buffer[:half], buffer[half : 2 * half], strict=True):
                start = leaves(net)
                loss = F.cross_entropy(functional_call(net, inner(net, start, a, b, graph=not first_order), (c,)), d)
                weight = 1 - torch.exp(-MODULATION * loss.detach())
                found = torch.autograd.grad(weight * loss / half, list(start.values()))
                for parameter, gradient in zip(net.parameters(), found, strict=True):
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            optimizer.step()
            buffer, anew = [], True
        fast = candidate
        return outputs.detach()

    return step


BARE: dict[str, Callable[[nn.Module, bool], Callable[[Tensor, Tensor], Tensor]]] = {
    "online": online,
    "maml": maml,
    "cmaml": cmaml,
    "pap": pap,
}


def seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def compare(name: str, width: float, first_order: bool, steps: int, pairs: int) -> None:
    ours = Ours(name, width, first_order)
    batches = ours.batches(steps * (pairs + 1))
    torch.manual_seed(0)
    bare = BARE[name](conv4((1, 28, 28), 10, 64, 4, width), first_order)

    def stretch(number: int) -> None:
        for x, y in batches[number * steps : (number + 1) * steps]:
            outputs = bare(x, y)
            (outputs.argmax(-1) == y).float().mean()

    ours.stretch(2)
    stretch(0)
    ratios, rates = [], []
    for number in range(pairs):
        one, other = seconds(lambda: ours.stretch(steps)), seconds(lambda number=number: stretch(number + 1))  # type: ignore[misc]
        ratios.append(other / one)
        rates.append(steps / one)
    order = "" if name == "online" else (" first order" if first_order else " second order")
    print(
        f"{name + order:20s} {statistics.median(rates):7.2f} steps / CPU s   {statistics.median(ratios):.3f} x bare",
        flush=True,
    )


def meta(width: float, tasks: int = 4) -> None:
    """Meta-batches at once and one after another."""
    net = conv4((1, 28, 28), 10, 64, 4, width)
    values = dict(net.named_parameters())
    rates = {name: torch.tensor(RATE) for name in values}
    x, y = torch.rand(tasks, 50, 1, 28, 28), torch.randint(10, (tasks, 50))
    for first_order in (True, False):
        taken = {}
        for vectorised in (False, True):

            def step(vectorised: bool = vectorised, first_order: bool = first_order) -> None:
                losses, _ = losses_of_tasks(
                    net,
                    cross_entropy,
                    values,
                    rates,
                    (x, y, x, y),
                    steps=STEPS,
                    adapted=tuple(values),
                    first_order=first_order,
                    vectorised=vectorised,
                )
                torch.autograd.grad(losses.mean(), list(values.values()))

            step()
            taken[vectorised] = min(seconds(step) for _ in range(2))
        order = "first" if first_order else "second"
        print(
            f"meta-batch of {tasks}, {order} order: at once {taken[False] / taken[True]:.2f} x a loop over tasks",
            flush=True,
        )


def draw(blocks: int = 20) -> None:
    """Microseconds a step to draw the stream (context, classes, samples, labels, order), and to gather its pictures."""
    ours = Ours("online", 0.25, True)
    data = ours.benchmark.sets.train  # type: ignore[union-attr]
    stream = ours.stream.phases[0].draw(None, 0, 0, 0)  # type: ignore[misc]
    steps = blocks * BLOCK

    def drawn(gathered: bool) -> float:
        def go() -> None:
            for one in itertools.islice(stream, steps):
                if gathered:
                    data.batch(one.indices)

        return 1e6 * seconds(go) / steps

    drawn(True)
    print(f"drawing a step: {drawn(False):.0f} us, with its 50 pictures {drawn(True):.0f} us ({steps} steps each)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--methods", default=",".join(BARE))
    parser.add_argument("--meta", action="store_true")
    parser.add_argument("--draw", action="store_true", help="the stream alone, and nothing else")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.draw:
        draw()
        return
    print(f"{round(64 * options.width)} channels")
    for name in options.methods.split(","):
        for first_order in (True,) if name == "online" else (True, False):
            compare(name, options.width, first_order, options.steps, options.pairs)
    if options.meta:
        meta(options.width)


if __name__ == "__main__":
    main()
