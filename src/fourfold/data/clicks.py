"""Seeded synthetic impressions: numbers, categories, and whether there was a click."""

import torch

from fourfold.data.captions import NamedData
from fourfold.data.tensors import Sets
from fourfold.randomness import generator


def clicks(data_dir: str, seed: int, samples: int, dense: int, tables: int, rows: int, members: int) -> Sets:
    """Impressions of ``dense`` numbers and, for each of ``tables`` categories, ``members`` of its ``rows``.

    Clicks depend on the numbers and on the first member of each category. A tenth is for testing.
    """
    draw = generator(seed, "clicks")
    numbers = torch.randn(samples, dense, generator=draw)
    categories = torch.randint(0, rows, (samples, tables, members), generator=draw, dtype=torch.int32)
    weights = torch.randn(dense, generator=draw)
    liked = (categories[:, :, 0] % 7 < 3).float().mean(1) - 3 / 7
    chance = torch.sigmoid(3 * numbers @ weights / dense**0.5 + 4 * liked)
    targets = (torch.rand(samples, generator=draw) < chance).long()
    kept = samples * 9 // 10 or 1
    parts = [slice(0, kept), slice(kept if kept < samples else 0, samples)]
    train, test = (NamedData({"dense": numbers[p], "sparse": categories[p]}, targets[p]) for p in parts)
    return Sets(train, test, 2, (dense,))
