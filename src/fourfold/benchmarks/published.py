"""Published weights in place of a seeded initialisation, from files that the user has put there."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fourfold.errors import Unavailable


def load(network: nn.Module, name: str, data_dir: str) -> None:
    """Replaces the transformers model within the network by the published one, read from the safetensors files of
    data_dir/weights/``name``. Nothing is fetched.

    Raises Unavailable, with the command that fetches them, if the files are not there or do not fit.
    """
    folder = Path(data_dir) / "weights" / name
    get = f"hf download {name} --local-dir {folder}"
    if not (folder / "config.json").is_file():
        raise Unavailable(f"weights=pretrained: {name} is not in {folder}; get it with: {get}")
    own: Any = network.model
    try:
        found, facts = type(own).from_pretrained(
            folder, config=own.config, local_files_only=True, use_safetensors=True, dtype=torch.float32,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, RuntimeError, ValueError) as error:
        raise Unavailable(
            f"weights=pretrained: {folder}: {str(error).splitlines()[0]}; get it anew with: {get}"
        ) from error
    missing = sorted(facts["missing_keys"])
    if missing:
        raise Unavailable(f"weights=pretrained: {folder} lacks {len(missing)} weights, e.g. {missing[0]}; {get}")
    network.model = found
