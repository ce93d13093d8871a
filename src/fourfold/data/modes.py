"""Several data sets as one: the modes of a stream that goes from one to the other, and the classes for pre-training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fourfold.data.tensors import Batch, Sets
from fourfold.errors import Unavailable
from fourfold.members import target


@dataclass(frozen=True)
class Mode:
    """One data set of the stream. classes: the numbers [n] of its classes; probability: of a context to be its."""

    name: str
    probability: float
    classes: Tensor


@dataclass(frozen=True)
class ModeSets(Sets):
    """Data sets laid end to end, classes numbered on from one to the next.

    meta_train, meta_validation: the classes for training before the stream and for judging it; empty where there are
    none. ``group`` [n] says of each sample which class it is of, where targets are no classes (regression).
    """

    modes: tuple[Mode, ...] = ()
    meta_train: Tensor | None = None
    meta_validation: Tensor | None = None
    group: Tensor | None = None


def joined(
    data_dir: str,
    seed: int,
    modes: Mapping[str, Mapping[str, Any]],
    train_classes: int,
    validation_classes: int,
    convert: list[int] | None = None,
    published_scale: bool = False,
    **of_the_setting: int,
) -> ModeSets:
    """The modes of conf/benchmark/data/osaka_*.yaml as one data set of pictures.

    The first ``train_classes`` classes of the first mode are for pre-training, the next ``validation_classes`` for
    judging it; the stream has all classes of every mode. Pictures are bytes and drawn in [0, 1], whatever the mode;
    ``published_scale`` leaves all but the first mode's in 0 ... 255, as the published code of OSAKA did. The rest
    (ways, shots, epochs, epoch_batches) is the setting's concern. Raises Unavailable if a mode's files are absent or
    not as said.
    """
    pictures, targets, places = [], [], []
    first = 0
    for name, mode in modes.items():
        inputs, labels = _everything(name, mode, data_dir, seed)
        if convert is not None:
            inputs = converted(inputs, tuple(convert))
        classes = int(labels.max()) + 1
        if classes != mode["classes"]:
            raise Unavailable(f"benchmark.data.modes.{name}: {classes} classes found, {mode['classes']} expected")
        if tuple(inputs.shape[1:]) != tuple(convert or mode["shape"]):
            raise Unavailable(
                f"benchmark.data.modes.{name}: pictures {list(inputs.shape[1:])} found, {mode['shape']} expected"
            )
        pictures.append(inputs)
        targets.append(labels + first)
        places.append(Mode(name, float(mode["probability"]), torch.arange(first, first + classes)))
        first += classes
    loud = len(pictures[0]) if published_scale else None
    data = ModeData(torch.cat(pictures), torch.cat(targets), loud)
    meta_train = torch.arange(train_classes)
    meta_validation = torch.arange(train_classes, train_classes + validation_classes)
    return ModeSets(data, data, first, tuple(data.inputs.shape[1:]), tuple(places), meta_train, meta_validation)


def _everything(name: str, mode: Mapping[str, Any], data_dir: str, seed: int) -> tuple[Tensor, Tensor]:
    """A mode's pictures as bytes [n, channels, height, width] and their classes [n]: the training part, or all."""
    arguments = dict(mode["data"])
    load = target(arguments)
    arguments.pop("_target_")
    sets = load(data_dir=data_dir, seed=seed, **arguments)
    parts = [sets.train] if mode["part"] == "train" else [sets.train, sets.test]
    return torch.cat([as_bytes(part.inputs) for part in parts]), torch.cat([part.targets for part in parts])


def as_bytes(inputs: Tensor) -> Tensor:
    """Pictures in [0, 1] or bytes, as bytes."""
    return inputs if inputs.dtype == torch.uint8 else (inputs * 255).round().clamp(0, 255).to(torch.uint8)


def converted(pictures: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Byte pictures [n, c, h, w] in another ``shape`` [c, h, w]: bilinear, smoothed; channels by their mean."""
    if tuple(pictures.shape[1:]) == shape:
        return pictures
    parts = []
    for part in pictures.split(4096):
        values = part.float()
        if values.shape[-2:] != shape[1:]:
            values = F.interpolate(values, size=list(shape[1:]), mode="bilinear", antialias=True)
        if values.shape[1] != shape[0]:
            values = values.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
        parts.append(values.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)


@dataclass(frozen=True)
class ModeData:
    """Byte pictures [n, c, h, w] and classes [n]; drawn in [0, 1], from sample ``loud`` on (if given) in 0 ... 255."""

    inputs: Tensor
    targets: Tensor
    loud: int | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor) -> Batch:
        inputs = self.inputs[indices].float()
        if self.loud is None:
            return Batch(inputs.div_(255), self.targets[indices])
        divisor = torch.where(indices < self.loud, 255.0, 1.0).view(-1, *(1,) * (inputs.dim() - 1))
        return Batch(inputs.div_(divisor), self.targets[indices])

    def to(self, device: torch.device) -> "ModeData":
        return ModeData(self.inputs.to(device), self.targets.to(device), self.loud)
