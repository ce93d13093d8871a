"""What a sweep is: its cells, where they are, how far they got. Written before anything starts, kept up to date."""

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from fourfold.launch.progress import warn

SCHEMA_VERSION = 1
MANIFEST_FILE = "sweep.json"
SAVE_INTERVAL = 1.0  # seconds between two saves while cells end; the last one is always made


def new_identity() -> str:
    """A name for a sweep that no other has: the present time in microseconds."""
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")


class Manifest:
    """The state of one sweep, as plain data in ``content``, and the file that mirrors it.

    content: {schema, id, command: [words], started, ended: seconds since the epoch or null,
    cells: [{index, cell, folder (relative to output_dir), overrides, state or null, job: id or null}],
    refused: [{overrides, why}], not_applicable: the same, for rows of suites;
    what a suite asked for has rows: [{name: of the suite, row, weight}] besides}
    """

    def __init__(
        self,
        output_dir: Path,
        identity: str,
        command: Sequence[str],
        cells: Iterable[dict[str, Any]],
        refused: Iterable[dict[str, Any]] = (),
    ) -> None:
        self.folder = output_dir / "sweeps" / identity
        self.content: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "id": identity,
            "command": list(command),
            "started": time.time(),
            "ended": None,
            "cells": [{"state": None, "job": None, **cell} for cell in cells],
            "refused": list(refused),
        }
        self._entries = {entry["index"]: entry for entry in self.content["cells"]}
        self._saved = 0.0
        self._lock = threading.RLock()
        self._later: threading.Timer | None = None

    def save(self) -> None:
        """Writes the file. Raises OSError if the folder cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=f".{MANIFEST_FILE}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(self.content, file, indent=1)
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.folder / MANIFEST_FILE)
        except BaseException:
            os.unlink(temporary)
            raise
        self._saved = time.monotonic()

    def update(self, index: int, **facts: Any) -> None:
        """Notes facts (state, job) of one cell; saves now or soon, but not at every one of many quick cells."""
        with self._lock:
            self._entries[index].update(facts)
            if time.monotonic() - self._saved >= SAVE_INTERVAL:
                self.save_if_possible()
            elif self._later is None:
                self._later = threading.Timer(SAVE_INTERVAL, self.save_if_possible)
                self._later.daemon = True
                self._later.start()

    def end(self) -> None:
        """Notes that the sweep is over."""
        with self._lock:
            self.content["ended"] = time.time()
            self.save_if_possible()

    def save_if_possible(self) -> None:
        """A full disk must not end a sweep whose records may still find room."""
        with self._lock:
            if self._later is not None:
                self._later.cancel()
                self._later = None
            try:
                self.save()
            except OSError as error:
                self._saved = time.monotonic()
                warn(f"{self.folder / MANIFEST_FILE}: {error.strerror}")
