"""Methods that hold on to parameters that mattered."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Experience, Run
from fourfold.methods.finetune import Finetune
from fourfold.settings.stream import View

FISHER_BATCH = 50  # samples whose gradients are held at once


class QuadraticPenalty:
    """1/2 sum_k sum_i F_ki (p_i - a_ki)^2 over past contexts k, kept as one importance and one anchor a parameter.

    sum_k F_k (p - a_k)^2 = F (p - a)^2 + constant, with F = sum F_k and a = sum F_k a_k / F.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self.importance = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.anchor = {name: p.detach().clone() for name, p in self.parameters.items()}

    def add(self, importance: Mapping[str, Tensor]) -> None:
        """Adds a context whose optimum is where the parameters are now."""
        for name, parameter in self.parameters.items():
            total = self.importance[name] + importance[name]
            share = torch.where(total > 0, importance[name] / total, torch.ones_like(total))
            self.anchor[name].add_(share * (parameter.detach() - self.anchor[name]))
            self.importance[name] = total

    def gradient(self, name: str) -> Tensor:
        """The penalty's gradient with respect to a parameter: F (p - a)."""
        return self.importance[name] * (self.parameters[name].detach() - self.anchor[name])

    def state_dict(self) -> dict[str, Any]:
        return {"importance": self.importance, "anchor": self.anchor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.importance = dict(state["importance"])
        self.anchor = dict(state["anchor"])


class EWC(Finetune):
    """Elastic weight consolidation (Kirkpatrick et al. 2017): loss + strength/2 sum_k F_k (p - p_k)^2.

    F_k is the diagonal of the Fisher information after context k, E_x E_y (d log p(y|x) / dp)^2, on ``samples``
    inputs; y is integrated out (exact), drawn from the model (sampled), or the true label (empirical).
    """

    def __init__(self, strength: float, fisher: str, samples: int) -> None:
        self.strength = strength
        self.fisher = fisher
        self.samples = samples
        self.contexts_ended = 0

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        trained = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self.penalty = QuadraticPenalty(trained)

    def after_gradients(self) -> None:
        if self.contexts_ended and self.strength:
            for name, parameter in self.penalty.parameters.items():
                self.run.engine.add_gradient(parameter, self.strength * self.penalty.gradient(name))

    def end_context(self, experience: Experience) -> None:
        with self.run.meter.phase("consolidation"):
            self.penalty.add(self.information(experience))
        self.contexts_ended += 1

    def information(self, experience: Experience) -> dict[str, Tensor]:
        """The diagonal Fisher information of the network on an experience, averaged over samples."""
        total = {name: torch.zeros_like(p) for name, p in self.penalty.parameters.items()}
        count = 0
        self.mode(training=False)
        draw = self.run.generator("fisher labels", self.contexts_ended)
        for observation in experience.sample(self.samples, "fisher", FISHER_BATCH):
            mask = self.mask(observation)
            rows = torch.ones(len(observation.targets), 1, dtype=torch.bool, device=self.device)
            allowed = rows.expand(-1, self.view.outputs) if mask is None else mask.expand(len(rows), -1)
            for name, squares in self._squares(observation.inputs, observation.targets, allowed, draw).items():
                total[name] += squares
            count += len(observation.targets)
        self.mode(training=True)
        return {name: value / max(1, count) for name, value in total.items()}

    def _squares(self, inputs: Tensor, targets: Tensor, allowed: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        """Sum over samples of the squared gradients of log p(y|x), weighted by how probable y is."""
        trained = {name: p.detach() for name, p in self.penalty.parameters.items()}
        with torch.no_grad():
            scores = self.network(inputs).masked_fill(~allowed, -1e9)
        probable = scores.softmax(1)
        if self.fisher == "empirical":
            labels, weights = targets[:, None], torch.ones_like(probable[:, :1])
        elif self.fisher == "sampled":
            labels = torch.multinomial(probable.cpu(), 1, generator=draw).to(self.device)
            weights = torch.ones_like(probable[:, :1])
        else:
            labels = torch.arange(scores.shape[1], device=self.device).expand(len(scores), -1)
            weights = probable
        squares = {name: torch.zeros_like(p) for name, p in trained.items()}
        each = vmap(grad(self._log_probability), in_dims=(None, 0, 0, 0), randomness="different")
        for column in range(labels.shape[1]):
            if not bool((weights[:, column] > 0).any()):
                continue
            gradients = each(trained, inputs, labels[:, column], allowed)
            for name, gradient in gradients.items():
                squares[name] += torch.einsum("b...,b->...", gradient.square_(), weights[:, column])
        return squares

    def _log_probability(self, parameters: dict[str, Tensor], inputs: Tensor, label: Tensor, allowed: Tensor) -> Tensor:
        scores = functional_call(self.network, parameters, (inputs[None],))
        scores = scores.masked_fill(~allowed[None], -1e9)
        return -F.cross_entropy(scores, label[None])

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "penalty": self.penalty.state_dict(), "contexts_ended": self.contexts_ended}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.penalty.load_state_dict(state["penalty"])
        self.contexts_ended = state["contexts_ended"]
