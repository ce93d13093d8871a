"""A suite in which everything goes wrong that can: each row fails alone, in one line that says what would help."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fourfold import record
from fourfold.composition import compose
from fourfold.errors import NotApplicable
from fourfold.launch import main

BAD = """
overrides: [hardware=cpu, scale=smoke]
rows:
  before: {overrides: [benchmark=digits, until.steps=5]}
  too_large: {overrides: [benchmark=matmul, benchmark.model.n=1000000]}
  too_few_samples: {overrides: [benchmark=digits, batch=5000]}
  diverges: {overrides: [benchmark=digits, until.steps=50, optimizer=sgd, optimizer.learning_rate=1000000]}
  hangs: {overrides: [benchmark=matmul, until.steps=1000000000, timeout=3]}
  lacks_a_library: {overrides: [benchmark=llama, method=serving]}
  lacks_a_precision: {overrides: [benchmark=matmul, precision=fp8]}
  after: {overrides: [benchmark=digits, until.steps=6]}
"""
# row: (state, reason, what the one line says)
WANTED = {
    "before": ("done", None, None),
    "too_large": ("failed", "out of memory", "; a smaller benchmark.model.n= may fit"),
    "too_few_samples": ("refused", "refused", "these data have 1438 training samples; choose batch="),
    "diverges": ("failed", "nan", "a smaller optimizer.learning_rate="),
    "hangs": ("failed", "timeout", "timeout= gives it longer"),
    "lacks_a_library": ("unavailable", "unavailable", "pip install 'fourfold[serving]'"),
    "after": ("done", None, None),
}


@pytest.fixture
def outside(tmp_path: Path) -> str:
    folder = tmp_path / "conf" / "suite"
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_text(BAD)
    return f"hydra.searchpath=[file://{folder.parent}]"


def test_each_row_fails_alone_and_says_what_would_help(
    outside: str, output: Path, hydra_as_it_was: None, capfd: Any
) -> None:
    words = ["-m", "suite=bad", outside, "tracking=off", "progress=off"]
    assert main.run_command_line(words) == 1
    said = capfd.readouterr()
    shown = said.out + said.err
    found = {one.config["suite"]["row"]: one for one in map(record.read, (output / "cells").iterdir())}
    assert set(found) == set(WANTED)
    for row, (state, reason, remedy) in WANTED.items():
        one = found[row]
        assert (one.state, one.reason) == (state, reason), (row, one.message)
        if remedy is not None:
            assert one.message is not None
            assert remedy in one.message
            assert "\n" not in one.message
            assert one.cell in shown, f"the output does not name the cell of {row}"
            assert remedy.split("'")[0].split("=")[0] in shown
    assert "lacks_a_precision" in shown
    assert "precision=fp8: hardware cpu has bf16, fp32" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("hardware=a100 precision=fp8", "precision=fp8: hardware a100 has bf16, fp16, fp32, tf32; precision_policy="),
        (
            "hardware=mi300 precision=tf32",
            "precision=tf32: hardware mi300 has bf16, fp16, fp32, fp8; precision_policy=",
        ),
        ("hardware=cpu precision=fp16", "precision=fp16: hardware cpu has bf16, fp32; precision_policy=nearest takes"),
    ],
)
def test_a_precision_that_the_hardware_lacks(words: str, message: str) -> None:
    with pytest.raises(NotApplicable) as refused:
        compose(["benchmark=matmul", *words.split()])
    assert str(refused.value).startswith(message)


def test_a_row_that_is_not_there_is_refused_before_anything_starts(
    outside: str, output: Path, shell: Callable[..., int], capsys: Any
) -> None:
    assert shell("-m", "suite=bad", "row=befor", outside) == 2
    assert "row=befor: no such row; choose of before, too_large" in capsys.readouterr().err
    assert not output.exists()
