"""What methods with fast weights share: slow weights phi, from which fast weights theta are adapted to a batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from fourfold.benchmarks.interface import Benchmark, LossOf
from fourfold.errors import Refused
from fourfold.experience import Experience, Run
from fourfold.methods.finetune import Finetune
from fourfold.methods.inner_loop import Values, adapt, copies, head_of, loss_at
from fourfold.methods.meta_training import Pretraining, Progress, meta_train
from fourfold.settings.stream import Observation, View


class FastWeights(Finetune):
    """Slow weights in ``network``, fast weights in ``fast``; predictions are made with the fast ones.

    The inner loop: ``inner_steps`` steps of gradient descent of size ``inner_rate``, learned for each parameter tensor
    if ``learned_rates``, over all parameters or the ``head`` only. The outer optimizer is the recipe's.
    """

    asks_first = True

    def __init__(
        self,
        inner_steps: int,
        inner_rate: float,
        learned_rates: bool,
        first_order: bool,
        adapted: str,
        pretraining: bool,
        meta_batch: int,
        meta_queries: int,
        patience: int,
        vectorised: str,
        keep: str | None,
    ) -> None:
        self.steps, self.rate, self.learned_rates = inner_steps, inner_rate, learned_rates
        self.first_order, self.part = first_order, adapted
        self.pretrained = pretraining
        self.plan = Pretraining(meta_batch, patience, meta_queries, vectorised, keep)

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        if not run.engine.alone:
            raise Refused("hardware.devices: a method with fast weights learns on one device")
        super().setup(benchmark, view, run, rule)
        self.slow = dict(self.network.named_parameters())
        self.adapted = head_of(self.network) if self.part == "head" else tuple(self.slow)
        self.rates = {
            name: torch.full((), self.rate, device=self.device, requires_grad=self.learned_rates)
            for name in self.adapted
        }
        self.outer = self.fresh_outer()
        self.fast: Values = {name: value.detach() for name, value in self.slow.items()}
        self.progress: Progress | None = None  # of the pre-training, while it lasts

    def outer_parameters(self) -> list[Any]:
        """What the outer optimizer learns."""
        return [*self.slow.values(), *(rate for rate in self.rates.values() if rate.requires_grad)]

    def fresh_outer(self) -> Any:
        """The recipe's optimizer over the outer parameters, with nothing learned yet."""
        return self.run.engine.optimizer(self.outer_parameters(), self.run.recipe.optimizer)

    def pretrain(self, experience: Experience, run: Run) -> None:
        """Meta-trains; the stream begins with a fresh outer optimizer, whether weights were trained here or kept."""
        if self.pretrained:
            loss_of = self.benchmark.objective.loss_of  # type: ignore[attr-defined]
            inner: Any = {"steps": self.steps, "adapted": self.adapted, "first_order": self.first_order}
            self.progress = self.progress or Progress()
            told = (self.network, loss_of, self.rates, self.outer, self.progress)
            meta_train(experience, run, self.plan, *told, **inner)
            self.progress = None
            self.outer = self.fresh_outer()
            self.restart()

    def restart(self) -> None:
        """The fast weights become the slow ones."""
        self.fast = {name: value.detach().clone() for name, value in self.slow.items()}

    def told(self, observation: Observation) -> tuple[Tensor, Tensor, LossOf]:
        """Inputs, targets and loss of a revealed batch; its new outputs become possible."""
        if self.seen is not None:
            self.seen[observation.targets] = True
        (term,) = self.terms(observation)
        return term.inputs, term.targets, term.loss_of

    def forward(self, values: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """The network's outputs with other parameters."""
        with self.run.engine.autocast():
            outputs: Tensor = functional_call(self.network, dict(values), (inputs,))
        return outputs

    def predict(self, observation: Observation) -> Tensor:
        return self.forward(self.fast, observation.inputs)

    def outputs_again(self, prediction: Tensor | None, inputs: Tensor) -> Tensor:
        """The outputs of the fast weights, which are the prediction if there was one."""
        return self.forward(self.fast, inputs) if prediction is None else prediction

    def adapt(
        self,
        batch: tuple[Tensor, Tensor, LossOf],
        start: Values,
        rates: Values,
        first_order: bool,
        steps: int | None = None,
    ) -> Values:
        """The fast weights that a batch makes of ``start``."""
        inputs, targets, loss_of = batch
        with self.run.engine.autocast():
            loss = loss_at(self.network, loss_of, inputs, targets)
            return adapt(loss, start, rates, self.steps if steps is None else steps, self.adapted, first_order)

    def leaves(self) -> tuple[Values, Values]:
        """The slow weights and step sizes as they are now, as leaves of a graph to come."""
        return copies(self.slow), copies(self.rates)

    def step_outer(self, loss: Tensor, start: Values, rates: Values) -> None:
        """One step of the outer optimizer with the gradient of ``loss`` at the leaves that it was computed from."""
        self.add_outer(loss, start, rates)
        self.outer.step()
        self.outer.zero_grad(set_to_none=True)

    def add_outer(self, loss: Tensor, start: Values, rates: Values) -> None:
        """Adds the gradient of ``loss`` at the leaves to that of the slow weights and learned step sizes."""
        names, sizes = list(start), [name for name, rate in self.rates.items() if rate.requires_grad]
        asked = [*(start[name] for name in names), *(rates[name] for name in sizes)]
        found = torch.autograd.grad(loss, asked, allow_unused=True)
        owners = [*(self.slow[name] for name in names), *(self.rates[name] for name in sizes)]
        for owner, gradient in zip(owners, found, strict=True):
            if gradient is not None:
                self.run.engine.add_gradient(owner, gradient)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "rates": {name: rate.detach() for name, rate in self.rates.items()},
            "outer": self.outer.state_dict(),
            "fast": {name: value.detach() for name, value in self.fast.items()},
            "seen": self.seen,
            "progress": None if self.progress is None else self.progress.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        with torch.no_grad():
            for name, rate in self.rates.items():
                rate.copy_(state["rates"][name])
        self.outer.load_state_dict(state["outer"])
        self.fast = {name: value.to(self.device) for name, value in state["fast"].items()}
        if self.seen is not None:
            self.seen.copy_(state["seen"])
        self.progress = None if state["progress"] is None else Progress.of(state["progress"])
