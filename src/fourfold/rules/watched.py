"""A rule that is looked at every so many steps: how close are its gradients and feedback weights to backprop's?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fourfold.benchmarks.interface import LossOf
from fourfold.measure.meter import Meter
from fourfold.record import DIAGNOSED_STEP
from fourfold.rules.diagnostics import alignment, alignments, backprop_gradients
from fourfold.rules.interface import Rule
from fourfold.rules.tape import frozen_statistics


class Watched(Rule):
    """Any rule, with a look at the first and then at every ``every``-th update.

    A look has, by parameter or layer: ``angle`` in degrees and ``norm_ratio`` of the rule's gradient to backprop's on
    the same batch; ``weight_angle`` of the feedback weights to the forward ones, and ``weight_distance``, |feedback -
    forward| / |forward|; ``feedback_loss``, where the rule trains its feedback. It is no part of a step's time, changes
    nothing that the rule does, and stays on the device until ``series`` is asked for.
    """

    def __init__(self, rule: Rule, every: int, meter: Meter) -> None:
        super().__init__(rule.engine)
        self.rule = rule
        self.plain_forward = rule.plain_forward
        self.every = every
        self.meter = meter
        self.calls = 0
        self.steps: list[int] = []  # of the cell, one a look
        self.looks: list[dict[str, Tensor]] = []

    def prepare(self, network: nn.Module) -> None:
        self.rule.prepare(network)

    def gradients(
        self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf, outputs: Any = None
    ) -> tuple[Any, Tensor]:
        looking = self.calls % self.every == 0
        self.calls += 1
        if not looking:
            return self.rule.gradients(network, inputs, targets, loss_of, outputs)
        with self.meter.excluded():
            before = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
            exact = self.exact(network, inputs, targets, loss_of)
        result = self.rule.gradients(network, inputs, targets, loss_of, outputs)
        with self.meter.excluded():
            self.look(network, inputs, before, exact)
        return result

    def gradients_beside(self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf) -> tuple[Any, Tensor]:
        return self.rule.gradients_beside(network, inputs, targets, loss_of)

    def exact(self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf) -> dict[str, Tensor]:
        """Backprop's gradients of the weights, before the rule; random numbers stay where they are.

        Empty for a rule that does not train the network's plain pass, of which these would be the gradients.
        """
        if not self.rule.plain_forward:
            return {}
        device = self.engine.device
        devices = [] if device.type == "cpu" else [device]
        scale = self.engine.gradient_scale()
        with torch.random.fork_rng(devices), frozen_statistics(network), self.engine.autocast():
            found = backprop_gradients(network, inputs, targets, lambda *given: scale * loss_of(*given))
        return {name: gradient / scale for name, gradient in found.items() if gradient.dim() > 1}

    @torch.no_grad()
    def look(self, network: nn.Module, inputs: Any, before: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> None:
        """Compares what the rule added to ``.grad`` with ``exact``, and its feedback with the network."""
        scale = self.engine.gradient_scale()
        added = {
            name: (p.grad - before[name] if name in before else p.grad) / scale
            for name, p in network.named_parameters()
            if p.grad is not None
        }
        found: dict[str, Tensor] = {}
        for name, one in alignments(added, exact).items():
            found[f"angle/{name}"], found[f"norm_ratio/{name}"] = one.angle, one.ratio
        for name, (feedback, forward) in self.rule.feedback_pairs().items():
            found[f"weight_angle/{name}"] = alignment(feedback, forward).angle
            found[f"weight_distance/{name}"] = (feedback - forward).norm() / forward.norm()
        with frozen_statistics(network), self.engine.autocast():
            for name, loss in self.rule.feedback_losses(inputs).items():
                found[f"feedback_loss/{name}"] = loss
        self.steps.append(self.meter.steps)
        self.looks.append({name: value.detach().float() for name, value in found.items()})

    def series(self) -> dict[str, np.ndarray]:
        """One entry a look, nan where a layer was not there yet; reads from the device. Empty without looks."""
        if not self.looks:
            return {}
        names = dict.fromkeys(name for look in self.looks for name in look)
        missing = torch.full((), torch.nan)
        columns = {name: torch.stack([look.get(name, missing).cpu() for look in self.looks]) for name in names}
        steps = np.asarray(self.steps, dtype=np.int64)
        return {DIAGNOSED_STEP: steps, **{name: column.numpy() for name, column in columns.items()}}

    def predict(self, network: nn.Module, inputs: Any) -> Any:
        return self.rule.predict(network, inputs)

    def not_finite(self) -> str | None:
        return self.rule.not_finite()

    def findings(self) -> dict[str, Any]:
        return self.rule.findings()

    def grow(self, network: nn.Module) -> None:
        self.rule.grow(network)

    def state_dict(self) -> dict[str, Any]:
        return {"rule": self.rule.state_dict(), "calls": self.calls, "steps": list(self.steps), "looks": self.looks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rule.load_state_dict(state["rule"])
        self.calls, self.steps, self.looks = state["calls"], list(state["steps"]), list(state["looks"])
