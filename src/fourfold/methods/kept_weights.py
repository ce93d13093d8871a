"""Meta-trained weights kept in a folder, so that methods and streams that share their pre-training pay for it once."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourfold.errors import Unavailable


def place(folder: str, identity: Mapping[str, Any]) -> Path:
    """The file of a pre-training, named by everything that decides its result."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return Path(folder) / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.pt"


def save(path: Path, values: Mapping[str, Tensor], rates: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Writes a pre-training's result, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {"values": _plain(values), "rates": _plain(rates), "told": dict(told)}
    temporary = path.with_suffix(f".{os.getpid()}")
    torch.save(parts, temporary)
    temporary.replace(path)


def load(path: Path, values: Mapping[str, Tensor], rates: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Fills in what ``save`` wrote, and returns what was told; None if there is no such file.

    Raises Unavailable if it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        parts = torch.load(path, weights_only=True)
        with torch.no_grad():
            for own, kept in ((values, parts["values"]), (rates, parts["rates"])):
                for name, value in own.items():
                    value.copy_(kept[name])
    except Exception as error:
        raise Unavailable(f"method.keep: {path} is not a readable pre-training ({type(error).__name__})") from error
    return dict(parts["told"])


def _plain(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in values.items()}
