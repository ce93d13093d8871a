"""CN-DPM: a mixture of experts that grows when nothing in it explains what comes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark
from fourfold.errors import Refused
from fourfold.experience import Run
from fourfold.methods.buffers import stored_bytes
from fourfold.methods.generative import decoder, drawn, evidence_bound
from fourfold.methods.interface import Method
from fourfold.randomness import seed_of
from fourfold.settings.stream import Observation, View


class Column(nn.Module):
    """A multilayer network that is also shown the hidden layers of columns before it, through adapters of its own:

    h_l = relu(W_l h_{l-1} + sum_j U_lj h_{l-1} of column j); no gradient goes back to them. ``before``: their sizes.
    """

    def __init__(self, sizes: Sequence[int], before: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(into, out) for into, out in pairwise(sizes))
        self.adapters = nn.ModuleList(
            nn.ModuleList(nn.Linear(other[depth], out, bias=False) for other in before)
            for depth, out in enumerate(sizes[2:])
        )

    def forward(self, inputs: Tensor, earlier: Sequence[Sequence[Tensor]]) -> tuple[Tensor, list[Tensor]]:
        """The outputs for [batch, inputs], and the hidden layers; ``earlier``: those of the columns before."""
        hidden = [self.layers[0](inputs)]
        for depth, layer in enumerate(self.layers[1:]):
            below = hidden[-1] = hidden[-1].relu()
            adapters = self.adapters[depth]
            assert isinstance(adapters, nn.ModuleList)
            seen = [adapter(own[depth].detach()) for adapter, own in zip(adapters, earlier, strict=False)]
            hidden.append(layer(below) + sum(seen) if seen else layer(below))
        return hidden[-1], hidden[:-1]


@dataclass(frozen=True)
class Look:
    """What an expert makes of inputs: its code's mean and log variance [batch, latent], scores [batch, outputs], and
    the hidden layers of both."""

    mean: Tensor
    log_variance: Tensor
    scores: Tensor
    encoded: list[Tensor]
    classified: list[Tensor]


class Expert(nn.Module):
    """p(x, y | expert) = p(x) p(y | x): a variational autoencoder and a classifier of their own.

    Its encoder and its classifier build on those of the experts before it, whose hidden sizes are ``before``; its
    decoder, with layers of the sizes ``decoded`` in reverse, is its own, as in the published code.
    """

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int],
        decoded: Sequence[int],
        latent: int,
        outputs: int,
        before: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        pixels = math.prod(shape)
        self.latent = latent
        self.encoder = Column([pixels, *hidden, 2 * latent], before)
        self.decoder = decoder(pixels, decoded, latent)
        self.classifier = Column([pixels, *hidden, outputs], before)

    def look(self, inputs: Tensor, earlier: Sequence[Look]) -> Look:
        """``earlier``: those of the experts before."""
        flat = inputs.flatten(1)
        code, encoded = self.encoder(flat, [look.encoded for look in earlier])
        scores, classified = self.classifier(flat, [look.classified for look in earlier])
        mean, log_variance = code.chunk(2, dim=1)
        return Look(mean, log_variance, scores, encoded, classified)

    def missed(self, inputs: Tensor, look: Look, noise: Tensor) -> Tensor:
        """An upper bound of -log p(x): [batch]; noise [batch, latent], zero for the mean code."""
        logits = self.decoder(drawn(look.mean, look.log_variance, noise))
        return evidence_bound(inputs.flatten(1), logits, look.mean, look.log_variance)


class CNDPM(Method):
    """Continual neural Dirichlet process mixture (Lee, Ha, Zhang & Kim 2020).

    A sample (x, y) belongs to the expert with the largest log N_k + log p(x|k) + log p(y|x, k), N_k the samples that
    it has, or to none of them if that is below ``log_alpha``. What belongs to none waits in a memory; when that is
    full, a new expert learns it in ``sleep_steps`` steps. Experts learn what belongs to them as it comes. A prediction
    is log sum_k N_k p(x|k) p(y|x, k). Until the first expert there is, all outputs score alike. Inputs in [0, 1].
    ``lateral``: a new expert's encoder and classifier build on those before it. ``added``: hidden sizes of the encoder
    and the classifier of all experts but the first, where they differ.
    """

    asks_first = True

    def __init__(
        self,
        memory: int,
        log_alpha: float,
        sleep_steps: int,
        sleep_batch: int,
        hidden: list[int],
        latent: int,
        lateral: bool,
        added: list[int] | None,
        learning_rate: float,
        clip: float,
    ) -> None:
        self.memory_size = memory
        self.log_alpha = log_alpha
        self.sleep_steps, self.sleep_batch = sleep_steps, sleep_batch
        if added is not None and len(added) != len(hidden):
            raise Refused(f"method.added={added}: experts have {len(hidden)} hidden layers (method.hidden={hidden})")
        self.hidden, self.latent, self.lateral = hidden, latent, lateral
        self.added = hidden if added is None else added
        self.rate, self.clip = learning_rate, clip

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        if benchmark.sets is None or not isinstance(benchmark.sets.shape, tuple):
            raise Refused(f"method: {benchmark.name} has no inputs of one shape that an expert could explain")
        self.run, self.view, self.shape = run, view, benchmark.sets.shape
        self.device = run.engine.device
        self.network = nn.ModuleList()
        self.optimizers: list[torch.optim.Optimizer] = []
        self.numbers: list[int] = []  # samples of each expert
        self.waiting: dict[str, Tensor] = {}
        self.noise = run.generator("noise")
        self.task_outputs = view.task_outputs

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        inputs, targets = observation.inputs, observation.targets
        owner = self.owners(inputs, targets)
        losses = []
        for number in owner.unique().tolist():
            own = owner == number
            if number < 0:
                self._wait(inputs[own], targets[own])
            else:
                losses.append(self._learn(number, inputs[own], targets[own]))
                self.numbers[number] += int(own.sum())
        if len(self.waiting.get("targets", ())) >= self.memory_size:
            with self.run.meter.phase("sleep"):
                self._sleep()
        return torch.stack(losses).mean() if losses else None

    @torch.no_grad()
    def owners(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The expert that each sample belongs to, -1 for none: [batch]."""
        if not len(self.network):
            return torch.full((len(targets),), -1, device=self.device)
        best, owner = (
            self._joint(inputs).gather(2, targets[None, :, None].expand(len(self.network), -1, 1))[..., 0].max(0)
        )
        return owner.masked_fill(best < self.log_alpha, -1)

    def predict(self, observation: Observation) -> Tensor:
        inputs = observation.inputs
        if not len(self.network):
            return torch.zeros(len(inputs), self.view.outputs, device=self.device)
        return self._joint(inputs).logsumexp(0).clamp(min=-1e8)

    def _joint(self, inputs: Tensor) -> Tensor:
        """log N_k + log p(x|k) + log p(y|x, k): [experts, batch, outputs]."""
        none = inputs.new_zeros(len(inputs), self.latent)
        parts: list[Tensor] = []
        looks = self._looks(len(self.network), inputs)
        for expert, look, count in zip(self.network, looks, self.numbers, strict=True):
            assert isinstance(expert, Expert)
            explained = -expert.missed(inputs, look, none)
            parts.append(math.log(count) + explained[:, None] + look.scores.log_softmax(1))
        return torch.stack(parts)

    def _looks(self, count: int, inputs: Tensor) -> list[Look]:
        """What the first experts make of inputs, each shown those before it where they are joined."""
        looks: list[Look] = []
        for expert in self.network[:count]:
            assert isinstance(expert, Expert)
            looks.append(expert.look(inputs, looks))
        return looks

    def _wait(self, inputs: Tensor, targets: Tensor) -> None:
        for name, values in (("inputs", inputs), ("targets", targets)):
            before = self.waiting.get(name)
            self.waiting[name] = values.clone() if before is None else torch.cat([before, values])

    def _sleep(self) -> None:
        """A new expert learns what waited."""
        inputs, targets = self.waiting["inputs"], self.waiting["targets"]
        number = self._grow()
        for _ in range(self.sleep_steps):
            rows = torch.randint(len(targets), (self.sleep_batch,), generator=self.noise).to(self.device)
            self._learn(number, inputs[rows], targets[rows])
        self.numbers[number] = len(targets)
        self.waiting = {}

    def _grow(self) -> int:
        number = len(self.network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.run.seed, "expert", number))
            sizes = [self.hidden] + (number - 1) * [self.added]
            before = sizes if self.lateral and number else []
            own = self.added if number else self.hidden
            expert = Expert(self.shape, own, self.hidden, self.latent, self.view.outputs, before)
        self.network.append(expert.to(self.device))
        self.optimizers.append(torch.optim.Adam(self.network[number].parameters(), lr=self.rate))
        self.numbers.append(1)
        return number

    def _learn(self, number: int, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step of an expert; the mean of -log p(x, y)'s bound before it."""
        expert, optimizer = self.network[number], self.optimizers[number]
        assert isinstance(expert, Expert)
        noise = torch.randn(len(targets), self.latent, generator=self.noise).to(self.device)
        with torch.no_grad():
            earlier = self._looks(number, inputs) if self.lateral else []
        look = expert.look(inputs, earlier)
        loss = expert.missed(inputs, look, noise).mean() + F.cross_entropy(look.scores, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(expert.parameters(), self.clip)
        optimizer.step()
        return loss.detach()

    def sample_bytes(self) -> int:
        return sum(map(stored_bytes, self.waiting.values()))

    def mode(self, training: bool) -> None:
        self.network.train(training)

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizers": {str(k): optimizer.state_dict() for k, optimizer in enumerate(self.optimizers)},
            "numbers": list(self.numbers),
            "waiting": dict(self.waiting),
            "noise": self.noise.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network, self.optimizers, self.numbers = nn.ModuleList(), [], []
        for number in range(len(state["numbers"])):
            self._grow()
            self.optimizers[number].load_state_dict(state["optimizers"][str(number)])
        self.network.load_state_dict(state["network"])
        self.numbers = list(state["numbers"])
        self.waiting = dict(state["waiting"])
        self.noise.set_state(state["noise"])
