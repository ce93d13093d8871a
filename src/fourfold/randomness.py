"""Counter-based randomness: a stream is named, not shared, so its state is its name and nothing has to be saved."""

import hashlib

import torch


def seed_of(seed: int, *names: str | int) -> int:
    """63 bits that depend on the cell's seed and on every name, and on nothing that ran before."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A fresh CPU generator for one named stream, e.g. ``generator(seed, "order", context, epoch)``."""
    return torch.Generator().manual_seed(seed_of(seed, *names))
