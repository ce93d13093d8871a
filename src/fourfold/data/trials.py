"""For workloads that make their own data: numbered trials, nothing else."""

import torch

from fourfold.data.tensors import Sets, TensorData


def trials(data_dir: str, seed: int, samples: int) -> Sets:
    """``samples`` trials; a batch of them says how many are wanted."""
    numbers = torch.arange(samples)
    data = TensorData(numbers, torch.zeros(samples, dtype=torch.long))
    return Sets(data, data, 1, ())
