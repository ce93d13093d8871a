"""What a sweep would do: its cells, what each asks for, how long it took the last time."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fourfold.errors import DONE
from fourfold.hardware.requests import request_of
from fourfold.launch.cells import PlannedCell
from fourfold.launch.ending import readable


def preview(cells: Sequence[PlannedCell], left: Collection[int], slots: int) -> list[str]:
    """The plan in lines: the cells, the kinds of request, the time to expect from earlier records of the same cells.

    ``left`` holds the indices of the cells that would be run; the time is for ``slots`` cells at once.
    """
    lines, known = [], []
    for planned in cells:
        seconds = seconds_before(planned)
        if planned.index not in left:
            what = "not run again"
        elif seconds is None:
            what = "never run before"
        else:
            what = f"{seconds:.0f} s the last time"
            known.append(seconds)
        lines.append(f"[{planned.index + 1}/{len(cells)}] {planned.name}  {what}")
    chosen = [planned for planned in cells if planned.index in left]
    asked = Counter(request_in_words(request_of(planned.cell)) for planned in chosen)
    lines += ["", *(f"{count} x  {request}" for request, count in asked.most_common())]
    lines.append(f"{len(chosen)} of {len(cells)} cells would run; nothing was started")
    if known:
        total = sum(known) / slots
        unknown = len(chosen) - len(known)
        more = f", and {unknown} whose time is not known" if unknown else ""
        lines.append(f"expected: {total:.0f} s with {slots} at once{more}")
    return lines


def seconds_before(planned: PlannedCell) -> float | None:
    """How long this very cell took when it was last done."""
    found = readable(planned.folder)
    if found is None or found.state != DONE or found.ended is None:
        return None
    return found.ended - found.started


def request_in_words(request: Mapping[str, Any]) -> str:
    """A request to a scheduler as key=value words, without what is not asked."""
    return " ".join(f"{key}={value}" for key, value in request.items() if value not in (None, [], ""))
