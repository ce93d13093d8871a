"""How far SI moves from start to start, and with whose gradient is followed along the path.

    FOURFOLD_DATA=... OMP_NUM_THREADS=1 python benchmarks/golden_si.py [--seeds 6] [--order 2]

Plain PyTorch, none of our methods: Fashion-MNIST, domain-incremental, a class order of the golden table, its network,
optimizer and strength (5e4). The order stays, the start and the batches change. For each start the average accuracy at
the end, with the path along the gradient of the loss (the paper) and of the total (the code of the reference).
"""

import argparse
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from golden import class_order
from golden_ewc import STEPS, Pair, accuracy, batches, contexts
from torch import nn

STRENGTH, DAMPING = 5e4, 0.1


def start(seed: int, streams: list[tuple[Pair, Pair]], total: bool) -> float:
    """The average accuracy after the last context."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 2))
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, 1e-3)
    importance = [torch.zeros_like(p) for p in parameters]
    anchor = [p.detach().clone() for p in parameters]
    for training, _ in streams:
        path = [torch.zeros_like(p) for p in parameters]
        for _, (inputs, labels) in zip(range(STEPS), batches(training), strict=False):
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), labels).backward()
            before = [p.detach().clone() for p in parameters]
            followed = []
            for p, held, kept in zip(parameters, importance, anchor, strict=True):
                assert p.grad is not None
                alone = p.grad.clone()
                p.grad.add_(held * (p.detach() - kept), alpha=2 * STRENGTH)
                followed.append(p.grad.clone() if total else alone)
            optimizer.step()
            for along, gradient, p, old in zip(path, followed, parameters, before, strict=True):
                along.sub_(gradient * (p.detach() - old))
        for held, along, p, kept in zip(importance, path, parameters, anchor, strict=True):
            held.add_(along / ((p.detach() - kept) ** 2 + DAMPING))
            kept.copy_(p.detach())
    return mean(accuracy(network, test, slice(0, 2)) for _, test in streams)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6, help="how many starts")
    parser.add_argument("--order", type=int, default=2, help="the seed whose class order is taken")
    options = parser.parse_args()
    streams = contexts(class_order(options.order))
    print("| start | path along the loss | along the total |")
    print("|---|---|---|")
    found = []
    for seed in range(options.seeds):
        found.append((start(seed, streams, total=False), start(seed, streams, total=True)))
        print(f"| {seed} | {found[-1][0]:.1f} | {found[-1][1]:.1f} |", flush=True)
    spreads = " | ".join(f"{mean(values):.1f} ± {stdev(values):.1f}" for values in zip(*found, strict=True))
    print(f"| mean ± standard deviation | {spreads} |")


if __name__ == "__main__":
    main()
