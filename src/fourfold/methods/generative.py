"""Deep generative replay: what is past is drawn from a model of it."""

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
from fourfold.methods.finetune import Finetune, masked
from fourfold.methods.replay import shares
from fourfold.randomness import seed_of
from fourfold.settings.stream import Observation, View


class VariationalAutoencoder(nn.Module):
    """q(z|x) = N(mean(x), exp(log_variance(x))), p(z) = N(0, 1), p(x|z) Bernoulli (Kingma & Welling 2014).

    Inputs in [0, 1] of any ``shape``; noise is given, so that a draw can be repeated.
    """

    def __init__(self, shape: Sequence[int], hidden: Sequence[int], latent: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.latent = latent
        pixels = math.prod(shape)
        self.encoder = layers([pixels, *hidden])
        self.mean = nn.Linear(hidden[-1], latent)
        self.log_variance = nn.Linear(hidden[-1], latent)
        self.decoder = decoder(pixels, hidden, latent)

    def loss(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """-log p(x|z) + KL(q(z|x) || p(z)) of each sample, [batch]; noise [batch, latent]."""
        flat = inputs.flatten(1)
        code = self.encoder(flat)
        mean, log_variance = self.mean(code), self.log_variance(code)
        return evidence_bound(flat, self.decoder(drawn(mean, log_variance, noise)), mean, log_variance)

    def forward(self, noise: Tensor) -> Tensor:
        """Inputs drawn from the model: [batch, *shape]."""
        return self.decoder(noise).sigmoid().view(len(noise), *self.shape)


def drawn(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """A code of N(mean, exp(log_variance)), from standard normal noise of the same shape."""
    return mean + noise * (0.5 * log_variance).exp()


def evidence_bound(inputs: Tensor, logits: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """-log p(x|z) + KL(q(z|x) || p(z)) of each sample, [batch].

    inputs, logits [batch, pixels]; mean, log_variance [batch, latent].
    """
    missed = F.binary_cross_entropy_with_logits(logits, inputs, reduction="none").sum(1)
    return missed + 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def decoder(pixels: int, hidden: Sequence[int], latent: int) -> nn.Sequential:
    """Codes to the logits of pixels, through the encoder's layers in reverse."""
    return nn.Sequential(layers([latent, *reversed(hidden)]), nn.Linear(hidden[0], pixels))


def layers(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of these sizes, each followed by a ReLU."""
    found: list[nn.Module] = []
    for into, out in pairwise(sizes):
        found += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*found)


class GenerativeReplay(Finetune):
    """Deep generative replay (Shin et al. 2017), with soft targets DGR+distill (van de Ven & Tolias 2018).

    A variational autoencoder learns the inputs beside the network. In context t both learn from 1/t of what comes and
    1 - 1/t of inputs that the autoencoder of context t - 1 draws, labelled by the network of context t - 1: by its best
    output, or (``distill``) by all of them at a temperature. Where tasks are told at test, a drawn input belongs to a
    past task drawn at random. Inputs must lie in [0, 1]. The autoencoder learns by backpropagation, whatever the rule.
    """

    def __init__(self, hidden: list[int], latent: int, learning_rate: float, distill: bool, temperature: float) -> None:
        self.hidden, self.latent, self.rate = hidden, latent, learning_rate
        self.distill = distill
        self.temperature = temperature
        self.contexts_begun = 0
        self.replayed: Tensor | None = None

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        if benchmark.sets is None or not isinstance(benchmark.sets.shape, tuple):
            raise Refused(f"method: {benchmark.name} has no inputs of one shape that a generator could learn")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(run.seed, "generator"))
            model = VariationalAutoencoder(benchmark.sets.shape, self.hidden, self.latent)
        self.generator = model.to(self.device)
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), lr=self.rate)
        self.teacher, self.past = Teacher(), Teacher()
        self.seen_before: Tensor | None = None
        self.noise = run.generator("noise")
        self.tasks_seen = torch.zeros(view.tasks or 0, dtype=torch.bool, device=self.device)
        self.tasks_past: list[int] = []

    def begin_context(self, number: int) -> None:
        self.contexts_begun += 1

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        if self.task_outputs is not None:
            self.tasks_seen[observation.task] = True
        loss = super().observe(observation, prediction)
        with self.run.meter.phase("generator"):
            self._train_generator(observation.inputs)
        return loss

    def weights(self) -> tuple[float, float]:
        share = 1 / max(1, self.contexts_begun)
        return share, 1 - share

    def terms(self, observation: Observation) -> Iterator[Term]:
        self.replayed = None
        if self.teacher.network is None:
            yield from super().terms(observation)
            return
        count = len(observation.targets)
        self.replayed = self.past(self._noise(count))
        allowed = self._past_outputs(count)
        taught = self.teacher(self.replayed)
        labels = (taught if allowed is None else taught.masked_fill(~allowed, -1e9)).argmax(1)
        mask = self.mask(observation)
        new, old = self.weights()
        weights = shares((new, count), (old, count), device=self.device)

        def replay_loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
            fresh = masked(loss_of, mask)(outputs[:count], targets[:count], reduction="none")
            student = allowed if self.task_outputs is not None else mask
            if self.distill:
                dreamt = distance(outputs[count:], taught, student, allowed, self.temperature)
            else:
                dreamt = masked(loss_of, student)(outputs[count:], targets[count:], reduction="none")
            losses = torch.cat([fresh, dreamt]) * weights
            return losses if reduction == "none" else losses.sum()

        for term in self.objective.terms(self.network, observation):
            loss_of: LossOf = term.loss_of
            inputs = torch.cat([term.inputs, self.replayed])
            yield Term(term.group, inputs, torch.cat([term.targets, labels]), replay_loss)

    def _past_outputs(self, count: int) -> Tensor | None:
        """Which outputs a drawn input can have: those seen before, or those of a past task drawn for each."""
        if self.task_outputs is None:
            return self.seen_before
        drawn = torch.randint(len(self.tasks_past), (count,), generator=self.noise)
        return self.task_outputs[torch.tensor(self.tasks_past)[drawn].to(self.device)]

    def _train_generator(self, inputs: Tensor) -> None:
        new, old = self.weights()
        parts = [(inputs, new)] if self.replayed is None else [(inputs, new), (self.replayed, old)]
        self.generator_optimizer.zero_grad(set_to_none=True)
        loss = torch.stack([w * self.generator.loss(x, self._noise(len(x))).mean() for x, w in parts]).sum()
        loss.backward()
        self.generator_optimizer.step()

    def _noise(self, count: int) -> Tensor:
        return torch.randn(count, self.latent, generator=self.noise).to(self.device)

    def end_context(self, experience: Experience) -> None:
        self.teacher.take(self.network)
        self.past.take(self.generator)
        self.seen_before = None if self.seen is None else self.seen.clone()
        self.tasks_past = self.tasks_seen.nonzero().flatten().tolist()

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "generator": self.generator.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "teacher": self.teacher.state_dict(),
            "past": self.past.state_dict(),
            "seen_before": self.seen_before,
            "noise": self.noise.get_state(),
            "tasks_seen": self.tasks_seen,
            "tasks_past": self.tasks_past,
            "contexts_begun": self.contexts_begun,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.load_state_dict(state["generator"])
        self.generator_optimizer.load_state_dict(state["generator_optimizer"])
        self.teacher.load_state_dict(state["teacher"], self.network)
        self.past.load_state_dict(state["past"], self.generator)
        self.seen_before = state["seen_before"]
        self.noise.set_state(state["noise"])
        self.tasks_seen.copy_(state["tasks_seen"])
        self.tasks_past = state["tasks_past"]
        self.contexts_begun = state["contexts_begun"]
