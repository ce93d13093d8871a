"""One thread a process, nothing from the network, no data folder but the one that FOURFOLD_DATA names."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """Runs one cell in this process from the words of a shell; returns its record (its folder: ``record.folder``)."""
    import torch

    from fourfold.composition import cell_name, compose, plain
    from fourfold.experiment import run_cell

    torch.set_num_threads(1)

    def run_one(*words: str) -> Any:
        cell = plain(compose([*words, f"output_dir={tmp_path}", "progress=off"]))
        folder = tmp_path / "cells" / cell_name(cell)
        record = run_cell(cell, folder, list(words))
        record.folder = folder
        return record

    return run_one


@pytest.fixture
def real_data() -> str:
    """The folder of real data sets; skips the test where there is none."""
    folder = os.environ.get("FOURFOLD_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FOURFOLD_DATA names no folder of real data sets")
    return folder
