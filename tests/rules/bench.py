"""Small networks, batches and rules for the tests of the rules."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
