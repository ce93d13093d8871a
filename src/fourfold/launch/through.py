"""Between Hydra's launcher plugins and our jobs: cells as jobs, overrides as jobs, launchers that are not ours."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from fourfold.composition import plain
from fourfold.hardware.requests import request_of
from fourfold.launch import progress
from fourfold.launch.cells import PlannedCell, frozen
from fourfold.launch.ending import Ending
from fourfold.launch.jobs import FrozenJob, Job, Program
from fourfold.launch.sharing import OnEnd, OnStart
from fourfold.launch.slots import memory_of_family
from fourfold.launch.task import run_cell


def launch_through(
    launcher: Any, chosen: list[PlannedCell], on_start: OnStart, on_end: OnEnd, batch: int | None
) -> list[JobReturn]:
    """Runs the cells through Hydra's launcher: ours, or any other (then each counts as ended when all have)."""
    if hasattr(launcher, "run_jobs"):
        program = Program(launcher.hydra_context, launcher.task_function)
        jobs = [_job(program, planned, on_start, on_end) for planned in chosen]
        size = batch or len(jobs)
        returns: list[JobReturn] = []
        for at in range(0, len(jobs), size):
            if not launcher.interrupted:
                returns += launcher.run_jobs(jobs[at : at + size])
        return returns
    for planned in chosen:
        on_start(planned, None)
    returns = list(launcher.launch([planned.overrides for planned in chosen], initial_job_idx=0))
    for planned, found in zip(chosen, returns, strict=True):
        on_end(planned, Ending(None, result=found))
    return returns


def _job(program: Program, planned: PlannedCell, on_start: OnStart, on_end: OnEnd) -> Job:
    cell = planned.cell
    hardware = cell["hardware"]
    accelerated = hardware["backend"] != "cpu" and not hardware["stand_in"]
    projected = cell["mode"] == "projected"  # one process, without a device
    return Job(
        FrozenJob(program, frozen(planned), planned.index, planned.folder, planned.before),
        request=request_of(cell),
        timeout=cell["timeout"],
        devices=hardware["devices"] if accelerated and not projected else 0,
        ranks=hardware["devices"] if hardware["nodes"] == 1 and not projected else 1,
        slots=cell["slots"],
        requeues=cell["max_requeue"],
        modules=modules(program.task, cell),
        memory=lambda: memory_of_family(planned.folder, cell),
        on_start=lambda job: on_start(planned, job),
        on_wait=lambda why: progress.say(f"{planned.name} waits: {why}"),
        on_end=lambda ending: on_end(planned, ending),
    )


def modules(task: Any, cell: Mapping[str, Any]) -> list[str]:
    """What the process of a cell imports, so that it can be imported before; nothing for another program's task."""
    if getattr(task, "run", None) is not run_cell:
        return []
    return ["fourfold.experiment", *dict.fromkeys(target.rpartition(".")[0] for target in targets(cell))]


def targets(node: Any) -> Iterator[str]:
    """The classes that a configuration names."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from targets(value)


def jobs_of_overrides(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
    """Jobs for whichever sweeper and program: composed here, and frozen.

    What a job asks for is that of its cell, or its own hardware.launcher, where there is such a node.
    """
    Path(str(launcher.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    if "mode" in launcher.config.hydra.sweep:
        os.chmod(str(launcher.config.hydra.sweep.dir), int(str(launcher.config.hydra.sweep.mode), 8))
    jobs, program = [], Program(launcher.hydra_context, launcher.task_function)
    for number, overrides in enumerate(job_overrides, first):
        config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
        job = FrozenJob(program, config, number)
        jobs.append(Job(job, request=_request(config)))
    return jobs


def _request(config: DictConfig) -> dict[str, Any]:
    if OmegaConf.select(config, "hardware.host") is not None:
        return request_of(plain(config))
    request = OmegaConf.select(config, "hardware.launcher")
    return OmegaConf.to_container(request, resolve=True) if request else {}  # type: ignore[return-value]
