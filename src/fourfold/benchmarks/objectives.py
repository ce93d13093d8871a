"""Losses as pure functions of outputs and targets, per sample where asked."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """-log softmax(outputs)[target] for outputs [batch, classes] and targets [batch]; [] or, for "none", [batch]."""
    return F.cross_entropy(outputs, targets, reduction=reduction)


def token_cross_entropy(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Cross entropy over tokens: outputs [batch, length, vocabulary], targets [batch, length], -100 where not counted.

    The mean is over counted tokens; "none" gives the mean of each sample, [batch].
    """
    flat = F.cross_entropy(outputs.flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="none")
    losses = flat.view(targets.shape)
    counted = targets != -100
    if reduction == "none":
        return losses.sum(1) / counted.sum(1).clamp(min=1)
    return losses.sum() / counted.sum().clamp(min=1)
