"""A real Slurm of six emulated nodes, started for these tests and stopped after them."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
# Beside the script's own partition "preemptible": one that cancels what it preempts, without notice.
SCAVENGE = "PartitionName=scavenge Nodes=ALL PriorityTier=1 PreemptMode=CANCEL GraceTime=0"


def free_port_range(size: int = 40) -> int:
    """The first of ``size`` neighbouring ports of which none is taken now."""
    for base in range(28817, 60000, size):
        if all(_is_free(base + offset) for offset in (0, 1, *range(11, 20))):
            return base
    pytest.skip("no free ports for a Slurm of our own")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """Sets SLURM_CONF to a cluster with nodes a100-1, a100-2, mi300x-1, mi300x-2, cpu-1, cpu-2; skips, saying why."""
    folder = Path(tempfile.mkdtemp(prefix="fourfold-slurm-", dir="/tmp"))  # sockets need a short path
    folder.rmdir()
    command = [str(HERE / "start-test-cluster"), "--dir", str(folder), "--base-port", str(free_port_range())]
    command += ["--conf", SCAVENGE]
    started = subprocess.run(command, capture_output=True, text=True, check=False)
    if started.returncode != 0:
        reason = (started.stderr.strip().splitlines() or ["no reason given"])[-1]
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"no Slurm can be started here: {reason}")
    try:
        os.environ["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
        yield folder
    finally:
        os.environ.pop("SLURM_CONF", None)
        subprocess.run([str(HERE / "stop-test-cluster"), "--dir", str(folder), "--purge", "--quiet"], check=False)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """The record of a cell that nothing happens to, from the words of a shell; run here, once."""
    import torch

    from fourfold.composition import cell_name, compose, plain
    from fourfold.experiment import run_cell

    torch.set_num_threads(1)

    @cache
    def run_one(*words: str) -> Any:
        output = tmp_path_factory.mktemp("undisturbed")
        cell = plain(compose([*words, f"output_dir={output}", "progress=off"]))
        return run_cell(cell, output / cell_name(cell), list(words))

    return run_one
