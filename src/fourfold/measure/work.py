"""Whether the work of training is really done: gradients begin anew after each update."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

# Updates of each optimizer that are looked at; after them nothing is left in the loop.
WATCHED = 3


def random_state(device: torch.device) -> Tensor:
    """Of the device's own generator, from which dropout is drawn; it moves with each draw."""
    return torch.get_rng_state() if device.type == "cpu" else torch.get_device_module(device.type).get_rng_state()


class GradientWatch:
    """Notes whether gradients of the update before are still there when the next ones come in.

    From the first update of an optimizer on, one of its parameters is watched: when the first gradient after an update
    reaches it, its ``.grad`` must be empty, or zero. Nothing is read from the device until ``zeroed`` is asked.
    """

    def __init__(self) -> None:
        self._handle = register_optimizer_step_post_hook(self._stepped)
        self._updates: dict[int, int] = {}
        self._fresh: dict[int, bool] = {}
        self._hooks: list[Any] = []
        self._left: list[Tensor] = []
        self._looks = 0

    def _stepped(self, optimizer: Optimizer, *_: Any) -> None:
        key = id(optimizer)
        count = self._updates[key] = self._updates.get(key, 0) + 1
        self._fresh[key] = count <= WATCHED
        if count > WATCHED and min(self._updates.values()) > WATCHED:
            self.close()
        elif count == 1:
            parameter = next((p for p in optimizer.param_groups[0]["params"] if p.requires_grad), None)
            if parameter is not None:
                self._hooks.append(parameter.register_hook(lambda _: self._arrived(key, parameter)))

    def _arrived(self, key: int, parameter: Tensor) -> None:
        """Before a gradient is added to the parameter's own."""
        if self._fresh.get(key):
            self._fresh[key] = False
            self._looks += 1
            if parameter.grad is not None:
                self._left.append(parameter.grad.detach().abs().sum())

    def zeroed(self) -> bool | None:
        """None if no second gradient was seen. Reads from the device: outside the loop only."""
        if not self._looks:
            return None
        return not self._left or not bool(torch.stack([left.float() for left in self._left]).sum() > 0)

    def close(self) -> None:
        """Takes the hooks away."""
        self._handle.remove()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
