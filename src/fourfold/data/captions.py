"""Seeded synthetic pictures with captions, for workloads that join the two."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fourfold.data.synthetic import images
from fourfold.data.tensors import Batch, Sets
from fourfold.randomness import generator

T5_WORDS = 32000  # T5's vocabulary is smaller than CLIP's


@dataclass(frozen=True)
class NamedData:
    """Several inputs [n, ...] by name and targets [n]; bytes stay bytes until they are drawn, then lie in [0, 1]."""

    inputs: Mapping[str, Tensor]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor) -> Batch:
        drawn = {name: values[indices] for name, values in self.inputs.items()}
        for name, values in drawn.items():
            if values.dtype == torch.uint8:
                drawn[name] = values.float().div_(255)
        return Batch(drawn, self.targets[indices])

    def to(self, device: torch.device) -> "NamedData":
        return NamedData({name: values.to(device) for name, values in self.inputs.items()}, self.targets.to(device))


def captioned(
    data_dir: str,
    seed: int,
    samples: int,
    classes_used: int,
    image_size: int,
    vocabulary: int,
    tokens: int,
    long_tokens: int | None = None,
) -> Sets:
    """Synthetic pictures [3, size, size], each with the caption of its class in ``tokens`` tokens, which end with the
    highest one, as CLIP's do; and, where ``long_tokens`` is given, with a second caption of that length, for T5."""
    pictures = images(data_dir, seed, samples, classes_used, image_size).train
    draw = generator(seed, "captions")
    captions = torch.randint(3, vocabulary - 1, (classes_used, tokens), generator=draw)
    captions[:, -1] = vocabulary - 1
    inputs = {"pictures": pictures.inputs, "tokens": captions[pictures.targets]}
    if long_tokens is not None:
        long = torch.randint(3, min(vocabulary, T5_WORDS), (classes_used, long_tokens), generator=draw)
        inputs["long_tokens"] = long[pictures.targets]
    data = NamedData(inputs, pictures.targets)
    return Sets(data, data, classes_used, (3, image_size, image_size))
