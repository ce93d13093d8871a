"""While a sweep runs: what has ended is written to MLflow now and then, by one thread of the launcher."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fourfold.tracking.locks import TrackingError

log = logging.getLogger(__name__)

INTERVAL = 60.0  # seconds between two batches; a short sweep is written at its end only
INTERVAL_MOST = 960.0  # after failures: the store is asked ever more seldom
LAST_BATCH = 120.0  # seconds that the end of a sweep waits for a batch that is being written


@contextmanager
def following(tracking: Mapping[str, Any], output_dir: Path, sweep: Mapping[str, Any]) -> Iterator[None]:
    """Within the block the cells of a sweep that have ended are written in batches. ``sweep``: its manifest's content.

    A store that cannot be written costs nothing but a line of debugging: what is missing is written at the end.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(tracking, output_dir, sweep, ended), daemon=True)
    if tracking["kind"] != "off":
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join(LAST_BATCH)


def _follow(tracking: Mapping[str, Any], output_dir: Path, sweep: Mapping[str, Any], ended: threading.Event) -> None:
    written, interval = 0, INTERVAL
    while not ended.wait(interval):
        done = sum(1 for cell in sweep["cells"] if cell["state"] is not None)
        if done == written:
            continue
        try:
            write_so_far(tracking, output_dir, sweep)
            written, interval = done, INTERVAL
        except Exception as error:
            log.debug("MLflow: %s; later", error)
            interval = min(2 * interval, INTERVAL_MOST)


def write_so_far(tracking: Mapping[str, Any], output_dir: Path, sweep: Mapping[str, Any]) -> None:
    """Writes the parent run and the cells that have ended. Raises TrackingError if the store cannot be written."""
    from fourfold.tracking import writing
    from fourfold.tracking.store import open_store, resolve
    from fourfold.tracking.writer import write_sweep

    where = resolve(tracking, output_dir)
    if where is None:
        raise TrackingError("tracking is off")
    cells = [output_dir / cell["folder"] for cell in list(sweep["cells"]) if cell["state"] is not None]
    with writing(where.output_dir):
        write_sweep(open_store(where), where.output_dir, sweep, cells)
