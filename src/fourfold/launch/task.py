"""What Hydra calls with a composed configuration: here for a single cell, in a job for a cell of a sweep."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fourfold import composition
from fourfold.errors import Failed, FourfoldError
from fourfold.launch.jobs import fail_with_the_others
from fourfold.launch.requeue import requeue_if_preempted
from fourfold.stopping import listening

if TYPE_CHECKING:  # records bring numpy, which --help and a refusal do without
    from fourfold.record import Record

RunCell = Callable[[dict[str, Any], Path, list[str]], "Record"]


def run_cell(cell: dict[str, Any], folder: Path, overrides: list[str]) -> "Record":
    """The experiment; it brings torch, and so is imported only here, where the cell runs."""
    from fourfold.experiment import run_cell as run

    return run(cell, folder, overrides)


class CellTask:
    """Hydra's task function. In a sweep it runs in the cell's own process.

    ``suite`` holds the words that choose the rows of a sweep, ``ran`` says whether anything was to run at all (not
    --help), ``records`` what came of it, and ``refusal`` why not: Hydra would print a line of its own about an
    error raised from here.
    """

    def __init__(self, run: RunCell = run_cell, command: list[str] | None = None) -> None:
        self.run = run
        self.command = command or []
        self.suite: list[str] = []
        self.records: list[Record] = []
        self.ran = False
        self.refusal: FourfoldError | None = None

    def __call__(self, config: DictConfig) -> str:
        """Runs the cell in the folder that Hydra made; returns the state that it ended in."""
        hydra = HydraConfig.get()
        cell = composition.plain(config)
        folder, overrides = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
        if hydra.mode == RunMode.MULTIRUN:
            found = guarded(self.run, cell, folder, overrides)
            requeue_if_preempted(found, folder, cell["max_requeue"])
            fail_with_the_others(found)
            return found.state
        from fourfold.launch.single import run_one

        self.ran = True
        try:
            self.records.append(run_one(self.run, cell, folder, overrides, self.command))
        except FourfoldError as error:
            self.refusal = error
            return error.state
        return self.records[-1].state


def guarded(run: RunCell, cell: dict[str, Any], folder: Path, overrides: list[str]) -> "Record":
    """The cell's record, whatever happens but an interruption, within its ``timeout``."""
    try:
        with listening(cell["timeout"]):
            return run(cell, folder, overrides)
    except Exception as error:  # not from the experiment, which writes its own record: from around it
        from fourfold.launch.ending import BUG, blank_record, write_if_possible

        found = blank_record(cell, folder.name, overrides)
        found.ended = found.started
        found.state = error.state if isinstance(error, FourfoldError) else Failed.state
        found.reason = error.reason if isinstance(error, FourfoldError) else BUG
        found.message = str(error) if isinstance(error, FourfoldError) else f"{type(error).__name__}: {error}"
        found.traceback = traceback.format_exc()
        write_if_possible(found, folder)
        return found
