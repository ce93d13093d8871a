"""How far EWC moves from start to start when its first context is learned without an error.

    FOURFOLD_DATA=... OMP_NUM_THREADS=1 python benchmarks/golden_ewc.py [--seeds 12] [--order 3]

Plain PyTorch, none of our methods: Fashion-MNIST, task-incremental, a class order of the golden table, its network,
optimizer and strength (1e5), the Fisher information sample by sample. The order stays, the start and the batches
change. For each start: the trace of the first context's Fisher information, that context's accuracy after the first
context and after the second, and the accuracy of all five at the end.
"""

import argparse
import os
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from golden import class_order
from torch import Tensor, nn

from fourfold.data.idx import idx

STEPS, BATCH, SAMPLES, STRENGTH = 2000, 128, 1000, 1e5
Pair = tuple[Tensor, Tensor]  # inputs [samples, 784], labels 0 or 1


def contexts(order: list[int]) -> list[tuple[Pair, Pair]]:
    """(training, test) samples of the contexts, two classes each."""
    sets = idx(os.environ["FOURFOLD_DATA"], 0, "fashion_mnist")
    found = []
    for first, second in zip(order[::2], order[1::2], strict=True):
        parts = []
        for part in (sets.train, sets.test):
            chosen = (part.targets == first) | (part.targets == second)
            parts.append((part.inputs[chosen].flatten(1) / 255, (part.targets[chosen] == second).long()))
        found.append((parts[0], parts[1]))
    return found


def batches(samples: Pair) -> Iterator[Pair]:
    inputs, labels = samples
    while True:
        for rows in torch.randperm(len(labels)).split(BATCH)[: len(labels) // BATCH]:
            yield inputs[rows], labels[rows]


def information(network: nn.Module, samples: Pair, head: slice) -> list[Tensor]:
    """The diagonal Fisher information, each sample by itself, over both labels."""
    total = [torch.zeros_like(p) for p in network.parameters()]
    for row in torch.randperm(len(samples[1]))[:SAMPLES]:
        scores = network(samples[0][row : row + 1])[:, head]
        for label, probable in enumerate(scores.detach().softmax(1)[0]):
            loss = F.cross_entropy(scores, torch.tensor([label]))
            gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=label == 0)
            for value, gradient in zip(total, gradients, strict=True):
                value.add_(probable * gradient**2, alpha=1 / SAMPLES)
    return total


@torch.no_grad()
def accuracy(network: nn.Module, samples: Pair, head: slice) -> float:
    return 100 * float((network(samples[0])[:, head].argmax(1) == samples[1]).float().mean())


def start(seed: int, streams: list[tuple[Pair, Pair]]) -> tuple[float, list[list[float]]]:
    """(trace of the first Fisher information, accuracies of the contexts learned so far, after each)."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10))
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, 1e-3)
    heads = [slice(2 * number, 2 * number + 2) for number in range(len(streams))]
    penalties: list[tuple[list[Tensor], list[Tensor]]] = []  # (importance, anchor) of each context that has ended
    seen: list[list[float]] = []
    for number, (training, _) in enumerate(streams):
        for _, (inputs, labels) in zip(range(STEPS), batches(training), strict=False):
            optimizer.zero_grad()
            F.cross_entropy(network(inputs)[:, heads[number]], labels).backward()
            for penalty in penalties:
                for p, importance, anchor in zip(parameters, *penalty, strict=True):
                    assert p.grad is not None
                    p.grad.add_(importance * (p.detach() - anchor), alpha=STRENGTH)
            optimizer.step()
        pairs = zip(streams[: number + 1], heads, strict=False)
        seen.append([accuracy(network, test, head) for (_, test), head in pairs])
        penalties.append((information(network, training, heads[number]), [p.detach().clone() for p in parameters]))
    return float(sum(value.sum() for value in penalties[0][0])), seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12, help="how many starts")
    parser.add_argument("--order", type=int, default=3, help="the seed whose class order is taken")
    options = parser.parse_args()
    order = class_order(options.order)
    streams = contexts(order)
    print(f"Contexts: classes {', '.join(str(order[k : k + 2]) for k in range(0, len(order), 2))}.\n")
    print("| start | trace of F | first context after it | after the second | all at the end | mean |")
    print("|---|---|---|---|---|---|")
    for seed in range(options.seeds):
        trace, seen = start(seed, streams)
        last = ", ".join(f"{value:.1f}" for value in seen[-1])
        mean = sum(seen[-1]) / len(seen[-1])
        print(f"| {seed} | {trace:.1e} | {seen[0][0]:.1f} | {seen[1][0]:.1f} | {last} | {mean:.1f} |", flush=True)


if __name__ == "__main__":
    main()
