"""Images a second of continual learning: finetune, ewc, replay, der_plus_plus, beside bare loops and Avalanche.

    FOURFOLD_DATA=... OMP_NUM_THREADS=1 python benchmarks/continual.py [--steps 500] [--pairs 3] [--methods A,B]
        [--without-avalanche]

Class-incremental Fashion-MNIST, 5 contexts of 2 classes, MLP 784-400-400-10, Adam 0.001, batch 128, one thread. Each
method is measured right before and after a bare PyTorch loop of the same work (batches, masks, remembered samples,
penalties; no evaluation, no record), turn by turn in one process; what is compared is CPU seconds of the learning, so
that other work on the machine disturbs little. Avalanche needs avalanche-lib and torchvision; where they are not
installed its column says so.
"""

import argparse
import contextlib
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fourfold
from fourfold.data.idx import idx

METHODS = ("finetune", "ewc", "replay", "der_plus_plus")
CONTEXTS, BATCH, MEMORY = 5, 128, 1000
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
        record = fourfold.run(words)
    assert record.state == "done", record.message
    return float(record.measurements["cpu_seconds"])


def bare(method: str, steps: int, pictures: Tensor, labels: Tensor) -> float:
    """CPU seconds of the same work in a plain loop: what a careful person writes for one method."""
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    seen = torch.zeros(10, dtype=torch.bool)
    kept_x = torch.zeros(MEMORY, *pictures.shape[1:], dtype=torch.uint8)
    kept_y, kept_z, offered = torch.zeros(MEMORY, dtype=torch.long), torch.zeros(MEMORY, 10), 0
    anchors: list[tuple[list[Tensor], list[Tensor]]] = []
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
            for means, fishers in anchors:
                for p, mean, fisher in zip(model.parameters(), means, fishers, strict=True):
                    p.grad.add_(fisher * (p.detach() - mean), alpha=1e3)  # type: ignore[union-attr]
            optimizer.step()
            if REMEMBERED[method]:
                numbers = torch.arange(offered, offered + len(y))
                places = torch.where(numbers < MEMORY, numbers, (torch.rand(len(y)) * (numbers + 1)).long())
                keep = places < MEMORY
                kept_x[places[keep]], kept_y[places[keep]] = pictures[rows][keep], y[keep]
                kept_z[places[keep]] = raw[: len(y)].detach()[keep]
                offered += len(y)
        if method == "ewc":
            anchors.append(
                ([p.detach().clone() for p in model.parameters()], fisher_of(model, pictures[own[:1000]], seen))
            )
    return time.process_time() - begun


def fisher_of(model: nn.Sequential, pictures: Tensor, seen: Tensor) -> list[Tensor]:
    """The exact diagonal Fisher information over the labels, a backward pass a label, samples side by side."""
    named = dict(model.named_parameters())

    def loss(values: dict[str, Tensor], x: Tensor, label: Tensor) -> Tensor:
        scores = torch.func.functional_call(model, values, (x[None],)).masked_fill(~seen, -1e9)
        return F.cross_entropy(scores, label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    found = {name: torch.zeros_like(p) for name, p in named.items()}
    for part in pictures.split(100):
        x = part.float().div_(255)
        weights = model(x).masked_fill(~seen, -1e9).softmax(1).detach()
        for label in seen.nonzero().flatten().tolist():
            gradients = each(named, x, torch.full((len(x),), label))
            for name, g in gradients.items():
                found[name] += torch.einsum("n,n...->...", weights[:, label], g.square()).detach() / len(pictures)
    return list(found.values())


def avalanche(method: str, steps: int, pictures: Tensor, labels: Tensor) -> float:
    """CPU seconds of Avalanche's training of the same steps, or ImportError."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.training.supervised import DER, EWC, Naive, Replay
    from torch.utils.data import TensorDataset

    each = steps // CONTEXTS * BATCH
    sets = []
    for context in range(CONTEXTS):
        own = torch.isin(labels, torch.tensor([2 * context, 2 * context + 1])).nonzero().flatten()
        rows = own[torch.randint(len(own), (each,))]
        data = TensorDataset(pictures[rows].float().div_(255), labels[rows])
        data.targets = labels[rows].tolist()  # type: ignore[attr-defined]
        sets.append(as_classification_dataset(data))
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
    benchmark = benchmark_from_datasets(train=sets)
    begun = time.process_time()
    for experience in benchmark.train_stream:
        strategy.train(experience, num_workers=0)
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="of the whole stream")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--without-avalanche", action="store_true")
    parser.add_argument("--data-dir", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    held = [declare_operators()]  # as long as the program runs
    data_dir = options.data_dir or os.environ.get("FOURFOLD_DATA", "data")
    train = idx(data_dir, 0, "fashion_mnist").train
    peers: dict[str, Callable[[str], float]] = {
        "ours": lambda method: ours(method, options.steps, data_dir),
        "bare": lambda method: bare(method, options.steps, train.inputs, train.targets),
    }
    if not options.without_avalanche:
        peers["avalanche"] = lambda method: avalanche(method, options.steps, train.inputs, train.targets)
    assert held
    images = options.steps // CONTEXTS * CONTEXTS * BATCH
    print(f"{options.steps} steps of {BATCH}, {options.pairs} rounds, torch {torch.__version__}, images a CPU second")
    print(f"{'method':15}{'ours':>9}{'bare':>9}{'avalanche':>11}{'ours/bare':>11}{'ours/avalanche':>16}")
    for method in options.methods.split(","):
        spent: dict[str, list[float]] = {name: [] for name in peers}
        why = ""
        for _ in range(options.pairs):
            for name, run in list(peers.items()):
                try:
                    spent[name].append(run(method))
                except ImportError as error:
                    why = f"avalanche not measured: {error}"
                    del peers[name]
        rates = {name: images / statistics.median(values) for name, values in spent.items() if values}
        ratios = [b / a for a, b in zip(spent["ours"], spent["bare"], strict=True)]
        other = [b / a for a, b in zip(spent["ours"], spent.get("avalanche", []), strict=False)]
        shown = f"{rates['avalanche']:11.0f}" if other else f"{'-':>11}"
        line = f"{method:15}{rates['ours']:9.0f}{rates['bare']:9.0f}{shown}{statistics.median(ratios):11.2f}"
        print(
            line + (f"{statistics.median(other):16.2f}" if other else f"{'-':>16}") + (f"   {why}" if why else ""),
            flush=True,
        )


if __name__ == "__main__":
    main()
