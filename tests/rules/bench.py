"""Small networks, batches and rules for the tests of the rules."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import LossOf
from fourfold.rules import interface as rules
from learning import engine, member

LOSS_OF = F.cross_entropy
FAST = {"iterations": 0, "start": "symmetric"}


def rule(name: str, network: nn.Module, **values: Any) -> Any:
    """A rule of conf/method/rule with some of its values changed, prepared for a network."""
    torch.set_num_threads(1)
    made = rules.build({**member(f"method/rule/{name}"), **values}, engine())
    assert made is not None
    made.prepare(network)
    return made


def two_layers(activation: nn.Module | None = None) -> nn.Sequential:
    """4 -> 5 -> 3, double precision."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), activation or nn.Tanh(), nn.Linear(5, 3)).double()


def batch(size: int = 6, inputs: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(size, inputs).double(), torch.randint(classes, (size,))


def pictures(size: int = 8, side: int = 8, classes: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    torch.manual_seed(1)
    return torch.randn(size, 3, side, side, dtype=dtype), torch.randint(classes, (size,))


def output_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """dL/do of the mean cross entropy [batch, classes]."""
    return (outputs.softmax(1) - F.one_hot(targets, outputs.shape[1])) / len(targets)


def relative_difference(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|."""
    a, b = found.detach().double(), exact.detach().double()
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def gradients_of(rule: Any, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf) -> dict[str, Tensor]:
    """The gradients that a rule finds on a batch, by parameter. The network's own ``.grad`` is left as it was.

    A rule with feedback weights trains them on this batch, as in any step.
    """
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    kept = {name: p.grad for name, p in named.items()}
    for parameter in named.values():
        parameter.grad = None
    rule.gradients(network, inputs, targets, loss_of)
    found = {name: p.grad for name, p in named.items() if p.grad is not None}
    for name, parameter in named.items():
        parameter.grad = kept[name]
    return found
