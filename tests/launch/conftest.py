"""Command lines run in this process, with an experiment that costs nothing and without MLflow."""

import copy
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.singleton import Singleton
from standing_in import stand_in

from fourfold.launch import main


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs leave what they leave; not made yet."""
    monkeypatch.setenv("FOURFOLD_OUTPUT", str(tmp_path / "outputs"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return tmp_path / "outputs"


@pytest.fixture
def hydra_as_it_was() -> Iterator[None]:
    """Hydra's singletons and Python's loggers survive a run in this process unchanged."""
    state = copy.deepcopy(Singleton.get_state())
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    Singleton.set_state(state)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def shell(output: Path, hydra_as_it_was: None) -> Callable[..., int]:
    """A command line, run in this process with the stand-in experiment and without MLflow; its exit status."""

    def run(*words: str) -> int:
        return main.run_command_line([*words, "tracking=off"], stand_in)

    return run
