"""Methods that keep a second copy of the last layer: CWR* and AR1."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Experience, Run
from fourfold.methods.features import last_layer
from fourfold.methods.finetune import Finetune
from fourfold.methods.regularization import SI, QuadraticPenalty
from fourfold.settings.stream import Observation, View


class CopiedWeights:
    """The consolidated weights of a last layer, one row a class, beside those in training (Lomonaco et al. 2020).

    A context trains the layer from 0, for classes that it shows again from their consolidated rows. For each class j
    shown: cw_j <- (cw_j w_j + tw_j - m) / (w_j + 1), w_j = sqrt(past_j / shown_j) with the numbers of samples of the
    class before and in this context; m, one number, is the mean of all weights of the classes shown (0 for biases).
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self.rows = torch.zeros(layer.out_features, layer.in_features + 1, device=layer.weight.device)
        self.past = torch.zeros(layer.out_features, device=layer.weight.device)
        self.shown = torch.zeros_like(self.past)

    def begin(self) -> None:
        """Starts a context: the layer is 0."""
        self.shown = torch.zeros_like(self.past)
        self._write(torch.zeros_like(self.rows))

    def show(self, targets: Tensor) -> None:
        """Before a batch is learned: classes that this context shows for the first time start from what is kept."""
        count = torch.bincount(targets, minlength=len(self.past)).to(self.past.dtype)
        again = (count > 0) & (self.shown == 0) & (self.past > 0)
        self._write(torch.where(again[:, None], self.rows, self._read()))
        self.shown = self.shown + count

    def consolidated(self) -> Tensor:
        """What the rows would be, if the context ended now: [outputs, features + 1], the bias last."""
        now = self.shown > 0
        read = self._read()
        weights = read[:, :-1]  # a view
        weights -= (weights * now[:, None]).sum() / (now.sum().clamp(min=1) * weights.shape[1])
        weight = (self.past / self.shown.clamp(min=1)).sqrt()[:, None]
        return torch.where(now[:, None], (self.rows * weight + read) / (weight + 1), self.rows)

    def end(self) -> None:
        """Ends a context."""
        self.rows = self.consolidated()
        self.past = self.past + self.shown
        self.shown = torch.zeros_like(self.past)

    def _read(self) -> Tensor:
        return torch.cat([self.layer.weight, self.layer.bias[:, None]], 1).detach()

    @torch.no_grad()
    def _write(self, rows: Tensor) -> None:
        self.layer.weight.copy_(rows[:, :-1])
        self.layer.bias.copy_(rows[:, -1])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "past": self.past, "shown": self.shown}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows, self.past, self.shown = state["rows"], state["past"], state["shown"]


class CWR(Finetune):
    """CWR* (Lomonaco, Maltoni & Pellegrini 2020): the first context trains the network, later ones only its last layer.

    Predictions use the consolidated last layer of ``CopiedWeights``.
    """

    contexts_ended = 0
    freezes = True  # the layers below the last, after the first context
    asks_first = True  # its steps are with another last layer

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.head = CopiedWeights(last_layer(self.network))
        named = {id(p): name for name, p in self.network.named_parameters()}
        self.names = [named[id(p)] for p in (self.head.layer.weight, self.head.layer.bias)]

    def begin_context(self, number: int) -> None:
        self.head.begin()
        for optimizer in self.optimizers.values():
            for parameter in (self.head.layer.weight, self.head.layer.bias):
                optimizer.state.pop(parameter, None)

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        self.head.show(observation.targets)
        return super().observe(observation)  # a prediction here was made with another last layer

    def end_context(self, experience: Experience) -> None:
        self.head.end()
        self.contexts_ended += 1
        self._freeze()

    def _freeze(self) -> None:
        if self.contexts_ended and self.freezes:
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_(name in self.names)
            self.mode(self.network.training)

    def mode(self, training: bool) -> None:
        super().mode(training)
        if self.contexts_ended and self.freezes:
            for layer in self.network.modules():  # their statistics stay, too
                if getattr(layer, "running_mean", None) is not None:
                    layer.eval()

    def predict(self, observation: Observation) -> Tensor:
        rows = self.head.consolidated()
        last = dict(zip(self.names, (rows[:, :-1], rows[:, -1]), strict=True))
        return functional_call(self.network, last, (observation.inputs,))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "head": self.head.state_dict(), "contexts_ended": self.contexts_ended}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.head.load_state_dict(state["head"])
        self.contexts_ended = state["contexts_ended"]
        self._freeze()


class AR1(SI, CWR):
    """AR1 (Maltoni & Lomonaco 2019), with CWR*'s last layer: the layers below stay in training, held by SI's penalty.

    SI's importances are cut at ``largest``.
    """

    freezes = False

    def __init__(self, strength: float, damping: float, largest: float) -> None:
        super().__init__(strength, damping, path_of="loss")
        self.largest = largest

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        below = {name: p for name, p in self.network.named_parameters() if name not in self.names}
        self.penalty = QuadraticPenalty(below)
        self.path = self.zeros()

    def consolidate(self, experience: Experience) -> None:
        super().consolidate(experience)
        self.penalty.importance = {name: v.clamp(max=self.largest) for name, v in self.penalty.importance.items()}

    def end_context(self, experience: Experience) -> None:
        SI.end_context(self, experience)
        self.head.end()
