"""Processes that prepare batches ahead of the loop, so that reading and decoding are part of what is measured."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fourfold.data.tensors import Batch, Data

Draw = tuple[int, Tensor, Tensor, int]  # number of the batch, indices, contexts, samples of all ranks
AHEAD = 4  # batches that each worker may have ready


class _Fetched(Dataset[Any]):
    """What the workers hold: a draw to the draw and its batch, on the CPU. Data may have a ``fetch`` for them."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __getitem__(self, draw: Draw) -> Any:
        fetch = getattr(self.data, "fetch", self.data.batch)
        batch = fetch(draw[1])
        return draw, batch.inputs, batch.targets


def prepared(data: Data, draws: Iterator[Draw], workers: int, device: torch.device) -> Iterator[tuple[Draw, Batch]]:
    """Each draw with its batch on the device, in their order, prepared from ``data`` on the CPU by so many processes.

    They end with the iteration.
    """
    loader: DataLoader[Any] = DataLoader(
        _Fetched(data),
        sampler=draws,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=AHEAD,
        pin_memory=device.type != "cpu",
        generator=torch.Generator(),  # else the loader would draw from the cell's own stream
    )
    for draw, inputs, targets in loader:
        yield draw, ready(Batch(inputs, targets), device)


def ready(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device; bytes become numbers between 0 and 1 there."""
    return Batch(_moved(batch.inputs, device), _moved(batch.targets, device, scaled=False))


def _moved(values: Any, device: torch.device, scaled: bool = True) -> Any:
    if isinstance(values, Mapping):
        return {name: _moved(value, device, scaled) for name, value in values.items()}
    moved = values.to(device, non_blocking=True)
    return moved.float().div_(255) if scaled and moved.dtype == torch.uint8 else moved
