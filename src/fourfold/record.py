"""The record: what one cell leaves behind. Raw facts only; every reported number is computed from it.

A cell's folder holds ``record.json`` (this schema) and ``series.npz`` (one entry a step). Both are written
to a temporary name and moved into place, so a reader never sees half a record.
"""

import json
import math
import os
import tempfile
import time
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.errors import FourfoldError

if TYPE_CHECKING:  # a refusal knows records, and does without numpy
    import numpy as np

SCHEMA_VERSION = 1
RECORD_FILE = "record.json"
SERIES_FILE = "series.npz"
STEP_FLOPS = "step_flops"  # the series of FLOP of the steps that were counted as they were taken, nan elsewhere
DIAGNOSED_STEP = "diagnosed_step"  # the series that says at which step each look at a rule was


@dataclass
class Record:
    """One cell. Times are seconds since the epoch, durations seconds, memory bytes.

    evidence: measured | simulated (a stand-in device) | projected.
    axes: benchmark, hardware, setting, method, rule, seed.
    evaluations: one entry per evaluation of one context: {after: contexts learned before it (one that comes back counts
        again), context, metric, value, samples, masked: value with the context's outputs only, or null,
        classes: [class, right, samples] of each class}.
    log: of a failed cell, the last lines that it printed.
    measurements: unit, steps, units, seconds of each part, checkpoints, memory, parameters, why the run stopped.
    tuning: how a method's values were chosen: protocol, contexts, figure, trials [{values, score}], chosen, seconds.
    resumed: one entry for each time that the cell went on from a checkpoint: {steps: done by then, at: when,
        started: of the run that was interrupted, host, commit}.
    """

    cell: str
    axes: dict[str, Any]
    config: dict[str, Any]
    overrides: list[str]
    state: str = "interrupted"
    reason: str | None = None
    message: str | None = None
    traceback: str | None = None
    log: list[str] = field(default_factory=list)
    evidence: str = "measured"
    oracle: bool = False
    started: float = field(default_factory=time.time)
    ended: float | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    measurements: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    resumed: list[dict[str, Any]] = field(default_factory=list)
    tuning: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    def write(self, folder: Path, series: "Mapping[str, np.ndarray] | None" = None) -> Path:
        """Writes the series, then the record, each atomically; returns the record's path.

        Raises OSError if the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if series is not None:
            import numpy as np

            with replacing(folder / SERIES_FILE) as temporary:
                np.savez_compressed(temporary, **dict(series))  # type: ignore[arg-type]
        text = json.dumps(_finite(asdict(self)), indent=1, allow_nan=False)
        with replacing(folder / RECORD_FILE) as temporary:
            temporary.write(text.encode())
        return folder / RECORD_FILE


def read(folder: Path) -> Record:
    """The record in a cell's folder. Raises FourfoldError if it is absent, damaged or of a newer schema."""
    path = folder / RECORD_FILE if folder.is_dir() else folder
    try:
        content = json.loads(path.read_text())
        version = content["schema"]
        if version > SCHEMA_VERSION:
            raise FourfoldError(f"{path}: schema {version} is newer than this program's {SCHEMA_VERSION}")
        known = {field.name for field in fields(Record)}
        return Record(**{key: value for key, value in content.items() if key in known})
    except FileNotFoundError as error:
        raise FourfoldError(f"{path}: no record there") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FourfoldError(f"{path}: not a readable record ({type(error).__name__})") from error


def read_series(folder: Path) -> "dict[str, np.ndarray]":
    """The series of a cell: step_seconds, step_units, loss, context and, if judged, score; empty where none."""
    path = folder / SERIES_FILE
    if not path.is_file():
        return {}
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FourfoldError(f"{path}: not a readable series file ({type(error).__name__})") from error


class replacing:
    """A binary file that takes its place only once it is complete and on disk; ``keep``: where the old one goes."""

    def __init__(self, path: Path, keep: Path | None = None) -> None:
        self.path, self.keep = path, keep

    def __enter__(self) -> Any:
        descriptor, self.temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        self.file = os.fdopen(descriptor, "wb")
        return self.file

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())
            self.file.close()
            if kind is None:
                os.chmod(self.temporary, 0o644)
                if self.keep is not None and self.path.exists():
                    os.replace(self.path, self.keep)
                os.replace(self.temporary, self.path)
        finally:
            if os.path.exists(self.temporary):
                os.unlink(self.temporary)


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "item"):  # a number of numpy's or torch's
        return _finite(value.item())
    return value
