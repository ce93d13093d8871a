"""Memories of past samples: which ones stay, how they are stored, how they are drawn."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fourfold.errors import Refused
from fourfold.settings.stream import Observation, View

OFFER_BATCH = 500  # samples of an ended context offered to a memory at once


class Memory:
    """Up to ``size`` samples, each a row of named tensors. What a subclass decides is which row goes where.

    Inputs that are bytes divided by 255 are stored as bytes and come back the same to the last bit. All draws come
    from a CPU generator of its own. Places are used from 0 up.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size = size
        self.generator = generator
        self.filled = 0
        self.parts: dict[str, Tensor] = {}
        self.packed: list[str] = []

    def __len__(self) -> int:
        return self.filled

    def add(self, **samples: Tensor) -> None:
        """Offers a batch: tensors of equal length, named as they will be drawn; ``group`` is looked at, not stored."""
        self.place(self.places(samples), samples)

    def place(self, placed: Mapping[int, int], samples: Mapping[str, Tensor]) -> None:
        """Writes rows of a batch to places: {place: row}."""
        if not placed:
            return
        self.filled = max(self.filled, max(placed) + 1)
        into = torch.tensor(list(placed))
        taken = torch.tensor(list(placed.values()))
        for name, values in samples.items():
            if name == "group":
                continue
            self._write(name, into.to(values.device), values.detach()[taken.to(values.device)])

    def places(self, samples: Mapping[str, Tensor]) -> dict[int, int]:
        """The place of each sample that is kept: {place: row of the batch}."""
        raise NotImplementedError

    def draw(self, count: int) -> dict[str, Tensor]:
        """``count`` samples drawn uniformly without repetition (all there are, if fewer)."""
        if count >= len(self):
            chosen = torch.arange(len(self))
        else:
            chosen = torch.randperm(len(self), generator=self.generator)[:count]
        return self.rows(chosen)

    def rows(self, chosen: Tensor) -> dict[str, Tensor]:
        """The samples at these places."""
        found = {name: values[chosen.to(values.device)] for name, values in self.parts.items()}
        return {name: _from_bytes(values) if name in self.packed else values for name, values in found.items()}

    def _write(self, name: str, into: Tensor, rows: Tensor) -> None:
        packed = _to_bytes(rows) if name not in self.parts or name in self.packed else None
        if name not in self.parts:
            kind = rows if packed is None else packed
            self.parts[name] = torch.zeros(self.size, *rows.shape[1:], dtype=kind.dtype, device=rows.device)
            self.packed += [] if packed is None else [name]
        elif name in self.packed and packed is None:  # no longer bytes: from now on as it comes
            self.parts[name] = _from_bytes(self.parts[name])
            self.packed.remove(name)
        self.parts[name][into] = rows if packed is None else packed

    def bytes(self) -> int:
        """Memory in use."""
        return sum(values.numel() * values.element_size() for values in self.parts.values())

    def state_dict(self) -> dict[str, Any]:
        return {
            "filled": self.filled,
            "parts": dict(self.parts),
            "packed": list(self.packed),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.filled = state["filled"]
        self.parts = dict(state["parts"])
        self.packed = list(state["packed"])
        self.generator.set_state(state["generator"])


class Reservoir(Memory):
    """Keeps a uniform choice of everything offered: after n samples each is in with probability min(1, size/n).

    Algorithm R (Vitter 1985), a batch at a time: the result is that of offering the samples one by one.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        super().__init__(size, generator)
        self.offered = 0

    def places(self, samples: Mapping[str, Tensor]) -> dict[int, int]:
        count = len(next(iter(samples.values())))
        numbers = torch.arange(self.offered, self.offered + count)
        draws = (torch.rand(count, generator=self.generator, dtype=torch.float64) * (numbers + 1)).long()
        places = torch.where(numbers < self.size, numbers, draws)
        kept = (places < self.size).nonzero().flatten()
        self.offered += count
        # Where two samples of the batch fall on one place, the later one stays, as if they had come one by one.
        return dict(zip(places[kept].tolist(), kept.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "offered": self.offered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.offered = state["offered"]


class ByClass(Memory):
    """A memory that looks at the samples' classes; ``places_of`` are each class's places, the oldest first.

    A class is a ``group`` where samples come with one (``group_of``), else a target.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        super().__init__(size, generator)
        self.places_of: dict[int, list[int]] = {}

    def places(self, samples: Mapping[str, Tensor]) -> dict[int, int]:
        placed: dict[int, int] = {}
        used = self.filled
        for row, label in enumerate(samples.get("group", samples["targets"]).tolist()):
            place = self._place(label, used)
            if place is not None:
                used = max(used, place + 1)
                placed[place] = row
        return placed

    def _place(self, label: int, used: int) -> int | None:
        """Where a sample of this class goes, with ``used`` places in use; None if it is not kept."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "places_of": {label: list(own) for label, own in self.places_of.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.places_of = {label: list(own) for label, own in state["places_of"].items()}


class Balanced(ByClass):
    """Greedy balancing of the classes (GDumb; Prabhu, Torr & Dokania 2020).

    Any sample is taken while there is room (the paper takes none beyond size / classes); where all is full, one whose
    class has less than size / classes replaces a random one of the largest class. A class that has ``each`` samples
    takes no more, also while there is room.
    """

    def __init__(self, size: int, generator: torch.Generator, each: int | None = None) -> None:
        super().__init__(size, generator)
        self.each = size if each is None else each

    def _place(self, label: int, used: int) -> int | None:
        own = self.places_of.setdefault(label, [])
        if len(own) >= self.each:
            return None
        if used < self.size:
            place = used
        elif len(own) * len(self.places_of) >= self.size:
            return None
        else:
            largest = max(self.places_of.values(), key=len)
            at = int(torch.randint(len(largest), (1,), generator=self.generator))
            place = largest.pop(at)
        own.append(place)
        return place


class Ring(ByClass):
    """The newest size / ``classes`` samples of each class, first in, first out (Lopez-Paz & Ranzato 2017)."""

    def __init__(self, size: int, generator: torch.Generator, classes: int) -> None:
        super().__init__(size, generator)
        self.each = size // classes

    def _place(self, label: int, used: int) -> int | None:
        own = self.places_of.setdefault(label, [])
        own.append(used if len(own) < self.each else own.pop(0))
        return own[-1]


def memory(storage: str, size: int, generator: torch.Generator, view: View, each: int | None = None) -> Memory:
    """reservoir | balanced | ring, of a size; ``each`` is for balanced ones.

    Raises Refused for ``each`` with another, and for a ring that is too small for one sample of each class.
    """
    if each is not None and storage != "balanced":
        raise Refused(f"method.each={each}: method.storage={storage} does not count classes; choose balanced")
    if storage == "reservoir":
        return Reservoir(size, generator)
    if storage == "balanced":
        return Balanced(size, generator, each)
    classes = groups_in(view)
    if size < classes:
        raise Refused(f"method.memory={size}: storage=ring needs a place for each of {classes} classes")
    return Ring(size, generator, classes)


def groups_in(view: View) -> int:
    """How many values ``group_of`` can have."""
    told = view.tasks if "task_labels_train" in view.grants and "shared_outputs" in view.grants else None
    return view.outputs * (told or 1)


def group_of(observation: Observation, view: View) -> Tensor:
    """What a memory is balanced over, [batch]: the target; where tasks that are told share their outputs, the target
    within its task, since targets alone would leave no room for later tasks.
    """
    apart = "task" in observation and "shared_outputs" in view.grants
    return observation.task * view.outputs + observation.targets if apart else observation.targets


def stored_bytes(values: Tensor) -> int:
    """What a memory needs to keep these values."""
    return values.numel() * (1 if _to_bytes(values) is not None else values.element_size())


def _to_bytes(values: Tensor) -> Tensor | None:
    """Values as bytes, if ``_from_bytes`` gives them back exactly; else None."""
    if values.dtype != torch.float32:
        return None
    packed = values.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return packed if torch.equal(_from_bytes(packed), values) else None


def _from_bytes(values: Tensor) -> Tensor:
    return values.float().div_(255)
