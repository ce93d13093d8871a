"""prepare: the data of a benchmark, found or fetched, and verified."""

from fourfold.composition import compose, plain
from fourfold.data.sources import prepare


def prepare_text(overrides: list[str]) -> str:
    """What was done for each file that a cell's benchmark needs, a line a file.

    Raises Refused for a bad override, Unavailable for a file that cannot be had.
    """
    cell = plain(compose(overrides))
    data = cell["benchmark"]["data"] or {}
    name = cell["benchmark"]["name"]
    if "source" not in data:
        return f"benchmark {name} needs no files: its data is generated, or comes with an installed package"
    wanted = tuple(f"{part}.zip" for part in data["parts"]) if "parts" in data else None
    return "\n".join(prepare(data["source"], cell["data_dir"], wanted))
