"""PackNet: each context keeps the weights that it needs most, and leaves the others to the next."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Experience, Run
from fourfold.methods.finetune import Finetune
from fourfold.settings.stream import Observation, View


class PackNet(Finetune):
    """Iterative pruning (Mallya & Lazebnik 2018).

    A context trains the free weights on top of the kept ones. At its end, in each layer, the share ``prune`` of the
    free weights with the smallest magnitude is set to 0 and stays free; the others are trained for ``retrain`` more
    passes and are then kept for ever. Biases and normalisations are the first context's, with their running
    statistics, by which later contexts normalise in training, too; rows of the last layer belong to the context that
    uses their outputs, where outputs are told by task. A prediction uses the weights kept up to the sample's context,
    so nothing is forgotten.
    """

    def __init__(self, prune: float, retrain: float) -> None:
        self.prune = prune
        self.retrain = retrain
        self.context = 1  # from 1: owner 0 is nobody

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        assert view.tasks is not None
        named = dict(self.network.named_parameters())
        self.head = [name for name in named if name in _last(self.network)] if self.task_outputs is not None else []
        self.owner = {name: torch.zeros_like(p, dtype=torch.int16) for name, p in named.items()}
        self.context_of = torch.zeros(view.tasks, dtype=torch.long, device=self.device)  # of each task; 0: none yet

    def begin_context(self, number: int) -> None:
        self.context = number + 1
        # Moments of earlier contexts would move weights that this one does not train.
        for optimizer in self.optimizers.values():
            optimizer.state.clear()
        self.mode(training=self.network.training)

    def mode(self, training: bool) -> None:
        super().mode(training)
        if self.context > 1:
            for layer in self.network.modules():
                if getattr(layer, "running_mean", None) is not None:
                    layer.eval()

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        new = self.context_of[observation.task] == 0
        self.context_of[observation.task] = torch.where(new, self.context, self.context_of[observation.task])
        kept = self.held()
        before = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        loss = super().observe(observation, prediction)
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(torch.where(kept[name], before[name], parameter))
        return loss

    def held(self) -> dict[str, Tensor]:
        """For each parameter, true where it may not change now."""
        found = {}
        for name, owner in self.owner.items():
            if owner.dim() < 2 and name not in self.head:
                found[name] = torch.full_like(owner, self.context > 1, dtype=torch.bool)
            else:
                found[name] = (owner != 0) & (owner != self.context) | (owner == 0) & self.pruned
        return found

    pruned = False  # while the kept weights are trained once more, the free ones stay 0

    def end_context(self, experience: Experience) -> None:
        with self.run.meter.phase("consolidation"), torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if parameter.dim() >= 2 or name in self.head:
                    self._claim(name, parameter)
        with self.run.meter.phase("retraining"):
            self.pruned = True
            rest, number = self.retrain, 0
            while rest > 0 and self.prune:
                count = max(1, round(min(1.0, rest) * experience.samples))
                for observation in experience.sample(count, f"retrain {number}", self.run.recipe.batch):
                    self.observe(observation)
                rest, number = rest - 1, number + 1
            self.pruned = False

    def _claim(self, name: str, parameter: Tensor) -> None:
        """Gives the free weights worth keeping to this context, and sets the others to 0."""
        free = self.owner[name] == 0
        if name in self.head:
            assert self.task_outputs is not None
            outputs = self.task_outputs[self.context_of == self.context].any(0)
            mine = free & outputs.view(-1, *(1 for _ in parameter.shape[1:]))
        else:
            sizes = parameter[free].abs()
            count = round(self.prune * len(sizes))
            limit = sizes.kthvalue(count).values if count else -1.0
            mine = free & (parameter.abs() > limit)
            parameter.masked_fill_(free & ~mine, 0.0)
        self.owner[name] = torch.where(mine, self.context, self.owner[name].long()).to(torch.int16)

    def predict(self, observation: Observation) -> Tensor:
        contexts = self.context_of[observation.task]
        scores: Tensor | None = None
        for context in contexts.unique().tolist():
            rows = contexts == context
            found = functional_call(self.network, self.weights_of(context), (observation.inputs[rows],))
            scores = found.new_zeros(len(rows), found.shape[1]) if scores is None else scores
            scores[rows] = found
        assert scores is not None
        return scores

    def weights_of(self, context: int) -> dict[str, Tensor]:
        """The parameters as the context of this number left them; those of now for 0 and for the running one."""
        named = {name: p.detach() for name, p in self.network.named_parameters()}
        if context == 0:
            return named
        found = {}
        for name, values in named.items():
            owner = self.owner[name]
            own = (owner > 0) & (owner <= context) | (owner == 0) & (context == self.context)
            found[name] = values if values.dim() < 2 or name in self.head else torch.where(own, values, 0.0)
        return found

    def state_dict(self) -> dict[str, Any]:
        own = {"context": self.context, "owner": self.owner, "context_of": self.context_of}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.context = state["context"]
        self.owner = dict(state["owner"])
        self.context_of.copy_(state["context_of"])
        self.mode(training=self.network.training)


def _last(network: nn.Module) -> list[str]:
    """The names of the last fully connected layer's parameters."""
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return [f"{layers[-1]}.{part}" for part in ("weight", "bias")] if layers else []
