"""Real text as bytes: one token a byte, so that no tokenizer has to be fetched."""

import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fourfold.data.tensors import Batch, Sets
from fourfold.errors import Unavailable


@dataclass(frozen=True)
class TextData:
    """Windows of ``sequence`` tokens; the target of each token is the next one. Tokens are bytes."""

    tokens: Tensor
    sequence: int

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.sequence

    def batch(self, indices: Tensor) -> Batch:
        within = torch.arange(self.sequence + 1, device=self.tokens.device)
        windows = self.tokens[indices[:, None] * self.sequence + within].long()
        return Batch(windows[:, :-1], windows[:, 1:])

    def to(self, device: torch.device) -> "TextData":
        return TextData(self.tokens.to(device), self.sequence)


def text(data_dir: str, seed: int, sequence: int, megabytes: float, folder: str | None = None) -> Sets:
    """Real text found on this machine: every .txt file in data_dir/``folder`` if one is named, else the sources of
    the Python standard library. The last tenth is for testing.

    Raises Unavailable if the folder holds no text.
    """
    if folder is None:
        root = Path(sysconfig.get_paths()["stdlib"])
        files = sorted(path for path in root.glob("**/*.py") if "site-packages" not in path.parts)
    else:
        root = Path(data_dir) / folder
        files = sorted(root.glob("**/*.txt"))
    limit = int(megabytes * 1e6)
    content = bytearray()
    for path in files:
        content += path.read_bytes()
        if len(content) >= limit:
            break
    if len(content) < 10 * (sequence + 2):
        raise Unavailable(f"{root}: too little text for windows of {sequence} tokens; put .txt files there")
    tokens = torch.from_numpy(np.frombuffer(bytes(content[:limit]), np.uint8).copy())
    cut = len(tokens) * 9 // 10
    return Sets(TextData(tokens[:cut], sequence), TextData(tokens[cut:], sequence), 256, (sequence,))
