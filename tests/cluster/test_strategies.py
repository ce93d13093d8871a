"""A tiny Llama on two nodes of a real Slurm, by every strategy: the losses are those of one process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_slurm import SMALL, finish, launch, manifest, nothing_left_behind, output, records, sacct

from fourfold import record

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
__all__ = ["nothing_left_behind", "output"]

WORDS = ["benchmark=llama", "scale=smoke", "until.steps=8", "hardware=a100", "tracking=off"]
# The emulated nodes are one machine: they meet on the loopback interface, and their names are not known to it.
MEET = "hardware.launcher.setup=['export MASTER_ADDR=127.0.0.1','export GLOO_SOCKET_IFNAME=lo']"
TOLERANCE = 2e-6  # as in tests/launch/test_several_ranks.py


@pytest.mark.parametrize(
    ("strategies", "batch"), [("ddp,fsdp", 2), pytest.param("tensor,replicas", 4, marks=pytest.mark.slow)]
)
def test_two_nodes_learn_what_one_process_learns(
    slurm: Path, output: Path, run: Callable[..., Any], strategies: str, batch: int
) -> None:
    words = [*WORDS, *SMALL, MEET, "hardware.nodes=2", f"strategy={strategies}", f"batch={batch}"]
    finish(launch(output, words), 0)
    alone = record.read_series(run(*WORDS, "hardware.stand_in=true", "batch=4").folder)["loss"]
    assert len(alone) == 8
    jobs = {cell["cell"]: cell["job"] for cell in manifest(output)["cells"]}
    found = {one.config["strategy"]: one for one in records(output)}
    assert sorted(found) == sorted(strategies.split(","))
    for strategy, one in found.items():
        assert (one.state, one.evidence) == ("done", "simulated")
        assert sacct("NNodes")[jobs[one.cell]] == "2"
        series = record.read_series(output / "cells" / one.cell)
        np.testing.assert_allclose(series["loss"], alone, rtol=TOLERANCE)
        if strategy == "replicas":
            np.testing.assert_array_equal(series["copies.1.loss"], series["loss"])
