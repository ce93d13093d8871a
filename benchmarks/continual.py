"""Images a second of continual learning: finetune, ewc, replay, der_plus_plus, beside bare loops and Avalanche.

    FOURFOLD_DATA=... OMP_NUM_THREADS=1 python benchmarks/continual.py [--steps 500] [--pairs 3] [--methods A,B]
        [--without "tensors,as shipped"]

Class-incremental Fashion-MNIST, 5 contexts of 2 classes, MLP 784-400-400-10, Adam 0.001, batch 128, one thread. Each
method is measured turn by turn with a bare PyTorch loop of the same work (batches, masks, remembered samples,
penalties; no evaluation, no record) in one process; what is compared is images a CPU second of the learning, so
that other work on the machine disturbs little. Avalanche needs avalanche-lib and torchvision; where they are not
installed its columns say so. It is run twice: "tensors" hands it pictures that are float tensors already, "as shipped"
is its own SplitFMNIST, a PIL picture, ToTensor and Normalize a sample (one pass, num_workers=0: its defaults).
"bare/tensors" is what there is to gain over it at most: the bare loop is the arithmetic and nothing else.
"""

import argparse
import contextlib
import gzip
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fourfold
from fourfold.data.idx import idx

METHODS = ("finetune", "ewc", "replay", "der_plus_plus")
CONTEXTS, BATCH, MEMORY = 5, 128, 1000
RATIOS = ("ours/bare", "ours/tensors", "ours/as shipped", "bare/tensors")
REMEMBERED = {"finetune": 0, "ewc": 0, "replay": 1, "der_plus_plus": 2}  # batches of them in a step


def declare_operators() -> "torch.library.Library | None":
    """torchvision built for another torch can be imported once two operators, of no use here, are declared."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    library = torch.library.Library("torchvision", "DEF")
    with contextlib.suppress(RuntimeError):  # they are there already
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)
    )


def ours(method: str, steps: int, data_dir: str) -> float:
    """CPU seconds of a whole cell's learning."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["benchmark=fashion_mnist", "setting=class_incremental", f"method={method}", "scale=full"]
        words += ["hardware=cpu", "tracking=off", "benchmark.recipe.full.evaluation=0", f"until.steps={steps}"]
        words += [f"data_dir={data_dir}", f"output_dir={folder}", "measure.flops=off", "checkpoint.seconds=null"]
        words += ["tuned=off"]  # a reservoir, the strengths of the bare loop
        record = fourfold.run(words)
    assert record.state == "done", record.message
    return float(record.measurements["cpu_seconds"])


def bare(method: str, steps: int, pictures: Tensor, labels: Tensor) -> float:
    """CPU seconds of the same work in a plain loop: what a careful person writes for one method."""
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    seen = torch.zeros(10, dtype=torch.bool)
    kept_x = torch.zeros(MEMORY, *pictures.shape[1:], dtype=torch.uint8)
    kept_y, kept_z, offered = torch.zeros(MEMORY, dtype=torch.long), torch.zeros(MEMORY, 10), 0
    anchors: list[tuple[Tensor, Tensor]] = []  # of each parameter: all past contexts' as one
    begun = time.process_time()
    for context in range(CONTEXTS):
        own = torch.isin(labels, torch.tensor([2 * context, 2 * context + 1])).nonzero().flatten()
        order, at = own[torch.randperm(len(own))], 0
        for _ in range(steps // CONTEXTS):
            if at >= len(order):
                order, at = own[torch.randperm(len(own))], 0
            rows, at = order[at : at + BATCH], at + BATCH
            x, y = pictures[rows].float().div_(255), labels[rows]
            seen[y] = True
            filled = min(offered, MEMORY)
            draws = [torch.randperm(filled)[:BATCH] for _ in range(REMEMBERED[method])] if filled else []
            every = torch.cat([x, *(kept_x[d].float().div_(255) for d in draws)])
            raw = model(every)
            scores = raw.masked_fill(~seen, -1e9)
            loss = F.cross_entropy(scores[: len(y)], y)
            if method == "replay" and draws:
                loss = loss / 2 + F.cross_entropy(scores[len(y) :], kept_y[draws[0]]) / 2
            elif draws:
                count = len(draws[0])
                loss = loss + 0.2 * F.mse_loss(raw[len(y) : len(y) + count], kept_z[draws[0]])
                loss = loss + 0.5 * F.cross_entropy(scores[len(y) + count :], kept_y[draws[1]])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if anchors:
                for p, (mean, fisher) in zip(model.parameters(), anchors, strict=True):
                    p.grad.addcmul_(fisher, p.detach() - mean, value=1e3)  # type: ignore[union-attr]
            optimizer.step()
            if REMEMBERED[method]:
                numbers = torch.arange(offered, offered + len(y))
                places = torch.where(numbers < MEMORY, numbers, (torch.rand(len(y)) * (numbers + 1)).long())
                keep = places < MEMORY
                kept_x[places[keep]], kept_y[places[keep]] = pictures[rows][keep], y[keep]
                kept_z[places[keep]] = raw[: len(y)].detach()[keep]
                offered += len(y)
        if method == "ewc":
            anchors = merged(anchors, model, fisher_of(model, pictures[own[:1000]], seen))
    return time.process_time() - begun


def merged(
    anchors: list[tuple[Tensor, Tensor]], model: nn.Sequential, fishers: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """sum_k F_k (p - a_k)^2 = F (p - a)^2 + constant, with F = sum F_k and a = sum F_k a_k / F: one set for all."""
    now = [p.detach().clone() for p in model.parameters()]
    if not anchors:
        return list(zip(now, fishers, strict=True))
    found = []
    for p, new, (mean, old) in zip(now, fishers, anchors, strict=True):
        total = old + new
        found.append((torch.where(total > 0, mean + new / total * (p - mean), p), total))
    return found


def fisher_of(model: nn.Sequential, pictures: Tensor, seen: Tensor) -> list[Tensor]:
    """The exact diagonal Fisher information over the labels, written out for three fully connected layers: a sample's
    gradient is an outer product, so that its squares are a product of squares."""
    one, two, three = (model[at] for at in (1, 3, 5))
    found = [torch.zeros_like(p) for p in model.parameters()]
    with torch.no_grad():
        for part in pictures.split(100):
            x = part.float().div_(255).flatten(1)
            h = one(x).relu()
            k = two(h).relu()
            chances = three(k).masked_fill(~seen, -1e9).softmax(1)
            sums = [torch.zeros_like(h), torch.zeros_like(k), torch.zeros_like(chances)]
            for label in seen.nonzero().flatten().tolist():
                back = -chances.clone()
                back[:, label] += 1
                weight = chances[:, label, None]
                sums[2] += weight * back.square()
                back = (back @ three.weight) * (k > 0)
                sums[1] += weight * back.square()
                back = (back @ two.weight) * (h > 0)
                sums[0] += weight * back.square()
            for at, (given, back) in enumerate(zip((x, h, k), sums, strict=True)):
                found[2 * at] += back.T @ given.square() / len(pictures)
                found[2 * at + 1] += back.sum(0) / len(pictures)
    return found


def avalanche_tensors(method: str, steps: int, pictures: Tensor, labels: Tensor) -> float:
    """Images a CPU second of Avalanche's training of the same steps on tensors in memory, or ImportError."""
    from avalanche.benchmarks import tensors_benchmark

    each = steps // CONTEXTS * BATCH
    sets = []
    for context in range(CONTEXTS):
        own = torch.isin(labels, torch.tensor([2 * context, 2 * context + 1])).nonzero().flatten()
        rows = own[torch.randint(len(own), (each,))]
        sets.append((pictures[rows].float().div_(255), labels[rows]))
    made = tensors_benchmark(train_tensors=sets, test_tensors=sets[:1], task_labels=[0] * CONTEXTS)
    return trained_by_avalanche(method, made.train_stream)


def avalanche_as_shipped(method: str, data_dir: str) -> float:
    """The same of its own benchmark with its own defaults, one pass over all training pictures."""
    from avalanche.benchmarks.classic import SplitFMNIST

    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for file in (Path(data_dir) / "fashion_mnist").glob("*.gz"):
            (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        stream = SplitFMNIST(n_experiences=CONTEXTS, dataset_root=folder, seed=0).train_stream
        return trained_by_avalanche(method, stream)


def trained_by_avalanche(method: str, stream: Any) -> float:
    """Images a CPU second of one of its strategies over a stream, an epoch an experience."""
    from avalanche.training.supervised import DER, EWC, Naive, Replay

    torch.manual_seed(0)
    model = network()
    common = {"model": model, "optimizer": torch.optim.Adam(model.parameters(), lr=0.001), "train_mb_size": BATCH}
    common |= {"criterion": nn.CrossEntropyLoss(), "train_epochs": 1, "evaluator": None}
    strategy = {
        "finetune": lambda: Naive(**common),
        "ewc": lambda: EWC(**common, ewc_lambda=1e3),
        "replay": lambda: Replay(**common, mem_size=MEMORY),
        "der_plus_plus": lambda: DER(**common, mem_size=MEMORY, alpha=0.2, beta=0.5),
    }[method]()
    images, begun = 0, time.process_time()
    for experience in stream:
        strategy.train(experience, num_workers=0)
        images += len(experience.dataset)
    return images / (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="of the whole stream")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--without", default="", help='columns to leave out, e.g. "tensors,as shipped"')
    parser.add_argument("--data-dir", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    held = [declare_operators()]  # as long as the program runs
    data_dir = options.data_dir or os.environ.get("FOURFOLD_DATA", "data")
    train = idx(data_dir, 0, "fashion_mnist").train
    images = options.steps // CONTEXTS * CONTEXTS * BATCH
    peers: dict[str, Callable[[str], float]] = {
        "ours": lambda method: images / ours(method, options.steps, data_dir),
        "bare": lambda method: images / bare(method, options.steps, train.inputs, train.targets),
        "tensors": lambda method: avalanche_tensors(method, options.steps, train.inputs, train.targets),
        "as shipped": lambda method: avalanche_as_shipped(method, data_dir),
    }
    peers = {name: run for name, run in peers.items() if name not in options.without.split(",")}
    print(f"{options.steps} steps of {BATCH}, {options.pairs} rounds, torch {torch.__version__}, images a CPU second")
    print("".join(f"{name:>14}" for name in ("method", *peers, *RATIOS)))
    for method in options.methods.split(","):
        rates, why = measured(method, dict(peers), options.pairs)
        shown = [f"{statistics.median(rates[name]):14.0f}" if rates[name] else f"{'-':>14}" for name in peers]
        for one, other in (pair.split("/") for pair in RATIOS):
            pairs = [a / b for a, b in zip(rates.get(one, []), rates.get(other, []), strict=False)]
            shown.append(f"{statistics.median(pairs):14.2f}" if pairs else f"{'-':>14}")
        print(f"{method:>14}{''.join(shown)}{f'   {why}' if why else ''}", flush=True)
    assert held


def measured(method: str, peers: dict[str, Callable[[str], float]], rounds: int) -> tuple[dict[str, list[float]], str]:
    """The rates of each peer, one a round, and why a peer that is left out could not be measured."""
    rates: dict[str, list[float]] = {name: [] for name in peers}
    why = ""
    for _ in range(rounds):
        for name, run in list(peers.items()):
            try:
                rates[name].append(run(method))
            except ImportError as error:
                why = f"{name}: not measured: {error}"
                del peers[name]
    return rates, why


if __name__ == "__main__":
    main()
