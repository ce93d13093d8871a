"""The file that a cell leaves behind while it runs, so that it can go on where it was if it is ended.

A checkpoint is plain data (tensors, numbers, words), read with torch's reader that runs no code. The newest one and the
one before it are kept; each is written aside, brought to disk, and then moved into place.
"""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.record import replacing

if TYPE_CHECKING:  # a launcher discards checkpoints, and does without torch
    import torch

FORMAT = 1  # to be raised when a checkpoint's content, or what the code makes of it, changes
NEWEST, BEFORE, ASIDE = "checkpoint.pt", "checkpoint.before.pt", "checkpoint.set-aside.pt"
TRIALS = "trials"  # what the names of files of finished trials begin with; the cell's hash follows


class Unusable(Exception):
    """A checkpoint that this cell cannot go on from; the message says why."""


def identity(cell: str) -> dict[str, Any]:
    """What a checkpoint must agree in with the cell that goes on from it. ``cell``: the hash of its configuration."""
    import torch

    return {"format": FORMAT, "configuration": cell, "torch": str(torch.__version__)}


def place_of(folder: Path, rank: int) -> Path:
    """Where a rank of a cell keeps its checkpoints; the first one in the cell's own folder."""
    return folder / f"rank{rank}" if rank else folder


def save(folder: Path, identity: Mapping[str, Any], content: Mapping[str, Any]) -> int:
    """Writes a checkpoint and returns its size in bytes. Raises OSError if there is no room or no permission."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / NEWEST, keep=folder / BEFORE) as file:
        try:
            torch.save({"identity": dict(identity), "content": dict(content)}, file)
        except RuntimeError as error:  # torch's word for a file that does not take what is written
            number = getattr(error.__context__, "errno", None)
            raise OSError(number, os.strerror(number) if number else str(error).splitlines()[0]) from error
        return file.tell()


def load(folder: Path, identity: Mapping[str, Any], device: "torch.device") -> tuple[dict[str, Any] | None, list[str]]:
    """(content of the newest usable checkpoint or None, why others were set aside).

    What was on a device comes to ``device``.
    """
    said: list[str] = []
    for name in (NEWEST, BEFORE):
        path = folder / name
        if not path.exists():
            continue
        try:
            return read(path, identity, device), said
        except Unusable as error:
            said.append(set_aside(folder, str(error)))
    return None, said


def load_before(folder: Path, identity: Mapping[str, Any], device: "torch.device") -> dict[str, Any] | None:
    """The content of the checkpoint before the newest, if it can be used."""
    try:
        return read(folder / BEFORE, identity, device)
    except Unusable:
        return None


def set_aside(folder: Path, why: str) -> str:
    """Moves the newest checkpoint out of the way; returns the line that says so."""
    path = folder / NEWEST if (folder / NEWEST).exists() else folder / BEFORE
    os.replace(path, folder / ASIDE)
    return f"{path}: {why}; set aside as {ASIDE}"


def read(path: Path, identity: Mapping[str, Any], device: "torch.device") -> dict[str, Any]:
    """The content of a checkpoint. Raises Unusable if it is damaged or belongs to something else."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:  # torch's reader does not look at the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise Unusable(f"a damaged checkpoint ({damaged})")
        found = torch.load(path, weights_only=True, map_location=lambda data, place: _placed(data, place, device))
        theirs, content = found["identity"], found["content"]
    except Unusable:
        raise
    except Exception as error:
        raise Unusable(f"a damaged checkpoint ({type(error).__name__})") from error
    for key, value in identity.items():
        if theirs.get(key) != value:
            raise Unusable(f"a checkpoint of {key} {theirs.get(key)}, not {value}")
    return content


def discard(folder: Path) -> None:
    """Removes a cell's checkpoints, so that its next run starts anew."""
    for place in (folder, *folder.glob("rank[0-9]*")):
        for name in (NEWEST, BEFORE, ASIDE):
            (place / name).unlink(missing_ok=True)
    for path in folder.glob(f"{TRIALS}.*.json"):
        path.unlink(missing_ok=True)


def exists(folder: Path) -> bool:
    """Whether a cell has a checkpoint to go on from."""
    return (folder / NEWEST).exists() or (folder / BEFORE).exists()


def _placed(data: Any, place: str, device: "torch.device") -> Any:
    """What was on a device goes to this cell's; what was on the CPU, as states of generators are, stays there."""
    import torch

    return data if place == "cpu" else torch.serialization.default_restore_location(data, str(device))
