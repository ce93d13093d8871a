"""Whether interrupted cells are other cells now: the same words, but conf/ has been edited since."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fourfold import checkpoint, schema
from fourfold.checks import flatten, select
from fourfold.composition import identity
from fourfold.errors import INTERRUPTED, Refused
from fourfold.launch.ending import readable
from fourfold.report.read import MANIFEST_FILE, load_manifest

MOST_KEYS = 3  # of one cell's differences, as an example


def changed_since(output_dir: Path, cells: Sequence[tuple[str, Sequence[str], Mapping[str, Any]]]) -> str | None:
    """One line if cells of the latest sweep were interrupted under the same words and another configuration, else None.

    cells: (name, overrides, configuration) of those that are about to run.
    """
    latest = max((output_dir / "sweeps").glob(f"*/{MANIFEST_FILE}"), default=None)
    if latest is None:
        return None
    before: dict[tuple[str, ...], Any] = {}
    with suppress(Refused):
        before = {_deciding(entry["overrides"]): entry for entry in load_manifest(latest.parent)["cells"]}
    found = [
        (name, differences)
        for name, overrides, cell in cells
        if (entry := before.get(_deciding(overrides))) is not None and entry["cell"] != name
        if (differences := _interrupted_as(output_dir / entry["folder"], cell)) is not None
    ]
    if not found:
        return None
    count = "1 cell was" if len(found) == 1 else f"{len(found)} cells were"
    name, differences = found[0]
    example = f" ({name}: {', '.join(differences[:MOST_KEYS])})" if differences else ""
    return f"{count} interrupted with another configuration in sweep {latest.parent.name}, and start anew{example}"


def _deciding(overrides: Sequence[str]) -> tuple[str, ...]:
    """The words of a cell that can change its result, in their order."""

    def decides(word: str) -> bool:
        key = word.lstrip("+~").partition("=")[0]
        return not any(key == other or key.startswith(f"{other}.") for other in schema.NOT_IDENTITY)

    return tuple(word for word in overrides if decides(word))


def _interrupted_as(folder: Path, cell: Mapping[str, Any]) -> list[str] | None:
    """How the configuration of an interrupted cell differs from this one, as far as its record tells; None if the cell
    of that folder was not interrupted."""
    record = readable(folder)
    if not (checkpoint.exists(folder) or (record is not None and record.state == INTERRUPTED)):
        return None
    if record is None:
        return []
    then, now = identity(record.config), identity(cell)
    keys = [key for key in flatten(now) if not isinstance(select(now, key), Mapping)]
    return [
        f"{key}={select(now, key)}, was {select(then, key)}" for key in keys if select(now, key) != select(then, key)
    ]
