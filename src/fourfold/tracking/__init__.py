"""Records to MLflow. The controller alone writes it; a store that is down costs a warning, never a result.

    prepare(tracking, output_dir)                       before any cell: create the store once
    log_sweep(tracking, output_dir, sweep, cells)       afterwards: a parent run, a child for each cell
    sync(tracking, output_dir)                          later: bring everything on disk up to date

``tracking`` is the group of the configuration: {kind: local | server | off, uri, experiment}. MLflow is
imported inside the functions that need it: it takes seconds.
"""

import logging
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fourfold.errors import debugging
from fourfold.tracking.locks import locked
from fourfold.tracking.store import TrackingError, open_store, resolve

log = logging.getLogger(__name__)

__all__ = ["TrackingError", "log_sweep", "prepare", "resolve", "sync"]


def prepare(tracking: Mapping[str, Any], output_dir: Path) -> None:
    """Creates or migrates the store and the experiment; safe while another controller does the same.

    A store that cannot be reached or used is a warning: the sweep goes on, `sync` writes it later.
    Raises Refused if the configuration of tracking makes no sense.
    """
    where = resolve(tracking, Path(output_dir))
    if where is None:
        return
    try:
        open_store(where)
    except TrackingError as error:
        _warn(error, tracking)


def log_sweep(tracking: Mapping[str, Any], output_dir: Path, sweep: Mapping[str, Any], cells: Iterable[Path]) -> None:
    """Writes the sweep's parent run and a child run for each of its cells' folders that has a record.

    ``sweep`` is the content of the sweep's manifest, sweep.json. Doing it again changes nothing; a cell that
    was run again since replaces its run. A store that cannot be written is a warning.
    """
    where = resolve(tracking, Path(output_dir))
    if where is None:
        return
    from fourfold.tracking.writer import write_sweep

    try:
        with writing(where.output_dir):
            write_sweep(open_store(where), where.output_dir, sweep, list(cells))
    except TrackingError as error:
        _warn(error, tracking)


def sync(tracking: Mapping[str, Any], output_dir: Path) -> dict[str, int]:
    """Brings the store up to date with every sweep and every cell on disk, each exactly once.

    Returns how many sweeps were looked at, how many runs were written and how many were there already.
    Raises TrackingError if the store cannot be written, Refused if tracking is off or makes no sense.
    """
    from fourfold.errors import Refused

    where = resolve(tracking, Path(output_dir))
    if where is None:
        raise Refused("tracking=off: nothing to bring up to date; choose tracking=local or tracking=server")
    from fourfold.tracking.writer import write_everything

    with writing(where.output_dir):
        return write_everything(open_store(where), where.output_dir)


def writing(output_dir: Path) -> AbstractContextManager[None]:
    """One writer an output folder at a time: two of them would both find a run missing and write it twice."""
    return locked(output_dir / ".tracking.lock", "another process is writing to MLflow")


def _warn(error: TrackingError, tracking: Mapping[str, Any]) -> None:
    words = "" if tracking["kind"] == "local" else f" tracking={tracking['kind']}"
    message = "MLflow: %s; the records are safe, python -m fourfold sync%s writes them later"
    log.warning(message, error, words, exc_info=debugging())
