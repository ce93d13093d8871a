"""One cell in this process: ``python run.py ...`` without -m, and ``fourfold.run([...])``."""

import functools
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fourfold import composition, tuning
from fourfold.errors import Refused
from fourfold.launch import leases, progress, suites, sweep
from fourfold.launch.changed import changed_since
from fourfold.launch.ending import interrupted, readable, settle, signature
from fourfold.launch.jobs import Job, RankJob, number_of_ranks
from fourfold.launch.local import run_local
from fourfold.launch.manifest import Manifest, new_identity
from fourfold.launch.sharing import POLL
from fourfold.launch.stop import Stop
from fourfold.launch.task import RunCell, guarded, run_cell
from fourfold.record import Record


def run_here(overrides: Sequence[str]) -> Record:
    """Composes, checks and runs one cell; returns its record. Raises Refused, with nothing started."""
    chosen, overrides = suites.take_out(overrides)
    if chosen:
        raise Refused(f"{chosen[0]}: a suite is many cells; run it from the shell: python run.py -m {chosen[0]}")
    overrides = composition.with_tuned(overrides)
    cell = composition.plain(composition.compose(overrides))
    folder = Path(os.path.abspath(cell["output_dir"])) / "cells" / composition.cell_name(cell)
    found = run_one(run_cell, cell, folder, list(overrides), ["fourfold.run", *overrides], quiet=True)
    if found.state == "interrupted":
        raise KeyboardInterrupt
    return found


def run_one(
    run: RunCell, cell: dict[str, Any], folder: Path, overrides: list[str], command: Sequence[str], quiet: bool = False
) -> Record:
    """Runs a checked cell unless ``rerun`` says that it is done; its record goes to the manifest and to MLflow.

    Raises Refused if there is nothing to run or the output folder cannot be written.
    """
    if cell["dry_run"]:
        raise Refused("dry_run=true plans sweeps (-m); python -m fourfold explain tells what one cell would run")
    output_dir = Path(os.path.abspath(cell["output_dir"]))
    say = (lambda line: None) if quiet else progress.say
    if idle := tuning.idle_search([(overrides, cell)]):
        say(idle)
    if not sweep.is_left(folder, cell["rerun"]):
        found = readable(folder)
        if found is None:
            raise Refused(f"rerun={cell['rerun']}: nothing to run, since this cell has no record")
        say(f"rerun={cell['rerun']}: not run again")
    else:
        entry = {"index": 0, "cell": folder.name, "folder": os.path.relpath(folder, output_dir), "overrides": overrides}
        changed = changed_since(output_dir, [(folder.name, overrides, cell)]) if cell["rerun"] != "all" else None
        manifest = Manifest(output_dir, new_identity(), command, [entry])
        sweep.start(manifest, cell["tracking"], output_dir)
        sweep.prepare_tracking(cell["tracking"], output_dir)
        if changed:
            say(changed)
        if cell["rerun"] == "all":
            sweep.anew(folder)
        found = _run(run, cell, folder, overrides)
        manifest.update(0, state=found.state)
        sweep.finish(manifest, cell["tracking"], output_dir, [folder])
    say(progress.summary([(found, folder)]))
    if not quiet:
        sweep.say_how_to_continue([found], command)
    return found


def _run(run: RunCell, cell: dict[str, Any], folder: Path, overrides: list[str]) -> Record:
    before = signature(folder)
    if needs_ranks(cell):
        return _run_ranks(run, cell, folder, overrides, before)
    told = False
    try:
        with _terminated_like_interrupted():
            while True:
                with leases.alone(folder, before) as elsewhere:
                    if elsewhere is None:
                        return guarded(run, cell, folder, overrides)
                    found = readable(folder) if leases.ended_since(folder, before) else None
                if found is not None:
                    return found
                if not told:
                    progress.say(f"{folder.name} is {elsewhere.why}; its record will be taken")
                told = True
                while leases.holder(folder):
                    time.sleep(POLL)
    except KeyboardInterrupt:
        return settle(cell, folder, overrides, before, interrupted(None))


def needs_ranks(cell: dict[str, Any]) -> bool:
    """Whether this machine can run the cell, and several processes have to be started for it."""
    hardware = cell["hardware"]
    several = hardware["devices"] > 1 and hardware["nodes"] == 1 and number_of_ranks() == 1
    return several and cell["mode"] != "projected"


def _run_ranks(
    run: RunCell, cell: dict[str, Any], folder: Path, overrides: list[str], before: tuple[int, int] | None
) -> Record:
    """The cell as processes of its own, one a device; its record is that of the first."""
    guard = functools.partial(guarded, run)
    ranks = RankJob(guard, cell, folder, overrides, before)
    job = Job(ranks, timeout=cell["timeout"], ranks=cell["hardware"]["devices"])
    with Stop() as stop:
        run_local([job], str(folder / ".submitit" / "%j"), stop)
    return settle(cell, folder, overrides, before, job.ending or interrupted(None))


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Within the block SIGTERM does what Ctrl-C does, so that the cell can write its record."""

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
