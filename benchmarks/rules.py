"""What a step of difference target propagation costs, in multiples of a step of backpropagation.

    OMP_NUM_THREADS=1 python benchmarks/rules.py [--batch 128] [--pairs 3] [--whole] [--networks lenet,simple_vgg]

CPU seconds of one process, each measured beside a backprop step of the same network and batch (SGD with momentum on
both sides): 32x32 pictures, 10 classes, the iterations of the paper. For ``reference`` and ``linear`` the iterations of
a feedback block are alike, so each block's iteration is timed and the step put together from them (--whole: the step
itself, minutes). ``fastest`` is rule fast_dtp, whole steps. The last columns are arithmetic alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.layered import lenet, simple_vgg
from fourfold.composition import compose, plain
from fourfold.hardware.device import acquire
from fourfold.hardware.engine import Engine
from fourfold.rules import interface as rules
from fourfold.rules.cost import PER_ITERATION, multiply_adds, step_cost
from fourfold.rules.dtp import automatic_iterations

NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "lenet": lambda: lenet((3, 32, 32), 10, [32, 64], 512, "elu", 1.0),
    "simple_vgg": lambda: simple_vgg((3, 32, 32), 10, [128, 128, 256, 256, 512], "elu", 1.0),
}
PAPER: dict[str, dict[str, Any]] = {
    "lenet": {"iterations": [41, 51, 24], "noise": [0.4164, 0.38263, 0.13954]},
    "simple_vgg": {"iterations": [20, 30, 35, 55, 20], "noise": [0.4, 0.4, 0.2, 0.2, 0.08]},
}


def prepared(name: str, network: nn.Module, cell: dict[str, Any], **values: Any) -> Any:
    """A rule of conf/method/rule on a network."""
    words = ["benchmark=digits", "hardware=cpu", f"method/rule={name}"]
    node = plain(compose(words))["method"]["rule"]
    engine = Engine(acquire(cell["hardware"]), "fp32", "auto")
    made = rules.build({**node, **values}, engine)
    assert made is not None
    made.prepare(network)
    return made


def step_of(rule: Any, network: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        rule.gradients(network, x, y, F.cross_entropy)
        optimizer.step()

    return step


def ratio(timed: Callable[[], None], beside: Callable[[], None], pairs: int) -> float:
    """The median over pairs of the CPU seconds of one over the mean of the other before and after it."""
    found = []
    for _ in range(pairs):
        before, middle, after = seconds(beside), seconds(timed), seconds(beside)
        found.append(2 * middle / (before + after))
    return statistics.median(found)


def seconds(run: Callable[[], None]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


@torch.no_grad()
def iteration_of(rule: Any, n: int, x: Tensor) -> Callable[[], None]:
    """One iteration of one feedback block's training."""
    with torch.enable_grad():
        one = rule.forward(x)[n]

    def iterate() -> None:
        with torch.no_grad():
            rule.descend(n, rule.feedback[n], one, 1)

    return iterate


def row(name: str, batch: int, pairs: int, whole: bool, cell: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network, x, y = NETWORKS[name](), torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    backprop = step_of(prepared("backprop", network, cell), network, x, y)
    backprop()
    counts = multiply_adds(list(network), x[:1])
    print(f"{name}, batch {batch}: backprop {min(seconds(backprop) for _ in range(2)):.2f} CPU s a step")
    for form in ("reference", "linear"):
        arithmetic = step_cost(counts, PAPER[name]["iterations"], PER_ITERATION[form])
        if whole:
            rule = prepared("dtp", network, cell, formulation=form, **PAPER[name])
            print(f"  {form:10s} {ratio(step_of(rule, network, x, y), backprop, 1):6.1f}  arithmetic {arithmetic:6.1f}")
            continue
        rule = prepared("dtp", network, cell, formulation=form, **PAPER[name])
        each = {n: ratio(iteration_of(rule, n, x), backprop, pairs) for n in rule.feedback}
        idle = prepared("dtp", network, cell, iterations=0)
        rest = ratio(step_of(idle, network, x, y), backprop, pairs)
        total = rest + sum(rule.iterations[n] * each[n] for n in each)
        parts = " ".join(f"{value:.3f}" for value in each.values())
        print(f"  {form:10s} {total:6.1f}  arithmetic {arithmetic:6.1f}  (an iteration: {parts}; the rest: {rest:.2f})")
    rule = prepared("fast_dtp", network, cell)
    step = step_of(rule, network, x, y)
    first = ratio(step, backprop, 1)  # new feedback weights get more iterations on their first batch
    total = ratio(step, backprop, pairs)
    used = {n: automatic_iterations(rule.feedback[n], one.outputs) for n, one in enumerate(rule.forward(x)) if n}
    iterations = " ".join(map(str, used.values()))
    print(f"  {'fastest':10s} {total:6.1f}  (iterations: {iterations}; the first step: {first:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="time whole steps of reference and linear too")
    parser.add_argument("--networks", default="lenet,simple_vgg")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cell = plain(compose(["benchmark=digits", "hardware=cpu"]))
    for name in options.networks.split(","):
        row(name, options.batch, options.pairs, options.whole, cell)


if __name__ == "__main__":
    main()
