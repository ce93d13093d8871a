"""Methods that give each task its own part of one network by gates on hidden units: XdG and HAT."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark, LossOf, Term
from fourfold.errors import Refused
from fourfold.experience import Experience, Run
from fourfold.methods.cell_check import SEQUENCES
from fourfold.methods.finetune import Finetune, masked
from fourfold.settings.stream import Observation, View

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid)
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # each unit by itself
LARGEST = 6.0  # HAT's embeddings stay within +- this
STEEPEST = 50.0  # the largest argument of cosh, above which it overflows


class Gate(nn.Module):
    """Multiplies the units of a layer by ``factors`` [batch or 1, units], or lets them be if there are none."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = units
        self.factors: Tensor | None = None

    def forward(self, activity: Tensor) -> Tensor:
        if self.factors is None:
            return activity
        return activity * self.factors.view(*self.factors.shape, *(1 for _ in activity.shape[2:]))


def leaves(network: nn.Module) -> list[Any]:
    """The layers of a plain sequence in order, those of sequences within it included.

    Raises Refused where a part is no sequence, such as a block with a connection around it.
    """
    layers: list[Any] = []
    for part in network if isinstance(network, nn.Sequential) else [network]:
        if isinstance(part, nn.Sequential):
            layers += leaves(part)
        elif next(part.children(), None) is None:
            layers.append(part)
        else:
            raise Refused(
                f"this method needs a plain sequence of layers, which {type(part).__name__} is not: choose {SEQUENCES}"
            )
    return layers


def weighted_layers(network: nn.Module) -> list[Any]:
    """The layers with weights of a plain sequence, in order."""
    return [layer for layer in leaves(network) if isinstance(layer, WEIGHTED)]


def gated(network: nn.Module) -> tuple[nn.Sequential, list[Any]]:
    """The same layers with a gate behind each hidden layer's normalisation and activation; still a plain sequence.

    Raises Refused for layers that mix units in another way, as layer normalisation does: a closed unit would be felt.
    """
    layers = leaves(network)
    weighted = weighted_layers(network)
    if len(weighted) < 2:
        raise Refused("this method gates hidden units, and the network has none; choose a model with a hidden layer")
    last = weighted[-1]
    found: list[nn.Module] = []
    gates: list[Any] = []
    waiting = 0  # units of a layer whose gate is still to come

    def gate() -> None:
        nonlocal waiting
        if waiting:
            gates.append(Gate(waiting))
            found.append(gates[-1])
            waiting = 0

    for layer in layers:
        if any(True for _ in layer.parameters()) and not isinstance(layer, (*WEIGHTED, *NORMALISATIONS)):
            raise Refused(f"this method cannot gate the units of a network with {type(layer).__name__}")
        if not isinstance(layer, (*NORMALISATIONS, *ACTIVATIONS)):
            gate()
        found.append(layer)
        if isinstance(layer, ACTIVATIONS):
            gate()
        if isinstance(layer, WEIGHTED) and layer is not last:
            waiting = int(layer.weight.shape[0])
    return nn.Sequential(*found), gates


class XdG(Finetune):
    """Context-dependent gating (Masse, Grant & Freedman 2018): each task switches off its own random hidden units.

    h <- h * g_task, where each unit's gate is closed with probability ``closed``, drawn once by the seed.
    """

    def __init__(self, closed: float) -> None:
        self.closed = closed

    def build_network(self, benchmark: Benchmark, view: View, device: torch.device) -> nn.Module:
        network, self.gates = gated(super().build_network(benchmark, view, device))
        return network

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        assert view.tasks is not None
        self.open = []  # for each hidden layer [tasks, units]
        for number, gate in enumerate(self.gates):
            drawn = torch.rand(view.tasks, gate.units, generator=run.generator("gates", number))
            self.open.append((drawn >= self.closed).float().to(self.device))

    def _set(self, observation: Observation) -> None:
        for gate, table in zip(self.gates, self.open, strict=True):
            gate.factors = table[observation.task] if self.closed else None

    def terms(self, observation: Observation) -> Iterator[Term]:
        self._set(observation)
        yield from super().terms(observation)

    def predict(self, observation: Observation) -> Tensor:
        self._set(observation)
        return super().predict(observation)


class HAT(Finetune):
    """Hard attention to the task (Serra et al. 2018): each task learns which hidden units it uses.

    a_l = sigmoid(s e_l[task]) gates layer l; s rises from 1/s_max to s_max over each pass. What earlier tasks use
    stays: the change of weight ij is multiplied by 1 - min(a_i, a_j) with a the largest over earlier tasks. The loss
    has strength * sum a (1 - a_earlier) / sum (1 - a_earlier) added; the embeddings' gradients are multiplied by
    s_max (cosh(s e) + 1) / (s (cosh(e) + 1)).

    Here the changes are held back, rather than the gradients, so that Adam keeps to it too; and what is used, in
    predictions and by earlier tasks, is what lies above one half, so that nothing learned before changes at all.
    The embeddings are trained by their gradients, whatever the rule.
    """

    def __init__(self, strength: float, steepness: float) -> None:
        self.strength = strength
        self.steepness = steepness
        self.a_pass = 1
        self.steps = 0  # of this context

    def build_network(self, benchmark: Benchmark, view: View, device: torch.device) -> nn.Module:
        network, self.gates = gated(super().build_network(benchmark, view, device))
        assert view.tasks is not None
        for number, gate in enumerate(self.gates):
            drawn = torch.randn(view.tasks, gate.units, generator=self.run.generator("embedding", number))
            gate.embedding = nn.Parameter(drawn.to(device))
        return network

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.used = [torch.zeros(gate.units, dtype=torch.bool, device=self.device) for gate in self.gates]
        self.used_outputs = torch.zeros(view.outputs, dtype=torch.bool, device=self.device)
        assert view.tasks is not None
        self.tasks_seen = torch.zeros(view.tasks, dtype=torch.bool, device=self.device)
        self.tasks_past = self.tasks_seen.clone()
        self.outputs_seen = self.used_outputs.clone()

    def learn(self, experience: Experience, run: Run) -> None:
        self.a_pass = max(1, -(-experience.samples // run.recipe.batch))
        super().learn(experience, run)

    def begin_context(self, number: int) -> None:
        self.steps = 0

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        self.tasks_seen[observation.task] = True
        self.outputs_seen[observation.targets] = True
        before = [values.detach().clone() for values in self._changing()]
        loss = super().observe(observation)
        self._hold(before)
        self.steps += 1
        return loss

    def terms(self, observation: Observation) -> Iterator[Term]:
        share = (self.steps % self.a_pass) / (self.a_pass - 1) if self.a_pass > 1 else 1.0
        self.slope = 1 / self.steepness + (self.steepness - 1 / self.steepness) * share
        for gate in self.gates:
            gate.factors = torch.sigmoid(self.slope * gate.embedding[observation.task])
        mask = self.mask(observation)
        for term in self.objective.terms(self.network, observation):
            yield Term(term.group, term.inputs, term.targets, self._with_use(masked(term.loss_of, mask)))
        for gate in self.gates:
            gate.factors = None

    def _with_use(self, loss_of: LossOf) -> LossOf:
        """The loss, and the share of units not used before that the task uses."""
        if not self.strength:
            return loss_of

        def loss_and_use(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
            free = [~used for used in self.used]
            taken = [(gate.factors * own).mean(0).sum() for gate, own in zip(self.gates, free, strict=True)]
            use = torch.stack(taken).sum() / torch.cat(free).sum().clamp(min=1)
            return loss_of(outputs, targets, reduction=reduction) + self.strength * use

        return loss_and_use

    def after_gradients(self) -> None:
        for gate in self.gates:
            if gate.embedding.grad is not None:
                e = gate.embedding.detach()
                steep = (self.slope * e).clamp(-STEEPEST, STEEPEST).cosh() + 1
                gate.embedding.grad.mul_(self.steepness * steep / (self.slope * (e.cosh() + 1)))

    def _changing(self) -> list[Tensor]:
        """The parameters, and the running statistics of normalisations."""
        return [*self.network.parameters(), *self.network.buffers()]

    @torch.no_grad()
    def _hold(self, before: list[Tensor]) -> None:
        """Takes back the part of each change that would touch what earlier tasks use."""
        held = self.held()
        for values, old in zip(self._changing(), before, strict=True):
            if values in held:
                values.copy_(torch.where(held[values], old, values))
        for gate in self.gates:
            gate.embedding.clamp_(-LARGEST, LARGEST)

    def held(self) -> dict[Tensor, Tensor]:
        """For each parameter, true where it must stay: between units that are both used by earlier tasks; and so for
        what normalises a unit, its running statistics included."""
        found: dict[Tensor, Tensor] = {}
        marks = iter([*self.used, self.used_outputs])
        used_in: Tensor | None = None  # of the layer below; None: the inputs, all of them used
        for layer in leaves(self.network):
            if isinstance(layer, WEIGHTED):
                used = next(marks)
                rows = used.view(-1, *(1 for _ in layer.weight.shape[1:]))
                columns = torch.ones_like(layer.weight, dtype=torch.bool) if used_in is None else _along(layer, used_in)
                found[layer.weight] = rows & columns
                if layer.bias is not None:
                    found[layer.bias] = used
                used_in = used
            elif isinstance(layer, NORMALISATIONS):
                used = self.tasks_past.any() if used_in is None else used_in
                own = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
                found |= {values: used.expand_as(values) for values in own if values is not None}
        for gate in self.gates:
            found[gate.embedding] = self.tasks_past[:, None].expand_as(gate.embedding)
        return found

    def end_context(self, experience: Experience) -> None:
        tasks = self.tasks_seen & ~self.tasks_past
        for number, gate in enumerate(self.gates):
            self.used[number] = self.used[number] | (gate.embedding.detach()[tasks] > 0).any(0)
        self.used_outputs = self.used_outputs | self.outputs_seen
        self.tasks_past = self.tasks_seen.clone()

    def predict(self, observation: Observation) -> Tensor:
        for gate in self.gates:
            gate.factors = (gate.embedding.detach()[observation.task] > 0).float()
        scores = super().predict(observation)
        for gate in self.gates:
            gate.factors = None
        return scores

    OWN = ("steps", "used", "used_outputs", "tasks_seen", "tasks_past", "outputs_seen", "a_pass")

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **{name: getattr(self, name) for name in self.OWN}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name in self.OWN:
            setattr(self, name, state[name])


def _along(layer: Any, used_in: Tensor) -> Tensor:
    """The used units of the layer below as they stand along a weight's second dimension (flattened maps repeat)."""
    width = int(layer.weight.shape[1])
    used = used_in.repeat_interleave(width // len(used_in))
    return used.view(1, -1, *(1 for _ in layer.weight.shape[2:])).expand_as(layer.weight)
