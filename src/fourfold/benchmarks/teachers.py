"""Teachers that are a moving average of their student (Tarvainen & Valpola 2017)."""

import copy

import torch
from torch import nn


def averaged_copy(student: nn.Module) -> nn.Module:
    """A copy that no gradient reaches, to be moved by ``follow`` alone."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, for all parameters at once."""
    own: list[torch.Tensor] = list(teacher.parameters())
    theirs = [parameter.detach() for parameter in student.parameters()]
    torch._foreach_lerp_(own, theirs, 1.0 - momentum)
