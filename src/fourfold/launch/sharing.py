"""Rounds of launching: what runs elsewhere is waited for, what was lost is tried again."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

from hydra.core.utils import JobReturn

from fourfold.errors import INTERRUPTED
from fourfold.launch import leases, progress
from fourfold.launch.cells import PlannedCell
from fourfold.launch.ending import LOST, Elsewhere, Ending, set_aside_if_broken
from fourfold.launch.stop import Stop

POLL = 0.5  # seconds between two looks at leases that others hold
GRACE = 2.0  # seconds in which the launcher of a cell that died writes why

OnEnd = Callable[[PlannedCell, Ending], None]
OnStart = Callable[[PlannedCell, str | None], None]
Launch = Callable[[list[PlannedCell], OnStart, OnEnd], list[JobReturn]]


def launch_in_rounds(
    chosen: Sequence[PlannedCell], launch: Launch, on_start: OnStart, on_end: OnEnd, retries: int
) -> list[JobReturn]:
    """Launches the cells until each has ended once, here or elsewhere; returns Hydra's returns in the cells' order.

    A cell that another process runs is not started: its end is waited for, and its record taken as it is; if it ends
    without one, the cell is run here. A cell whose process or node was lost is tried ``retries`` times again. When the
    user wants to stop, what has not ended stays without an end.
    """
    tries, returns = Counter[int](), dict[int, JobReturn]()
    todo = list(chosen)
    for planned in todo:
        if set_aside_if_broken(planned.folder):
            planned.before = None
    while todo:
        holders = {planned.index: leases.holder(planned.folder) for planned in todo}
        there = [planned for planned in todo if holders[planned.index]]
        here = [planned for planned in todo if not holders[planned.index]]
        for planned in there:
            _say_waiting(planned, f"running elsewhere ({holders[planned.index]})")
        again: list[PlannedCell] = []
        open_ones = {planned.index for planned in here}

        def ended(
            planned: PlannedCell,
            ending: Ending,
            there: list[PlannedCell] = there,
            again: list[PlannedCell] = again,
            open_ones: set[int] = open_ones,
        ) -> None:
            if isinstance(ending.result, Elsewhere) and not leases.ended_since(planned.folder, planned.before):
                _say_waiting(planned, ending.result.why)
                there.append(planned)
            elif ending.reason == LOST and tries[planned.index] < retries:
                tries[planned.index] += 1
                progress.say(f"{planned.name} was lost: try {tries[planned.index]} of {retries} again")
                again.append(planned)
            else:
                on_end(planned, ending)
            if ending.state != INTERRUPTED:
                open_ones.discard(planned.index)

        if here:
            returns.update(zip((p.index for p in here), launch(here, on_start, ended), strict=True))
        if open_ones:
            break
        freed = _wait(there, on_end)
        if freed is None:
            break
        todo = [*again, *freed]
    return [returns[planned.index] for planned in chosen if planned.index in returns]


def _say_waiting(planned: PlannedCell, why: str) -> None:
    progress.say(f"{planned.name} is {why}; its record will be taken")


def _wait(there: Sequence[PlannedCell], on_end: OnEnd) -> list[PlannedCell] | None:
    """Waits for cells that others run. Returns those that ended without a record; None if the user wants to stop."""
    waiting, freed = list(there), list[PlannedCell]()
    free_since: dict[int, float] = {}
    with Stop() as stop:
        while waiting and not stop:
            for planned in list(waiting):
                found = leases.ended_since(planned.folder, planned.before)
                if leases.holder(planned.folder):
                    free_since.pop(planned.index, None)
                elif found is not None:
                    waiting.remove(planned)
                    on_end(planned, Ending(None, result=found))
                elif time.monotonic() - free_since.setdefault(planned.index, time.monotonic()) > GRACE:
                    waiting.remove(planned)
                    freed.append(planned)
            if waiting:
                time.sleep(POLL)
        return None if stop else freed
