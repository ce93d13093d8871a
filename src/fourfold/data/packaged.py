"""Data that comes with a library, so that it is always here."""

import torch

from fourfold.data.tensors import Sets, TensorData, choose


def digits(data_dir: str, seed: int, samples: int | None = None) -> Sets:
    """scikit-learn's digits: 1,797 pen digits [1, 8, 8] in [0, 1], 10 classes; every fifth is for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images).float().div_(16).unsqueeze(1)
    targets = torch.from_numpy(bunch.target).long()
    held_out = torch.arange(len(targets)) % 5 == 4
    train = TensorData(inputs[~held_out], targets[~held_out])
    return Sets(choose(train, samples, seed), TensorData(inputs[held_out], targets[held_out]), 10, (1, 8, 8))
