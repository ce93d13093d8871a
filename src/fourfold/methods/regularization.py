"""Methods that hold on to parameters that mattered."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Experience, Run
from fourfold.methods.finetune import Finetune
from fourfold.methods.gradients import sum_of_powers, trained
from fourfold.settings.stream import Observation, View

FISHER_BATCH = 50  # samples whose gradients are held at once

Values = dict[str, Tensor]  # one tensor for each trained parameter, by its name


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

    def replace(self, importance: Mapping[str, Tensor]) -> None:
        """One importance for all that is past, with the anchor where the parameters are now."""
        self.importance = dict(importance)
        self.anchor = {name: p.detach().clone() for name, p in self.parameters.items()}

    def gradients(self) -> Iterator[tuple[nn.Parameter, Tensor, Tensor]]:
        """The penalty's gradient F (p - a) with respect to each parameter p, in its two factors: (p, F, p - a)."""
        for name, parameter in self.parameters.items():
            yield parameter, self.importance[name], parameter.detach() - self.anchor[name]

    def state_dict(self) -> dict[str, Any]:
        return {"importance": self.importance, "anchor": self.anchor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.importance = dict(state["importance"])
        self.anchor = dict(state["anchor"])


class Penalised(Finetune):
    """loss + strength/2 sum_i F_i (p_i - a_i)^2; what F is, and when it changes, is the subclass's."""

    strength: float
    contexts_ended = 0

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.penalty = QuadraticPenalty(trained(self.network))

    def after_gradients(self) -> None:
        if self.contexts_ended and self.strength:
            for parameter, importance, moved in self.penalty.gradients():
                self.run.engine.add_gradient(parameter, moved, importance, self.strength)

    def end_context(self, experience: Experience) -> None:
        with self.run.meter.phase("consolidation"):
            self.consolidate(experience)
        self.contexts_ended += 1

    def consolidate(self, experience: Experience) -> None:
        """Changes the penalty after a context."""
        raise NotImplementedError

    def allowed(self, observation: Observation) -> Tensor:
        """[batch, outputs]: the outputs that can be right."""
        mask = self.mask(observation)
        rows = torch.ones(len(observation.targets), self.view.outputs, dtype=torch.bool, device=self.device)
        return rows if mask is None else rows & mask

    def zeros(self) -> Values:
        return {name: torch.zeros_like(p) for name, p in self.penalty.parameters.items()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "penalty": self.penalty.state_dict(), "contexts_ended": self.contexts_ended}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.penalty.load_state_dict(state["penalty"])
        self.contexts_ended = state["contexts_ended"]


class EWC(Penalised):
    """Elastic weight consolidation (Kirkpatrick et al. 2017): loss + strength/2 sum_k F_k (p - p_k)^2.

    F_k is the diagonal of the Fisher information after context k, E_x E_y (d log p(y|x) / dp)^2, on ``samples``
    inputs; y is integrated out (exact), drawn from the model (sampled), or the true label (empirical).
    """

    def __init__(self, strength: float, fisher: str, samples: int) -> None:
        self.strength = strength
        self.fisher = fisher
        self.samples = samples

    def consolidate(self, experience: Experience) -> None:
        self.penalty.add(self.information(experience))

    def information(self, experience: Experience) -> Values:
        """The diagonal Fisher information of the network on an experience, averaged over samples."""
        total = self.zeros()
        count = 0
        self.mode(training=False)
        draw = self.run.generator("fisher labels", self.contexts_ended)
        for observation in experience.sample(self.samples, "fisher", FISHER_BATCH):
            allowed = self.allowed(observation)
            for name, squares in self._squares(observation.inputs, observation.targets, allowed, draw).items():
                total[name] += squares
            count += len(observation.targets)
        self.mode(training=True)
        return {name: value / max(1, count) for name, value in total.items()}

    def _squares(self, inputs: Tensor, targets: Tensor, allowed: Tensor, draw: torch.Generator) -> Values:
        """Sum over samples of the squared gradients of log p(y|x), weighted by how probable y is."""
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
        each = [(label, allowed) for label in labels.T]
        return sum_of_powers(self.network, log_probability, 2, weights, inputs, each)


class OnlineEWC(EWC):
    """Online EWC (Schwarz et al. 2018): one running Fisher information, F <- decay F + F_t, at the last optimum."""

    def __init__(self, strength: float, fisher: str, samples: int, decay: float) -> None:
        super().__init__(strength, fisher, samples)
        self.decay = decay

    def consolidate(self, experience: Experience) -> None:
        new = self.information(experience)
        self.penalty.replace({name: self.decay * old + new[name] for name, old in self.penalty.importance.items()})


class MAS(Penalised):
    """Memory aware synapses (Aljundi et al. 2018): loss + strength sum_i O_i (p_i - p*_i)^2.

    O_i = sum over contexts of E_x |d |z(x)|^2 / d p_i|, z the outputs; labels are not used.
    """

    def __init__(self, strength: float, samples: int) -> None:
        self.strength = 2 * strength  # of 1/2 the penalty
        self.samples = samples

    def consolidate(self, experience: Experience) -> None:
        new = self.sensitivity(experience)
        self.penalty.replace({name: old + new[name] for name, old in self.penalty.importance.items()})

    def sensitivity(self, experience: Experience) -> Values:
        """E_x |d |z(x)|^2 / dp| over the outputs that can be right."""
        total = self.zeros()
        count = 0
        self.mode(training=False)
        for observation in experience.sample(self.samples, "sensitivity", FISHER_BATCH):
            once, each = torch.ones(len(observation.targets), 1, device=self.device), [(self.allowed(observation),)]
            found = sum_of_powers(self.network, squared_norm, 1, once, observation.inputs, each)
            for name, values in found.items():
                total[name] += values
            count += len(observation.targets)
        self.mode(training=True)
        return {name: value / max(1, count) for name, value in total.items()}


class PathPenalised(Penalised):
    """What SI and RWalk share: the loss is followed along the path of each parameter, -g_i (p_i' - p_i) a step.

    g is the gradient of the loss alone, or of the total: the loss and the penalty.
    """

    path_of = "loss"

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.path = self.zeros()
        self.gradient: Values = {}

    def after_gradients(self) -> None:
        if self.path_of == "total":
            super().after_gradients()
        scale = self.run.engine.gradient_scale()
        self.gradient = {name: p.grad / scale for name, p in self.penalty.parameters.items() if p.grad is not None}
        if self.path_of == "loss":
            super().after_gradients()

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        before = {name: p.detach().clone() for name, p in self.penalty.parameters.items()}
        loss = super().observe(observation, prediction)
        for name, gradient in self.gradient.items():
            self.follow(name, gradient, self.penalty.parameters[name].detach() - before[name])
        return loss

    def follow(self, name: str, gradient: Tensor, change: Tensor) -> None:
        """Takes account of one step of a parameter."""
        self.path[name].addcmul_(gradient, change, value=-1)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "path": self.path}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.path = dict(state["path"])


class SI(PathPenalised):
    """Synaptic intelligence (Zenke, Poole & Ganguli 2017): loss + strength sum_i O_i (p_i - p*_i)^2.

    w_i = sum over a context's steps of -g_i (p_i' - p_i); at its end O_i += w_i / ((p_i - p*_i)^2 + damping).
    g is the gradient of the loss (the paper) or of the total, with the penalty (the code of van de Ven et al. 2022).
    """

    def __init__(self, strength: float, damping: float, path_of: str) -> None:
        self.strength = 2 * strength  # of 1/2 the penalty
        self.damping = damping
        self.path_of = path_of

    def consolidate(self, experience: Experience) -> None:
        importance = {}
        for name, parameter in self.penalty.parameters.items():
            moved = parameter.detach() - self.penalty.anchor[name]
            importance[name] = self.penalty.importance[name] + self.path[name] / (moved.square() + self.damping)
        self.penalty.replace(importance)
        self.path = self.zeros()


class RWalk(PathPenalised):
    """Riemannian walk (Chaudhry et al. 2018): loss + strength sum_i (F_i + s_i) (p_i - p*_i)^2.

    F is a moving average of squared gradients of batches (EWC++), F <- (1 - rate) F + rate g^2. The path's score
    s_i sums relu(-g_i dp_i) / (F_i dp_i^2 / 2 + damping) over stretches of ``stretch`` steps; at a context's end it is
    averaged with the earlier one. Both are scaled to a largest value of 1.
    """

    def __init__(self, strength: float, rate: float, stretch: int, damping: float) -> None:
        self.strength = 2 * strength
        self.rate = rate
        self.stretch = stretch
        self.damping = damping
        self.steps = 0

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.fisher, self.score, self.past_score = self.zeros(), self.zeros(), self.zeros()
        self.start = {name: p.detach().clone() for name, p in self.penalty.parameters.items()}

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        loss = super().observe(observation, prediction)
        self.steps += 1
        if self.steps % self.stretch == 0:
            self._close_stretch()
        return loss

    def follow(self, name: str, gradient: Tensor, change: Tensor) -> None:
        super().follow(name, gradient, change)
        self.fisher[name].lerp_(gradient.square(), self.rate)

    def _close_stretch(self) -> None:
        for name, parameter in self.penalty.parameters.items():
            moved = parameter.detach() - self.start[name]
            distance = 0.5 * self.fisher[name] * moved.square() + self.damping
            self.score[name] += self.path[name].clamp(min=0) / distance
            self.start[name] = parameter.detach().clone()
        self.path = self.zeros()

    def consolidate(self, experience: Experience) -> None:
        self._close_stretch()
        first = self.contexts_ended == 0
        for name, score in self.score.items():
            self.past_score[name] = score.clone() if first else 0.5 * (self.past_score[name] + score)
        fisher, past = to_one(self.fisher), to_one(self.past_score)
        self.penalty.replace({name: fisher[name] + past[name] for name in fisher})
        self.score = self.zeros()

    def state_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("steps", "fisher", "score", "past_score", "start")}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name in ("steps", "fisher", "score", "past_score", "start"):
            setattr(self, name, state[name])


def to_one(values: Mapping[str, Tensor]) -> Values:
    """All values divided by the largest of any parameter."""
    largest = torch.stack([value.max() for value in values.values()]).max().clamp(min=1e-30)
    return {name: value / largest for name, value in values.items()}


def log_probability(outputs: Tensor, label: Tensor, allowed: Tensor) -> Tensor:
    """log p(label) under the softmax over the allowed outputs, added up over the batch."""
    return -F.cross_entropy(outputs.masked_fill(~allowed, -1e9), label, reduction="sum")


def squared_norm(outputs: Tensor, allowed: Tensor) -> Tensor:
    """|z|^2 over the allowed outputs, added up over the batch."""
    return outputs.masked_fill(~allowed, 0.0).square().sum()
