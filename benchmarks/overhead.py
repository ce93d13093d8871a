"""What Fourfold's loop costs a step, beside a bare PyTorch loop of the same model and data.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py [--pairs 30] [--steps 400] [--benchmark digits] [--json FILE]

Both loops run in one process, in interleaved pairs in random order. Ours has everything on that a cell has: the
stream, the observation, the rule, the meter with the parts of each step, the monitor's thread, the watch on gradients,
the pulse's thread and file, the stopping rule. The figure is CPU microseconds a step, ours minus bare: the median over
pairs (what else the machine does makes some pairs wild) with its 95 % bootstrap interval; and where it goes, from a
profile.
"""

import argparse
import cProfile
import json
import pstats
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fourfold.benchmarks import interface as benchmarks
from fourfold.composition import compose, plain
from fourfold.experience import Experience, Run
from fourfold.experiment import beating
from fourfold.hardware.device import acquire
from fourfold.hardware.engine import Engine, make_optimizer
from fourfold.measure.monitor import open_monitor
from fourfold.measure.until import Until
from fourfold.measure.work import GradientWatch
from fourfold.methods import interface as methods
from fourfold.recipe import resolve
from fourfold.rules import interface as rules
from fourfold.settings import stream as streams


def ours(cell: dict, steps: int) -> Callable[[], float]:
    """A function that runs ``steps`` steps through Fourfold and returns their CPU seconds."""
    device = acquire(cell["hardware"])
    recipe = resolve(cell, device.accelerator, list(device.offers))
    engine = Engine(device, recipe.precision, cell["strategy"])
    benchmark = benchmarks.build(cell, recipe)
    stream = streams.build(cell["setting"], benchmark, cell["seed"])
    rule = rules.build(cell["method"]["rule"], engine)
    method = methods.build(cell["method"])
    method.setup(
        benchmark, stream.view(engine.device), Run(0, benchmark, engine, recipe, _until(steps), False, False), rule
    )

    def timed() -> float:
        run = Run(0, benchmark, engine, recipe, _until(steps), progress=False, oracle=False)
        experience = Experience(stream, stream.phases[0], run)
        monitor = open_monitor(device.backend, [], cell["measure"]["period"])
        started = time.process_time()
        watched = GradientWatch()
        monitor.begin(run.meter.zero)
        with tempfile.TemporaryDirectory() as folder, beating(Path(folder), run):
            method.learn(experience, run)
        monitor.close()
        watched.close()
        return time.process_time() - started

    return timed


def _until(steps: int) -> Until:
    return Until({"rule": "steps", "steps": steps, "epochs": None, "seconds": None, "interval": None}, timeout=1e6)


def bare(cell: dict, steps: int) -> Callable[[], float]:
    """The same work written as one would by hand: shuffled batches of tensors in memory, one optimizer."""
    recipe = resolve(cell, accelerator=False)
    benchmark = benchmarks.build(cell, recipe)
    assert benchmark.sets is not None
    data = benchmark.sets.train
    network = benchmark.network(cell["seed"])
    optimizer = make_optimizer(network.parameters(), recipe.optimizer)
    cross_entropy = torch.nn.CrossEntropyLoss()
    size = recipe.batch

    def timed() -> float:
        started = time.process_time()
        done = 0
        while done < steps:
            order = torch.randperm(len(data.targets))
            for at in range(0, len(order), size):
                chosen = order[at : at + size]
                inputs, targets = data.inputs[chosen], data.targets[chosen]
                if inputs.dtype == torch.uint8:
                    inputs = inputs.float().div_(255)
                optimizer.zero_grad(set_to_none=True)
                loss = cross_entropy(network(inputs), targets)
                loss.backward()
                optimizer.step()
                done += 1
                if done == steps:
                    break
        return time.process_time() - started

    return timed


def bootstrap(values: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """The 95 % percentile interval of the median."""
    chosen = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(np.median(values[chosen], axis=1), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--benchmark", default="digits")
    parser.add_argument("--json", help="write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cell = plain(compose([f"benchmark={options.benchmark}", "hardware=cpu"]))
    loops = {"ours": ours(cell, options.steps), "bare": bare(cell, options.steps)}
    for loop in loops.values():
        loop()
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(options.pairs):
        for name in random.sample(list(loops), 2):
            seconds[name].append(loops[name]())
    micro = {name: np.asarray(values) / options.steps * 1e6 for name, values in seconds.items()}
    extra = micro["ours"] - micro["bare"]
    low, high = bootstrap(extra)
    print(f"{options.benchmark}, {options.pairs} pairs of {options.steps} steps, CPU microseconds a step")
    print(f"  bare  {np.median(micro['bare']):8.1f} (median)")
    print(f"  ours  {np.median(micro['ours']):8.1f} (median)")
    print(f"  extra {np.median(extra):8.1f} (median of pairs), 95 % interval {low:.1f} to {high:.1f}")
    print(f"  at a step of 10 ms: {10_000 / (10_000 + high):.4f} x bare or better")
    profile = cProfile.Profile()
    profile.runcall(loops["ours"])
    print("where it goes (profiled, so all times are too high; own time in Fourfold's code, microseconds a step):")
    rows = [(row[2], function) for function, row in pstats.Stats(profile).stats.items() if "fourfold" in function[0]]
    for own, (path, line, name) in sorted(rows, reverse=True)[:8]:
        print(f"  {own / options.steps * 1e6:6.1f}  {path.rsplit('fourfold/', 1)[-1]}:{line} {name}")
    if options.json:
        figures = {
            "benchmark": options.benchmark,
            "pairs": options.pairs,
            "steps": options.steps,
            "bare": micro["bare"].tolist(),
            "ours": micro["ours"].tolist(),
            "extra_95": [low, high],
        }
        with open(options.json, "w") as file:
            json.dump(figures, file)


if __name__ == "__main__":
    main()
