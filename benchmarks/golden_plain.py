"""The golden table's rows in plain PyTorch, with none of our methods: how far they move from order to order and from
start to start.

    FOURFOLD_DATA=... OMP_NUM_THREADS=1 python benchmarks/golden_plain.py --method ewc --order 3 [--starts 12]
    FOURFOLD_DATA=... OMP_NUM_THREADS=1 python benchmarks/golden_plain.py --method si_total --setting domain --order 2

Fashion-MNIST with a class order, the network, the optimizer and the strengths of the golden table; the mathematics as
in the reference's code. The order stays, the start and the batches change. EWC's Fisher information is found sample by
sample. ``si`` follows the gradient of the loss along the path, ``si_total`` that of the loss and the penalty.
"""

import argparse
import copy
import os
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from golden import class_order
from torch import Tensor, nn

from fourfold.data.idx import idx

STEPS, BATCH, SAMPLES, REMEMBERED, TEMPERATURE = 2000, 128, 1000, 100, 2.0
STRENGTH = {("ewc", "task"): 1e5, ("ewc", "domain"): 1e10, ("si", "task"): 10.0, ("si", "domain"): 5e4}
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


class Finetune:
    """A network that learns one context after the other; what is done against forgetting is a subclass's."""

    def __init__(self, setting: str, count: int) -> None:
        outputs = 2 * count if setting == "task" else 2
        self.heads = [slice(2 * k, 2 * k + 2) if setting == "task" else slice(0, 2) for k in range(count)]
        layers = [nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, outputs)]
        self.network = nn.Sequential(*layers)
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, 1e-3)
        self.strength = STRENGTH.get((type(self).__name__.lower(), setting), 0.0)
        self.number = 0  # of the context being learned

    def learn(self, training: Pair) -> None:
        for _, (inputs, labels) in zip(range(STEPS), batches(training), strict=False):
            self.optimizer.zero_grad()
            self.loss(inputs, labels).backward()
            self.step()
        self.remember(training)
        self.number += 1

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.network(inputs)[:, self.heads[self.number]], labels)

    def step(self) -> None:
        self.optimizer.step()

    def remember(self, training: Pair) -> None:
        """At the end of a context."""

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]

    def values(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def accuracy(self, samples: Pair, context: int) -> float:
        scores = self.network(samples[0])[:, self.heads[context]]
        return 100 * float((scores.argmax(1) == samples[1]).float().mean())


class EWC(Finetune):
    def __init__(self, setting: str, count: int) -> None:
        super().__init__(setting, count)
        self.penalties: list[tuple[list[Tensor], list[Tensor]]] = []  # (importance, anchor) of each past context

    def step(self) -> None:
        for importance, anchor in self.penalties:
            for p, gradient, held, kept in zip(self.parameters, self.gradients(), importance, anchor, strict=True):
                gradient.add_(held * (p.detach() - kept), alpha=self.strength)
        super().step()

    def remember(self, training: Pair) -> None:
        self.penalties.append((self.information(training), self.values()))
        if self.number == 0:
            print(f"trace of F {sum(float(v.sum()) for v in self.penalties[0][0]):.1e}", end="; ")

    def information(self, samples: Pair) -> list[Tensor]:
        """The diagonal Fisher information, each sample by itself, over both labels."""
        total = [torch.zeros_like(p) for p in self.parameters]
        for row in torch.randperm(len(samples[1]))[:SAMPLES]:
            scores = self.network(samples[0][row : row + 1])[:, self.heads[self.number]]
            for label, probable in enumerate(scores.detach().softmax(1)[0]):
                loss = F.cross_entropy(scores, torch.tensor([label]))
                found = torch.autograd.grad(loss, self.parameters, retain_graph=label == 0)
                for value, gradient in zip(total, found, strict=True):
                    value.add_(probable * gradient**2, alpha=1 / SAMPLES)
        return total


class SI(Finetune):
    total = False

    def __init__(self, setting: str, count: int) -> None:
        super().__init__(setting, count)
        self.importance = [torch.zeros_like(p) for p in self.parameters]
        self.path = [torch.zeros_like(p) for p in self.parameters]
        self.anchor = self.values()

    def step(self) -> None:
        before, followed = self.values(), [gradient.clone() for gradient in self.gradients()]
        for p, gradient, held, kept in zip(
            self.parameters, self.gradients(), self.importance, self.anchor, strict=True
        ):
            gradient.add_(held * (p.detach() - kept), alpha=2 * self.strength)
        if self.total:
            followed = [gradient.clone() for gradient in self.gradients()]
        super().step()
        for path, gradient, p, old in zip(self.path, followed, self.parameters, before, strict=True):
            path.sub_(gradient * (p.detach() - old))

    def remember(self, training: Pair) -> None:
        for held, path, p, kept in zip(self.importance, self.path, self.parameters, self.anchor, strict=True):
            held.add_(path / ((p.detach() - kept) ** 2 + 0.1))
            path.zero_()
        self.anchor = self.values()


class SITotal(SI):
    total = True

    def __init__(self, setting: str, count: int) -> None:
        super().__init__(setting, count)
        self.strength = STRENGTH["si", setting]


class LwF(Finetune):
    """As many times the mean distillation of the past heads as contexts are past, without the factor T^2."""

    past: nn.Module

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = super().loss(inputs, labels)
        if self.number == 0:
            return loss
        scores = self.network(inputs)
        with torch.no_grad():
            said = self.past(inputs)
        for head in self.heads[: self.number]:
            old, new = said[:, head] / TEMPERATURE, scores[:, head] / TEMPERATURE
            loss = loss - (old.softmax(1) * new.log_softmax(1)).sum(1).mean()
        return loss

    def remember(self, training: Pair) -> None:
        self.past = copy.deepcopy(self.network)


class AGEM(Finetune):
    """The memory has 100 samples of each class; its batch has as many of each past context."""

    def __init__(self, setting: str, count: int) -> None:
        super().__init__(setting, count)
        self.memory: list[Pair] = []

    def step(self) -> None:
        if self.memory:
            self._project([gradient.clone() for gradient in self.gradients()])
        super().step()

    def _project(self, new: list[Tensor]) -> None:
        self.optimizer.zero_grad()
        losses = []
        for head, (inputs, labels) in zip(self.heads, self.memory, strict=False):
            rows = torch.randperm(len(labels))[: -(-BATCH // len(self.memory))]
            losses.append(F.cross_entropy(self.network(inputs[rows])[:, head], labels[rows]))
        (sum(losses, torch.zeros(())) / len(losses)).backward()
        old = [gradient.clone() for gradient in self.gradients()]
        along = sum(float((a * b).sum()) for a, b in zip(new, old, strict=True))
        square = sum(float(b.square().sum()) for b in old)  # 0 where all that is remembered is certain
        share = min(0.0, along) / square if square else 0.0
        for gradient, a, b in zip(self.gradients(), new, old, strict=True):
            gradient.copy_(a - share * b)

    def remember(self, training: Pair) -> None:
        inputs, labels = training
        rows = torch.cat([torch.nonzero(labels == label).flatten()[:REMEMBERED] for label in (0, 1)])
        self.memory.append((inputs[rows], labels[rows]))


METHODS = {"finetune": Finetune, "ewc": EWC, "si": SI, "si_total": SITotal, "lwf": LwF, "a_gem": AGEM}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--setting", choices=("task", "domain"), default="task")
    parser.add_argument("--order", type=int, default=3, help="the seed whose class order is taken")
    parser.add_argument("--starts", type=int, default=1, help="how many starts")
    options = parser.parse_args()
    streams = contexts(class_order(options.order))
    for start in range(options.starts):
        torch.manual_seed(start)
        print(f"{options.method} {options.setting} order {options.order} start {start}: ", end="", flush=True)
        method = METHODS[options.method](options.setting, len(streams))
        for number, (training, _) in enumerate(streams):
            method.learn(training)
            if number < 2:
                print(f"first context {method.accuracy(streams[0][1], 0):.1f}", end="; ")
        last = [method.accuracy(test, number) for number, (_, test) in enumerate(streams)]
        print(f"all {', '.join(f'{value:.1f}' for value in last)}; mean {sum(last) / len(last):.1f}", flush=True)


if __name__ == "__main__":
    main()
