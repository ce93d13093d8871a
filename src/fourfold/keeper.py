"""When a cell writes its checkpoint, what is in it, and how the cell goes on from it.

There are two kinds of places where nothing is lost: between two steps of learning, and between two contexts. What a
method does between them (as a context ends, in an evaluation) is done again if the cell is ended in the middle of it.
"""

import json
import logging
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourfold import checkpoint, stopping
from fourfold.composition import cell_hash
from fourfold.environment import environment
from fourfold.record import Record

log = logging.getLogger(__name__)

BEFORE_ALL = -1  # the phase of what comes before the first context: pre-training, the first evaluation
SOONER = 10  # between contexts a checkpoint is due when this part of the usual time is over


@dataclass
class Place:
    """Where in its stream a cell is.

    phase: of learning, or BEFORE_ALL; begun: whether the method was told that it begins; step: steps done in it;
    batch: batches drawn for them; seconds: spent on them; loop: how often the method has gone through the phase's
    experience (once, with most).
    """

    phase: int = BEFORE_ALL
    begun: bool = False
    step: int = 0
    batch: int = 0
    seconds: float = 0.0
    loop: int = 0


class Keeper:
    """Keeps nothing, and starts at the beginning: what a run has unless it is given a ``FileKeeper``."""

    def __init__(self) -> None:
        self.place = Place()
        self.cpu_before = 0.0  # CPU seconds of this cell in earlier processes
        self.cpu_start = time.process_time()
        self.written = {"count": 0, "bytes": 0}  # checkpoints of this process, and the size of the last

    def __enter__(self) -> "Keeper":
        self.cpu_start = time.process_time()
        return self

    def __exit__(self, *_: Any) -> None:
        stopping.request.patient = False
        stopping.request.settle()

    def cpu_seconds(self) -> float:
        """CPU seconds of the cell, from its first step on, in this process and in those before."""
        return self.cpu_before + time.process_time() - self.cpu_start

    def go_to(self, phase: int) -> None:
        """The cell is between two phases, with this one before it."""
        self.place = Place(phase)

    def begin_loop(self) -> Place:
        """A method starts to go through its experience; returns where it is to begin."""
        self.place.loop += 1
        if self.place.loop > 1:
            self.place.step, self.place.batch, self.place.seconds = 0, 0, 0.0
        return self.place

    def between_steps(self) -> None:
        """Called after each step."""

    def end_loop(self) -> None:
        """Called when the last step is done, before the method goes on."""

    def counted(self, count: int) -> Iterator[int]:
        """0 ... count - 1, or from where an interrupted cell was: for a method's loops over other than its stream."""
        place = self.begin_loop()
        while place.step < count:
            yield place.step
            place.step += 1
            self.between_steps()
        self.end_loop()


class FileKeeper(Keeper):
    """Writes checkpoints to a cell's folder: every so many ``seconds`` and ``steps``, and when asked to stop.

    ``method``, ``run`` and ``record`` are what it keeps; they are complete between two steps.
    """

    def __init__(self, folder: Path, cell: Mapping[str, Any], method: Any, run: Any, record: Record) -> None:
        super().__init__()
        self.folder = folder
        self.method, self.run, self.record = method, run, record
        self.seconds = cell["checkpoint"]["seconds"] or float("inf")
        self.steps = cell["checkpoint"]["steps"] or 0
        self.identity = checkpoint.identity(cell_hash(cell))
        self.last = time.monotonic()
        self.complained = False

    def __enter__(self) -> Keeper:
        stopping.request.patient = True
        return super().__enter__()

    # ----------------------------------------------------------------------------------------------- when

    def between_steps(self) -> None:
        if stopping.request.hurry or self.is_due(1) or (self.steps and self.place.step % self.steps == 0):
            self.keep()

    def end_loop(self) -> None:
        if stopping.request.hurry or self.is_due(SOONER):
            self.keep()

    def go_to(self, phase: int) -> None:
        super().go_to(phase)
        if stopping.request.hurry or self.steps or self.is_due(SOONER):
            self.keep()

    def is_due(self, sooner: int) -> bool:
        """Whether this part of the usual time is over since the last checkpoint."""
        return time.monotonic() - self.last >= self.seconds / sooner

    def told(self) -> str | None:
        """Why the cell is to end, if it is."""
        return stopping.request.reason

    def keep(self) -> None:
        """Writes a checkpoint, if one can be written here; then obeys a request to stop."""
        asked = stopping.request
        asked.hurry = False
        asked.settle()
        written = self.place.loop <= 1 and self.save()
        reason = self.told()
        if reason is not None:
            before = self.place.phase == BEFORE_ALL
            where = f" after {self.place.step if before else self.run.meter.steps} steps{' of pre-training' * before}"
            where += "; rerun=missing goes on from there" if written else "; no checkpoint could be written"
            raise asked.error(reason, where)

    # ----------------------------------------------------------------------------------------------- what

    def save(self) -> bool:
        """Writes a checkpoint; whether it could be. A full disk is said once, and the cell goes on."""
        with self.run.watch.on("checkpoint"), self.run.meter.excluded():
            try:
                size = checkpoint.save(self.folder, self.identity, self.content())
            except OSError as error:
                if not self.complained:
                    log.warning("%s: no checkpoint can be written (%s)", self.folder, error.strerror or error)
                self.complained = True
                return False
            finally:
                self.last = time.monotonic()
        self.written = {"count": self.written["count"] + 1, "bytes": size}
        return True

    def content(self) -> dict[str, Any]:
        """Everything that the rest of the cell depends on."""
        facts = {
            "evaluations": self.record.evaluations,
            "resumed": self.record.resumed,
            "started": self.record.started,
            "seconds": self.run.watch.read(),
            "cpu_seconds": self.cpu_seconds(),
            "stopped_by": self.run.until.reason,
            "findings": self.run.findings,
            "held": self.run.held,
        }
        return {
            "place": asdict(self.place) | {"seconds": self.run.until.spent() if self.place.step else 0.0},
            "method": self.method.state_dict(),
            "meter": self.run.meter.state_dict(),
            "random": random_state(self.run.engine.device),
            "facts": json.dumps(facts),
        }

    def resume(self) -> bool:
        """Takes the cell to where its newest usable checkpoint was written, if there is one.

        False if that one does not fit the method after all: it is set aside, and the method is to be built again.
        """
        found, said = checkpoint.load(self.folder, self.identity, self.run.engine.device)
        for line in said:
            log.warning("%s", line)
        if found is None:
            return True
        try:
            self._take(found)
        except Exception as error:  # whatever a method makes of a state that is not its own
            log.warning("%s", checkpoint.set_aside(self.folder, f"does not fit ({type(error).__name__}: {error})"))
            return False
        log.info("goes on after %s steps", self.run.meter.steps)
        return True

    def _take(self, content: Mapping[str, Any]) -> None:
        facts = json.loads(content["facts"])
        self.method.load_state_dict(content["method"])
        self.run.meter.load_state_dict(content["meter"])
        set_random_state(content["random"], self.run.engine.device)
        self.place = Place(**content["place"])
        self.place.loop = 0
        self.run.until.reason = facts["stopped_by"]
        self.run.findings.update(facts["findings"])
        self.run.held[:] = facts["held"]
        self.run.watch.add(facts["seconds"])
        self.cpu_before = facts["cpu_seconds"]
        self.record.evaluations[:] = facts["evaluations"]
        here = environment()
        now = {"steps": self.run.meter.steps, "at": time.time(), "started": facts["started"], "host": here["host"]}
        self.record.resumed[:] = [*facts["resumed"], now | {"commit": (here["git"] or {}).get("commit")}]


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of the generators that are shared; named ones belong to who asked for them."""
    kind, keys, position, has_normal, normal = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_normal, normal],
        "python": random.getstate(),
    }
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device.type).get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Takes what ``random_state`` gave."""
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_normal, normal = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_normal, normal))
    random.setstate(state["python"])
    if "device" in state and device.type != "cpu":
        torch.get_device_module(device.type).set_rng_state(state["device"], device)
