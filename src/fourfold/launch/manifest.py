"""What a sweep is: its cells, where they are, how far they got. Written before anything starts, kept up to date."""

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from fourfold.environment import uncommitted
from fourfold.launch import leases
from fourfold.launch.ending import readable
from fourfold.launch.progress import warn

SCHEMA_VERSION = 1
MANIFEST_FILE, PATCH_FILE = "sweep.json", "uncommitted.patch"
HEAD_BYTES = 100_000  # of a manifest: when the sweep ended stands before its cells, after its command
SAVE_INTERVAL = 1.0  # seconds between two saves while cells end; the last one is always made


def new_identity() -> str:
    """A name for a sweep that no other has: the present time in microseconds."""
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")


def close_dead(output_dir: Path) -> list[dict[str, Any]]:
    """Ends the manifests of sweeps whose launcher is no more (killed, or its machine); returns their contents.

    Cells that have left a record since get its state; those that still run go on, and leave theirs.
    """
    closed = []
    for path in sorted((output_dir / "sweeps").glob(f"*/{MANIFEST_FILE}")):
        if not _is_open(path) or leases.holder(path.parent) is not None:
            continue
        with suppress(OSError, ValueError, KeyError, TypeError):
            lease = leases.take(path.parent, patience=0.0)
            if isinstance(lease, leases.Holder):
                continue
            try:
                closed += _close(path, output_dir)
            finally:
                lease.release()
    return closed


def _is_open(path: Path) -> bool:
    """Whether a manifest says that its sweep goes on; its head tells."""
    try:
        with path.open("rb") as file:
            return b'"ended": null' in file.read(HEAD_BYTES)
    except OSError:
        return False


def _close(path: Path, output_dir: Path) -> list[dict[str, Any]]:
    content: dict[str, Any] = json.loads(path.read_text())
    if content["ended"] is not None:
        return []
    content["ended"], content["killed"] = max(content["started"], path.stat().st_mtime), True
    for cell in content["cells"]:
        found = readable(output_dir / cell["folder"])
        if cell["state"] is None and found is not None and found.started >= content["started"]:
            cell["state"] = found.state
    _replace(path, content)
    return [content]


def _replace(path: Path, content: dict[str, Any]) -> None:
    """Writes a manifest, whole or not at all. Raises OSError."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=1)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class Manifest:
    """The state of one sweep, as plain data in ``content``, and the file that mirrors it.

    content: {schema, id, command: [words], started, ended: seconds since the epoch or null,
    cells: [{index, cell, folder (relative to output_dir), overrides, state or null, job: id or null}],
    killed: true, where the launcher did not live to end it;
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
        self._lease: leases.Lease | leases.Holder | None = None

    def begin(self) -> None:
        """Writes the file, and how the code differs from its commit; from here on the sweep is known to be alive.

        Raises OSError if the folder cannot be written.
        """
        self._lease = leases.take(self.folder)
        self.save()
        patch = uncommitted()
        if patch is not None:
            (self.folder / PATCH_FILE).write_text(patch)

    def save(self) -> None:
        """Writes the file. Raises OSError if the folder cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(self.folder / MANIFEST_FILE, self.content)
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
            if isinstance(self._lease, leases.Lease):
                self._lease.release()

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
