"""BI-R: the network itself draws what is past, by connections that run back from its features."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark, LossOf, Term
from fourfold.errors import Refused
from fourfold.experience import Experience, Run
from fourfold.methods.distillation import Teacher, distance
from fourfold.methods.features import caught_features, last_layer
from fourfold.methods.finetune import Finetune, masked
from fourfold.methods.replay import shares
from fourfold.randomness import generator, seed_of
from fourfold.settings.stream import Observation, View


class Feedback(nn.Module):
    """From features to a code, from a code and a class back to inputs: q(z|f), p(z|y), p(x|z, y).

    p(z|y) = N(prior_mean[y], exp(prior_log_variance[y])), learned; of each decoder layer a fixed share ``closed`` of
    the units is switched off for a class, others for another.
    """

    def __init__(
        self,
        width: int,
        shape: Sequence[int],
        hidden: Sequence[int],
        latent: int,
        classes: int,
        closed: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.mean = nn.Linear(width, latent)
        self.log_variance = nn.Linear(width, latent)
        self.prior_mean = nn.Parameter(torch.randn(classes, latent))
        self.prior_log_variance = nn.Parameter(torch.randn(classes, latent))
        sizes = [latent, *reversed(hidden)]
        self.layers = nn.ModuleList(nn.Linear(into, out) for into, out in pairwise(sizes))
        self.pixels = nn.Linear(sizes[-1], math.prod(shape))
        for number, units in enumerate(sizes[1:]):
            self.register_buffer(f"gate{number}", gates(classes, units, closed, seed, number))

    def loss(self, features: Tensor, inputs: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """(-log p(x|z, y) + KL(q(z|f) || p(z|y))) / pixels of each sample, [batch]; noise [batch, latent]."""
        flat = inputs.flatten(1)
        mean, log_variance = self.mean(features), self.log_variance(features)
        logits = self.decode(mean + noise * (0.5 * log_variance).exp(), labels)
        missed = F.binary_cross_entropy_with_logits(logits, flat, reduction="none").sum(1)
        wide, at = self.prior_log_variance[labels], self.prior_mean[labels]
        apart = wide - log_variance + (log_variance.exp() + (mean - at).square()) / wide.exp() - 1
        return (missed + 0.5 * apart.sum(1)) / flat.shape[1]

    def decode(self, codes: Tensor, labels: Tensor) -> Tensor:
        """The logits of the pixels, [batch, pixels]."""
        for number, layer in enumerate(self.layers):
            codes = layer(codes).relu() * getattr(self, f"gate{number}")[labels]
        return self.pixels(codes)

    def draw(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Inputs of these classes, [batch, *shape]."""
        codes = self.prior_mean[labels] + noise * (0.5 * self.prior_log_variance[labels]).exp()
        return self.decode(codes, labels).sigmoid().view(len(labels), *self.shape)


def gates(classes: int, units: int, closed: float, seed: int, layer: int) -> Tensor:
    """[classes, units] of 0 and 1: for each class another seeded choice of units is closed."""
    found = torch.ones(classes, units)
    for label in range(classes):
        draw = generator(seed, "decoder gates", layer, label)
        found[label, torch.randperm(units, generator=draw)[: round(closed * units)]] = 0
    return found


class BrainInspiredReplay(Finetune):
    """Brain-inspired replay (van de Ven, Siegelmann & Tolias 2020) of whole inputs.

    Replay through feedback, conditional on the class, with gates and distillation: in context t

        1/t (l(y, x) + v(x, y)) + (1 - 1/t) (T^2 KL(old || new)(x') + v(x', y'))

    v: ``reconstruction`` times ``Feedback.loss``; x' is drawn by the network and feedback of context t - 1, for classes
    y' of the past, all as likely. Without ``replay`` all weight is on what comes. The paper's replay of hidden features
    needs pre-trained layers below them: not here. Inputs in [0, 1].
    """

    def __init__(
        self, hidden: list[int], latent: int, closed: float, reconstruction: float, replay: bool, temperature: float
    ) -> None:
        self.hidden, self.latent, self.closed = hidden, latent, closed
        self.reconstruction, self.replay = reconstruction, replay
        self.temperature = temperature
        self.contexts_begun = 0

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        if benchmark.sets is None or not isinstance(benchmark.sets.shape, tuple):
            raise Refused(f"method: {benchmark.name} has no inputs of one shape that could be drawn")
        width = last_layer(self.network).in_features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(run.seed, "feedback"))
            feedback = Feedback(
                width, benchmark.sets.shape, self.hidden, self.latent, view.outputs, self.closed, run.seed
            )
        self.feedback = feedback.to(self.device)
        self.feedback_optimizer = run.engine.optimizer(list(self.feedback.parameters()), run.recipe.optimizer)
        self.teacher, self.past = Teacher(), Teacher()
        self.shown = torch.zeros(view.outputs, dtype=torch.bool, device=self.device)  # classes, also where shared
        self.shown_before = self.shown.clone()
        self.noise = run.generator("noise")

    def begin_context(self, number: int) -> None:
        self.contexts_begun += 1

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        self.shown[observation.targets] = True
        return super().observe(observation)  # its own forward pass, since the features of it are needed

    def terms(self, observation: Observation) -> Iterator[Term]:
        if not self.reconstruction and not (self.replay and self.past.network is not None):
            yield from super().terms(observation)
            return
        count = len(observation.targets)
        inputs, labels, taught, allowed = observation.inputs, observation.targets, None, None
        if self.replay and self.past.network is not None:
            drawn_labels = self._past_labels(count)
            drawn = self._draw(drawn_labels)
            taught = self.teacher(drawn)
            allowed = self._allowed(drawn_labels)
            inputs, labels = torch.cat([inputs, drawn]), torch.cat([labels, drawn_labels])
        mask = self.mask(observation)
        with caught_features(self.network) as caught:
            for term in self.objective.terms(self.network, observation):
                loss_of = self._loss_of(term.loss_of, caught, inputs, labels, count, mask, taught, allowed)
                yield Term(term.group, inputs, labels, loss_of)

    def _loss_of(
        self,
        loss_of: LossOf,
        caught: list[Tensor],
        inputs: Tensor,
        labels: Tensor,
        count: int,
        mask: Tensor | None,
        taught: Tensor | None,
        allowed: Tensor | None,
    ) -> LossOf:
        share = 1 / max(1, self.contexts_begun)
        old = len(labels) - count
        weights = shares((share if old else 1.0, count), (1 - share, old), device=self.device)
        noise = self._noise(len(labels))

        def whole_loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
            losses = masked(loss_of, mask)(outputs[:count], targets[:count], reduction="none")
            if taught is not None:
                student = allowed if self.task_outputs is not None else mask
                dreamt = distance(outputs[count:], taught, student, allowed, self.temperature)
                losses = torch.cat([losses, dreamt])
            if self.reconstruction:
                losses = losses + self.reconstruction * self.feedback.loss(caught[-1], inputs, labels, noise)
            losses = losses * weights
            return losses if reduction == "none" else losses.sum()

        return whole_loss

    def after_gradients(self) -> None:
        self.feedback_optimizer.step()
        self.feedback_optimizer.zero_grad(set_to_none=True)

    def _past_labels(self, count: int) -> Tensor:
        known = self.shown_before.nonzero().flatten()
        chosen = torch.randint(len(known), (count,), generator=self.noise)
        return known[chosen.to(self.device)]

    @torch.no_grad()
    def _draw(self, labels: Tensor) -> Tensor:
        assert isinstance(self.past.network, Feedback)
        return self.past.network.draw(labels, self._noise(len(labels)))

    def _allowed(self, labels: Tensor) -> Tensor | None:
        """The outputs that a drawn input can have: those of its class's task where tasks are told, else those seen."""
        if self.task_outputs is not None:
            return self.task_outputs[self.task_outputs[:, labels].int().argmax(0)]
        return None if self.seen is None else self.shown_before

    def _noise(self, count: int) -> Tensor:
        return torch.randn(count, self.latent, generator=self.noise).to(self.device)

    def end_context(self, experience: Experience) -> None:
        self.teacher.take(self.network)
        self.past.take(self.feedback)
        self.shown_before = self.shown.clone()

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "feedback": self.feedback.state_dict(),
            "feedback_optimizer": self.feedback_optimizer.state_dict(),
            "teacher": self.teacher.state_dict(),
            "past": self.past.state_dict(),
            "shown": self.shown,
            "shown_before": self.shown_before,
            "noise": self.noise.get_state(),
            "contexts_begun": self.contexts_begun,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.feedback.load_state_dict(state["feedback"])
        self.feedback_optimizer.load_state_dict(state["feedback_optimizer"])
        self.teacher.load_state_dict(state["teacher"], self.network)
        self.past.load_state_dict(state["past"], self.feedback)
        self.shown, self.shown_before = state["shown"], state["shown_before"]
        self.noise.set_state(state["noise"])
        self.contexts_begun = state["contexts_begun"]
