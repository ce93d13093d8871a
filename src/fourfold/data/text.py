"""Text as bytes, one token a byte, so that no tokenizer has to be fetched: real text, and text of several domains."""

import math
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fourfold.data.tensors import Batch, Sets
from fourfold.errors import Refused, Unavailable
from fourfold.randomness import generator


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


# -------------------------------------------------------------------------------------------- domains


@dataclass(frozen=True)
class DomainText:
    """Windows [n, sequence + 1] of bytes, none across two domains; ``domains`` [n] numbers where each comes from."""

    windows: Tensor
    domains: Tensor

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, indices: Tensor) -> Batch:
        windows = self.windows[indices].long()
        return Batch(windows[:, :-1], windows[:, 1:])

    def to(self, device: torch.device) -> "DomainText":
        return DomainText(self.windows.to(device), self.domains)

    def part(self, indices: Tensor) -> "DomainText":
        """The windows of these indices, in the order of the data."""
        kept = indices.sort().values
        return DomainText(self.windows[kept], self.domains[kept])


def text_domains(
    data_dir: str, seed: int, sequence: int, megabytes: float, domains: int, symbols: int, folder: str | None = None
) -> Sets:
    """Text of several domains, ``megabytes`` each; the last tenth of each is for testing.

    folder: each of its folders, in the order of their names, is a domain, of the .txt files in it. None: ``domains``
    Markov chains over ``symbols`` bytes, drawn by the seed 0 whatever the cell's, so that all seeds meet the same.
    Raises Unavailable if a folder holds too little text, Refused if there are not ``domains`` folders.
    """
    limit = int(megabytes * 1e6)
    if folder is None:
        texts = [markov_text(transitions(symbols, number), limit, number) for number in range(domains)]
    else:
        texts = [_text_of(path, limit, sequence) for path in _folders(Path(data_dir) / folder, domains)]
    parts = [_windows(text, sequence) for text in texts]
    cuts = [len(windows) * 9 // 10 for windows in parts]
    train = _of_domains([windows[:cut] for windows, cut in zip(parts, cuts, strict=True)])
    test = _of_domains([windows[cut:] for windows, cut in zip(parts, cuts, strict=True)])
    return Sets(train, test, 256, (sequence,))


def transitions(symbols: int, number: int) -> Tensor:
    """The chances [symbols, symbols] of the next symbol, each row a draw from a Dirichlet distribution of 0.1."""
    draw = np.random.default_rng([number, symbols])
    return torch.from_numpy(draw.dirichlet(np.full(symbols, 0.1), size=symbols))


def markov_text(chances: Tensor, length: int, number: int) -> Tensor:
    """``length`` bytes of a first-order Markov chain, from 64 walks side by side, one after another."""
    walks = 64
    steps = math.ceil(length / walks)
    draw = generator(0, "domain", number)
    chosen = torch.rand(steps, walks, generator=draw, dtype=torch.float64)
    totals = chances.cumsum(1)
    symbol = torch.randint(len(chances), (walks,), generator=draw)
    text = torch.empty(steps, walks, dtype=torch.uint8)
    for step in range(steps):
        symbol = torch.searchsorted(totals[symbol], chosen[step, :, None]).clamp_(max=len(chances) - 1)[:, 0]
        text[step] = symbol
    return text.T.reshape(-1)[:length]


def entropy_rate(chances: Tensor) -> float:
    """-sum_i p_i sum_j P_ij ln P_ij in nats a symbol, p the chain's stationary distribution: what no model beats."""
    stationary = torch.linalg.matrix_power(chances, 2**20)[0]
    return float(-(stationary[:, None] * torch.special.xlogy(chances, chances)).sum())


def _folders(root: Path, domains: int) -> list[Path]:
    found = sorted(path for path in root.glob("*") if path.is_dir())
    if not found:
        raise Unavailable(f"{root}: no folders there; put one with .txt files for each domain")
    if len(found) < domains:
        raise Refused(f"benchmark.data.domains={domains}: {root} has {len(found)} folders, one a domain")
    return found[:domains]


def _text_of(folder: Path, limit: int, sequence: int) -> Tensor:
    content = b"".join(path.read_bytes() for path in sorted(folder.glob("**/*.txt")))[:limit]
    if len(content) < 10 * (sequence + 1):
        raise Unavailable(f"{folder}: too little text for windows of {sequence} tokens; put .txt files there")
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())


def _windows(text: Tensor, sequence: int) -> Tensor:
    return text.unfold(0, sequence + 1, sequence).clone()


def _of_domains(parts: list[Tensor]) -> DomainText:
    numbers = [torch.full((len(part),), number) for number, part in enumerate(parts)]
    return DomainText(torch.cat(parts), torch.cat(numbers))
