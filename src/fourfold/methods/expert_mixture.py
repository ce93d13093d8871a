"""CN-DPM: a mixture of experts that grows when nothing in it explains what comes."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark
from fourfold.errors import Refused
from fourfold.experience import Run
from fourfold.methods.buffers import stored_bytes
from fourfold.methods.generative import VariationalAutoencoder
from fourfold.methods.interface import Method
from fourfold.randomness import seed_of
from fourfold.settings.stream import Observation, View


class Expert(nn.Module):
    """p(x, y | expert) = p(x) p(y | x): a variational autoencoder and a classifier of their own.

    ``earlier``: of so many experts the classifier is also shown the hidden layers, through adapters of its own:
    h_l = relu(W_l h_{l-1} + sum_j U_lj h_{l-1} of expert j); no gradient goes back to them.
    """

    def __init__(self, shape: Sequence[int], hidden: Sequence[int], latent: int, outputs: int, earlier: int) -> None:
        super().__init__()
        self.generator = VariationalAutoencoder(shape, hidden, latent)
        sizes = [math.prod(shape), *hidden, outputs]
        self.layers = nn.ModuleList(nn.Linear(into, out) for into, out in pairwise(sizes))
        self.adapters = nn.ModuleList(
            nn.ModuleList(nn.Linear(into, out, bias=False) for _ in range(earlier)) for into, out in pairwise(sizes[1:])
        )

    def log_inputs(self, inputs: Tensor) -> Tensor:
        """A lower bound of log p(x), at the mean code: [batch]."""
        return -self.generator.loss(inputs, inputs.new_zeros(len(inputs), self.generator.latent))

    def classify(self, inputs: Tensor, earlier: Sequence[Sequence[Tensor]]) -> tuple[Tensor, list[Tensor]]:
        """Scores [batch, outputs], and the hidden layers; ``earlier``: those of the experts before."""
        hidden = [self.layers[0](inputs.flatten(1))]
        for depth, layer in enumerate(self.layers[1:]):
            below = hidden[-1] = hidden[-1].relu()
            adapters = self.adapters[depth]
            assert isinstance(adapters, nn.ModuleList)
            seen = [adapter(own[depth].detach()) for adapter, own in zip(adapters, earlier, strict=False)]
            hidden.append(layer(below) + sum(seen) if seen else layer(below))
        return hidden[-1], hidden[:-1]


class CNDPM(Method):
    """Continual neural Dirichlet process mixture (Lee, Ha, Zhang & Kim 2020).

    A sample (x, y) belongs to the expert with the largest log N_k + log p(x|k) + log p(y|x, k), N_k the samples that
    it has, or to none of them if that is below ``log_alpha``. What belongs to none waits in a memory; when that is
    full, a new expert learns it in ``sleep_steps`` steps. Experts learn what belongs to them as it comes. A prediction
    is log sum_k N_k p(x|k) p(y|x, k). Until the first expert there is, all outputs score alike. Inputs in [0, 1].
    ``lateral``: a new expert's classifier builds on those before it; the paper's autoencoders do so too, these do not.
    """

    def __init__(
        self,
        memory: int,
        log_alpha: float,
        sleep_steps: int,
        sleep_batch: int,
        hidden: list[int],
        latent: int,
        lateral: bool,
        learning_rate: float,
        clip: float,
    ) -> None:
        self.memory_size = memory
        self.log_alpha = log_alpha
        self.sleep_steps, self.sleep_batch = sleep_steps, sleep_batch
        self.hidden, self.latent, self.lateral = hidden, latent, lateral
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
        told = {"task_labels_train", "task_labels_test"} <= view.grants
        self.task_outputs = view.task_outputs if told else None

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
        scores = self._joint(inputs).logsumexp(0).clamp(min=-1e8)
        return scores if self.task_outputs is None else scores.masked_fill(~self.task_outputs[observation.task], -1e9)

    def _joint(self, inputs: Tensor) -> Tensor:
        """log N_k + log p(x|k) + log p(y|x, k): [experts, batch, outputs]."""
        parts: list[Tensor] = []
        earlier: list[list[Tensor]] = []
        for expert, count in zip(self.network, self.numbers, strict=True):
            assert isinstance(expert, Expert)
            scores, hidden = expert.classify(inputs, earlier)
            parts.append(math.log(count) + expert.log_inputs(inputs)[:, None] + scores.log_softmax(1))
            earlier.append(hidden)
        return torch.stack(parts)

    def _hidden_before(self, number: int, inputs: Tensor) -> list[list[Tensor]]:
        """The hidden layers of the experts before one, as far as it is shown them."""
        earlier: list[list[Tensor]] = []
        with torch.no_grad():
            for expert in self.network[:number] if self.lateral else ():
                assert isinstance(expert, Expert)
                earlier.append(expert.classify(inputs, earlier)[1])
        return earlier

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
            earlier = number if self.lateral else 0
            expert = Expert(self.shape, self.hidden, self.latent, self.view.outputs, earlier)
        self.network.append(expert.to(self.device))
        self.optimizers.append(torch.optim.Adam(self.network[number].parameters(), lr=self.rate))
        self.numbers.append(1)
        return number

    def _learn(self, number: int, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step of an expert; the mean of -log p(x, y)'s bound before it."""
        expert, optimizer = self.network[number], self.optimizers[number]
        assert isinstance(expert, Expert)
        noise = torch.randn(len(targets), self.latent, generator=self.noise).to(self.device)
        explained = expert.generator.loss(inputs, noise).mean()
        scores, _ = expert.classify(inputs, self._hidden_before(number, inputs))
        loss = explained + F.cross_entropy(scores, targets)
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
