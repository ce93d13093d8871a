"""What a rule is: it owns the forward pass that it needs and fills the gradients."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fourfold.benchmarks.interface import LossOf
from fourfold.errors import Failed
from fourfold.hardware.engine import Engine
from fourfold.members import parameters, target

CHECK_EVERY = 64  # steps between looks at whether feedback weights are finite: each look waits for the device


class Rule:
    """Credit assignment for one network. A rule with parameters of its own trains and saves them itself.

    plain_forward: whether it trains and predicts by the network's own pass over a batch as it is; so its YAML offers.
    """

    name = "rule"
    plain_forward = True

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def prepare(self, network: nn.Module) -> None:
        """Called once, before the first step, and after the network was replaced."""

    def gradients(
        self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf, outputs: Any = None
    ) -> tuple[Any, Tensor]:
        """Adds to ``.grad`` of the network's parameters; returns (outputs, loss), the loss without its graph.

        Asked for once an update, which is a step of the rule's clock and when its feedback learns. ``outputs`` are
        those of an earlier forward pass on the same inputs, graph included, to be used again.
        """
        raise NotImplementedError

    def gradients_beside(self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf) -> tuple[Any, Tensor]:
        """The same on other samples, or once more in an update: no step of the clock, and no feedback learns.

        Here for a rule that has neither.
        """
        return self.gradients(network, inputs, targets, loss_of)

    def predict(self, network: nn.Module, inputs: Any) -> Any:
        """The network's outputs for the inputs; a rule that reads them otherwise (forward-forward) overrides this."""
        return network(inputs)

    def grow(self, network: nn.Module) -> None:
        """Called after outputs were added to the network's last layer."""

    def feedback_pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Feedback weights beside the forward ones that they stand for, of one shape, by layer; empty without any."""
        return {}

    def feedback_losses(self, inputs: Any) -> dict[str, Tensor]:
        """The loss [] of each feedback block that learns, on a batch, by block; nothing learns from it."""
        return {}

    def not_finite(self) -> str | None:
        """In words, what of the rule's own is not finite, if anything; waits for the device."""
        return None

    def check_finite(self, steps: int) -> None:
        """Raises Failed if something of its own is not finite after so many steps; asks seldom."""
        if steps > 3 and steps % CHECK_EVERY:
            return
        if own := self.not_finite():
            raise Failed(
                f"{own} are not finite after {steps} steps of rule {self.name}; "
                "a smaller method.rule.feedback_rate or method.rule.noise may help",
                reason="nan",
            )

    def findings(self) -> dict[str, Any]:
        """What the rule tells of itself for the record, once it is prepared: plain data."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what ``state_dict`` gave."""


def build(node: Mapping[str, Any] | None, engine: Engine) -> Rule | None:
    """The rule of a method's configuration; None for ``rule: none``."""
    if not node or not node.get("_target_"):
        return None
    made = target(node)(engine, **parameters(node, "method.rule"))
    assert isinstance(made, Rule)
    return made
