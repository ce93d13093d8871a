"""Several ranks of one cell on this machine, with the real experiment: they learn what one process learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold import record
from fourfold.launch import main

WORDS = ["benchmark=digits", "hardware=cpu", "until.steps=20", "tracking=off"]
# Relative, of the loss of each step: two halves of a batch are summed in another order than the whole.
TOLERANCE = 1e-5


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one_process(output: Path, hydra_as_it_was: None, run: Any) -> None:
    assert main.run_command_line(["-m", "seed=0,1", *WORDS, "hardware.devices=2", "batch=16"]) == 0
    assert main.run_command_line(["seed=2", *WORDS, "hardware.devices=2", "batch=16"]) == 0
    found = {one.axes["seed"]: folder for folder in (output / "cells").iterdir() if (one := record.read(folder))}
    assert sorted(found) == [0, 1, 2]
    for seed, folder in found.items():
        alone = run(*WORDS, f"seed={seed}", "batch=32")
        assert record.read(folder).state == alone.state == "done"
        ours, theirs = record.read_series(folder)["loss"], record.read_series(alone.folder)["loss"]
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE)
        assert record.read(folder).evaluations[-1]["value"] == pytest.approx(alone.evaluations[-1]["value"], abs=2e-3)
