"""Checkpoints of a cell of several ranks: all write after the same step, each what it holds, and go on together.

Networks are the same on all ranks, but buffers of samples and random states are not; so each rank writes a whole
checkpoint of its own, the first one in the cell's folder, the others in folders beside it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourfold import checkpoint, stopping
from fourfold.errors import Failed
from fourfold.keeper import SOONER, FileKeeper, Place, log
from fourfold.record import Record
from fourfold.stopping import PREEMPTED, STOPPED, TIMEOUT

# Steps between two questions whether a rank was asked to end, or its time for a checkpoint has come. Each question
# waits for the device, so it is not asked at every step.
ASK_EVERY = 10
ASKED = (None, "checkpoint", STOPPED, PREEMPTED, TIMEOUT)  # the higher ones end the cell


class RankKeeper(FileKeeper):
    """The keeper of one rank. Every rank comes to the same places, and there does what any of them was asked to do."""

    def __init__(self, folder: Path, cell: Mapping[str, Any], method: Any, run: Any, record: Record) -> None:
        super().__init__(checkpoint.place_of(folder, run.engine.rank), cell, method, run, record)
        self.number = 0  # of the latest checkpoint, the same on all ranks
        self._told: str | None = None

    def between_steps(self) -> None:
        due = bool(self.steps) and self.place.step % self.steps == 0
        if (due or self.place.step % ASK_EVERY == 0) and self.agreed(due or self.is_due(1)):
            self.keep()

    def end_loop(self) -> None:
        if self.agreed(self.is_due(SOONER)):
            self.keep()

    def go_to(self, phase: int) -> None:
        self.place = Place(phase)
        if self.agreed(bool(self.steps) or self.is_due(SOONER)):
            self.keep()

    def agreed(self, due: bool) -> bool:
        """Whether any rank is to write a checkpoint; what one was asked for, all were asked for."""
        request = stopping.request
        mine = ASKED.index(request.reason) if request.reason else int(due or request.hurry)
        most = max(self.run.engine.told_by_all(mine))
        self._told = ASKED[most] if most > 1 else None
        return bool(most)

    def told(self) -> str | None:
        return self._told

    def save(self) -> bool:
        self.number += 1
        return super().save()

    def content(self) -> dict[str, Any]:
        return {**super().content(), "number": self.number}

    def resume(self) -> bool:
        """Takes the cell to the newest checkpoint that every rank has; to its beginning if there is none.

        Raises Failed where one does not fit the method, on all ranks.
        """
        engine = self.run.engine
        found, said = checkpoint.load(self.folder, self.identity, engine.device)
        for line in said:
            log.warning("%s", line)
        common = min(engine.told_by_all(_number(found)))
        if _number(found) > common > 0:  # the cell ended before all ranks had written the newest
            found = checkpoint.load_before(self.folder, self.identity, engine.device)
        if set(engine.told_by_all(_number(found))) != {common} or common == 0:
            if found is not None:
                log.warning("%s: the ranks have no checkpoint in common; the cell starts anew", self.folder)
            return True
        assert found is not None
        why = ""
        try:
            self._take(found)
            self.number = common
        except Exception as error:  # whatever a method makes of a state that is not its own
            why = f"{type(error).__name__}: {error}"
        why = next(filter(None, engine.told_by_all(why)), "")
        if why:
            raise Failed(f"the checkpoint does not fit ({why}); rerun=all starts anew")
        log.info("goes on after %s steps", self.run.meter.steps)
        return True


def _number(content: Mapping[str, Any] | None) -> int:
    """Which checkpoint of its cell this is; 0 for none."""
    return 0 if content is None else int(content["number"])
