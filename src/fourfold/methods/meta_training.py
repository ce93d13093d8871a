"""Training before the stream: MAML on tasks of the classes that are kept for it (Finn, Abbeel & Levine 2017)."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.benchmarks.interface import LossOf
from fourfold.experience import Experience, Run, Tasks
from fourfold.methods.inner_loop import losses_of_tasks
from fourfold.methods.kept_weights import load, place, save

Judge = Callable[[Tensor, Tensor], Tensor]  # outputs and targets of one task -> score []


@dataclass(frozen=True)
class Pretraining:
    """How to train before the stream; for how long at most, the benchmark says.

    tasks: of a meta-batch; patience: epochs without a better score on the validation classes before it ends; queries:
    samples a class and task to judge by; vectorised: "auto" (on an accelerator), "on" or "off": the tasks of a
    meta-batch at once or one after another; keep: a folder of results to take it from, or to add it to.
    """

    tasks: int
    patience: int
    queries: int
    vectorised: str
    keep: str | None = None
    validation_tasks: int = 40


class Progress:
    """How far a pre-training is, beside what it trains and the optimizer: so it goes on where it was interrupted.

    scores: on the validation classes, of each epoch; best: the score, weights and step sizes of the best one; since:
    epochs after it.
    """

    def __init__(self) -> None:
        self.epochs = self.since = 0
        self.scores: list[float] = []
        self.best: tuple[float, dict[str, Tensor], dict[str, Tensor]] | None = None
        self.seconds, self.started = 0.0, time.perf_counter()

    def spent(self) -> float:
        """Seconds of it so far, in this process and in those before."""
        return self.seconds + time.perf_counter() - self.started

    def judged(self, score: float, values: Mapping[str, Tensor], rates: Mapping[str, Tensor]) -> None:
        """An epoch was judged."""
        self.scores.append(score)
        self.since += 1
        if self.best is None or score > self.best[0]:
            self.best, self.since = (score, _copied(values), _copied(rates)), 0

    def state_dict(self) -> dict[str, Any]:
        best = None if self.best is None else list(self.best)
        told = {"epochs": self.epochs, "since": self.since, "scores": self.scores}
        return {**told, "best": best, "seconds": self.spent()}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Progress":
        found = cls()
        found.epochs, found.since, found.scores = int(state["epochs"]), int(state["since"]), list(state["scores"])
        found.best = None if state["best"] is None else tuple(state["best"])
        found.seconds = float(state["seconds"])
        return found


def meta_train(
    experience: Experience,
    run: Run,
    plan: Pretraining,
    network: nn.Module,
    loss_of: LossOf,
    rates: Mapping[str, Tensor],
    optimizer: Any,
    progress: Progress,
    *,
    steps: int,
    adapted: tuple[str, ...],
    first_order: bool,
) -> None:
    """Trains the network's parameters (and those rates that the optimizer has) in place; the best epoch is kept.

    An epoch is as good as its mean score on tasks of the validation classes, the same ones each time; where there are
    none, the last epoch stays; no gradient does. ``progress`` is where to begin. Tells the record how it went.
    """
    values: dict[str, nn.Parameter] = dict(network.named_parameters())
    vectorised = plan.vectorised == "on" or (plan.vectorised == "auto" and run.engine.device.type != "cpu")
    if plan.keep is not None:
        recipe = [run.recipe.model, run.recipe.data, run.recipe.optimizer, run.recipe.precision]
        plain = {name: value for name, value in vars(plan).items() if name not in ("keep", "vectorised")}
        decides = [plain, run.benchmark.name, recipe, run.seed, steps, adapted, first_order]
        begun = {name: (float(rate.detach()), rate.requires_grad) for name, rate in rates.items()}  # learned, or not
        path = place(plan.keep, {"decides": [*decides, experience.episodes.ways, experience.episodes.shots, begun]})
        told = load(path, values, rates)
        if told is not None:
            run.findings["pretraining"] = {**told, "kept": True}
            return
    how: dict[str, Any] = {"steps": steps, "adapted": adapted, "vectorised": vectorised}
    epochs, batches = experience.episodes.epochs, experience.episodes.batches
    for number in run.keeper.counted(epochs * batches):
        tasks = _tensors(experience.tasks("train", number, plan.tasks, plan.queries))
        losses, _ = losses_of_tasks(network, loss_of, dict(values), rates, tasks, first_order=first_order, **how)
        optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()
        optimizer.step()
        if (number + 1) % batches:
            continue
        progress.epochs += 1
        score = _validate(experience, run, plan, network, loss_of, rates, how)
        if score is not None:
            progress.judged(score, values, rates)
            if progress.since >= plan.patience:
                break
    optimizer.zero_grad(set_to_none=True)  # the stream adds to gradients: it must not begin with the last one here
    if progress.best is not None:
        _, best_values, best_rates = progress.best
        with torch.no_grad():
            for own, best in ((values, best_values), (rates, best_rates)):
                for name, value in best.items():
                    own[name].copy_(value)
    told = {"epochs": progress.epochs, "meta_batches": progress.epochs * batches, "validation": progress.scores}
    if not experience.episodes.validation:
        told["early_stopping"] = "none: no validation classes, or fewer than a task takes; the last epoch stays"
    run.findings["pretraining"] = told
    if plan.keep is not None:
        save(path, values, rates, {**told, "seconds": progress.spent()})


def _validate(
    experience: Experience, run: Run, plan: Pretraining, network: nn.Module, loss_of: LossOf, rates: Any, how: Any
) -> float | None:
    if not experience.episodes.validation:
        return None
    scores = []
    values = {name: value.detach() for name, value in network.named_parameters()}
    fixed = {name: value.detach() for name, value in rates.items()}
    for number in range(0, plan.validation_tasks, plan.tasks):
        tasks = _tensors(experience.tasks("validation", number, plan.tasks, plan.queries))
        with torch.no_grad():
            _, outputs = losses_of_tasks(network, loss_of, values, fixed, tasks, first_order=True, **how)
        scores += [run.benchmark.score(one, told) for one, told in zip(outputs, tasks[3], strict=True)]
    mean = float(torch.stack(scores).mean())
    return mean if run.benchmark.more_is_better else -mean


def _tensors(tasks: Tasks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tasks.support.inputs, tasks.support.targets, tasks.query.inputs, tasks.query.targets


def _copied(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in values.items()}
