"""Memories of past samples."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Reservoir:
    """Keeps a uniform choice of everything offered: after n samples each is in with probability min(1, size/n).

    Algorithm R (Vitter 1985), a batch at a time: the result is that of offering the samples one by one. Draws come
    from a CPU generator of its own.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size = size
        self.generator = generator
        self.offered = 0
        self.parts: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return min(self.offered, self.size)

    def add(self, **samples: Tensor) -> None:
        """Offers a batch: tensors of equal length, named as they will be drawn."""
        count = len(next(iter(samples.values())))
        numbers = torch.arange(self.offered, self.offered + count)
        draws = (torch.rand(count, generator=self.generator, dtype=torch.float64) * (numbers + 1)).long()
        places = torch.where(numbers < self.size, numbers, draws)
        kept = (places < self.size).nonzero().flatten()
        # Where two samples of the batch fall on one place, the later one stays, as if they had come one by one.
        winner = {int(places[sample]): int(sample) for sample in kept}
        self.offered += count
        if not winner:
            return
        into = torch.tensor(list(winner.keys()))
        taken = torch.tensor(list(winner.values()))
        for name, values in samples.items():
            if name not in self.parts:
                self.parts[name] = torch.zeros(self.size, *values.shape[1:], dtype=values.dtype, device=values.device)
            self.parts[name][into.to(values.device)] = values.detach()[taken.to(values.device)]

    def draw(self, count: int) -> dict[str, Tensor]:
        """``count`` samples drawn uniformly without repetition (all there are, if fewer)."""
        if count >= len(self):
            chosen = torch.arange(len(self))
        else:
            chosen = torch.randperm(len(self), generator=self.generator)[:count]
        return {name: values[chosen.to(values.device)] for name, values in self.parts.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"offered": self.offered, "parts": dict(self.parts), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.offered = state["offered"]
        self.parts = dict(state["parts"])
        self.generator.set_state(state["generator"])
