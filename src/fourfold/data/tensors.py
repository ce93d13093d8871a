"""Data in memory: whole batches are gathered by index, there is no per-sample Python."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from fourfold.errors import Refused
from fourfold.randomness import generator


@dataclass(frozen=True)
class Batch:
    """What a model is given and what is expected of it: tensors, or dictionaries of tensors."""

    inputs: Any
    targets: Any


class Data(Protocol):
    """A data set that can be drawn from by index."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> Batch:
        """The samples of these indices, ready for the model."""
        ...

    def to(self, device: torch.device) -> "Data":
        """The same data on a device."""
        ...


@dataclass(frozen=True)
class TensorData:
    """Inputs [n, ...] and class targets [n]; bytes stay bytes until they are drawn, then lie in [0, 1].

    domains: [n], where each sample comes from (a font, a speaker, a language), by numbers that training and test share;
    None if all are alike.
    """

    inputs: Tensor
    targets: Tensor
    prepare: Callable[[Tensor], Tensor] = field(default=lambda inputs: inputs)
    domains: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor) -> Batch:
        inputs = self.inputs[indices]
        if inputs.dtype == torch.uint8:
            inputs = inputs.float().div_(255)
        return Batch(self.prepare(inputs), self.targets[indices])

    def to(self, device: torch.device) -> "TensorData":
        return TensorData(self.inputs.to(device), self.targets.to(device), self.prepare, self.domains)

    def part(self, indices: Tensor) -> "TensorData":
        """The samples of these indices, in the order of the data."""
        kept = indices.sort().values
        domains = None if self.domains is None else self.domains[kept]
        return TensorData(self.inputs[kept], self.targets[kept], self.prepare, domains)


@dataclass(frozen=True)
class Sets:
    """The training and test parts of a data set of ``classes`` classes and inputs of ``shape`` (without batch)."""

    train: Any
    test: Any
    classes: int
    shape: tuple[int, ...]


class Normaliser:
    """(x - mean) / deviation by channel, of pictures [batch, channels, height, width] in [0, 1]."""

    def __init__(self, means: Sequence[float], deviations: Sequence[float]) -> None:
        self.statistics = torch.tensor([means, deviations]).view(2, -1, 1, 1)
        self.on_device = self.statistics

    def __call__(self, inputs: Tensor) -> Tensor:
        if self.on_device.device != inputs.device:  # once, not each batch
            self.on_device = self.statistics.to(inputs.device)
        mean, deviation = self.on_device
        return (inputs - mean) / deviation


def normalised(sets: Sets, asked: Any) -> Sets:
    """Pictures with the means taken off and divided by the deviations: ``asked`` is [means, deviations], by channel.

    Raises Refused for anything else, and for what is no labelled pictures in [0, 1].
    """
    channels = sets.shape[0] if len(sets.shape) == 3 and isinstance(sets.train, TensorData) else 0
    if not channels:
        raise Refused("benchmark.data.normalise: these data are no pictures; leave it null")
    pair = asked if isinstance(asked, list) and len(asked) == 2 else []
    numbers = [value for part in pair if isinstance(part, list) and len(part) == channels for value in part]
    right = len(numbers) == 2 * channels and all(isinstance(value, int | float) for value in numbers)
    if not right or min(numbers[channels:]) <= 0:
        raise Refused(
            f"benchmark.data.normalise={str(asked).replace(' ', '')}: needs [means,deviations], "
            f"{channels} of each, deviations above 0"
        )
    prepare = Normaliser(*asked)
    return replace(sets, train=replace(sets.train, prepare=prepare), test=replace(sets.test, prepare=prepare))


def choose(data: TensorData, samples: int | None, seed: int) -> TensorData:
    """A seeded choice of ``samples`` of the data, in their order; all of it for None or more than there is."""
    if samples is None or samples >= len(data):
        return data
    return data.part(torch.randperm(len(data), generator=generator(seed, "choose"))[:samples])


def with_validation(sets: Sets, share: float, seed: int) -> Sets:
    """A seeded share of the training samples in the place of the test samples, which are not looked at.

    Raises Refused where no part of the training data can be taken.
    """
    if not hasattr(sets.train, "part"):
        raise Refused("evaluate_on=validation: this benchmark has no samples that can be held out; choose test")
    order = torch.randperm(len(sets.train), generator=generator(seed, "validation"))
    count = round(share * len(order))
    return replace(sets, train=sets.train.part(order[count:]), test=sets.train.part(order[:count]))


def agree(key: str, said: int, found: int) -> None:
    """Raises Refused if the number of classes that the configuration says is not the data's."""
    if said != found:
        raise Refused(f"benchmark.data.{key}={said}: these data have {found} classes; set benchmark.data.{key}={found}")
