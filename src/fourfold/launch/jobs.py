"""One job: what is pickled for it, what it asks for, and who is told when it has ended."""

import os
import pickle
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from fourfold.errors import DONE, Failed
from fourfold.launch.ending import Elsewhere, Ending
from fourfold.stopping import DEFERRED


class Program:
    """What the jobs of a sweep have in common: Hydra's state, and the task. It is pickled once for all of them."""

    def __init__(self, context: HydraContext, task: TaskFunction) -> None:
        self.context, self.task = context, task
        self.singletons = Singleton.get_state()
        self._pickled: bytes | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._pickled is None:
            self._pickled = cloudpickle.dumps(vars(self))
        return _program, (self._pickled,)


def _program(pickled: bytes) -> Program:
    found = Program.__new__(Program)
    vars(found).update(pickle.loads(pickled))
    return found


@dataclass
class FrozenJob:
    """A configuration as it was composed at submission: conf/ is not read again when the job starts."""

    program: Program
    config: DictConfig
    number: int
    folder: Path | None = None
    before: tuple[int, int] | None = None

    def __call__(self) -> JobReturn | Elsewhere:
        """Runs the task, unless its cell (in ``folder``, its record with the signature ``before``) is run elsewhere."""
        if self.folder is None:  # another program's task: submitit answers Slurm's notice
            signal.pthread_sigmask(signal.SIG_UNBLOCK, DEFERRED)
            return self._run()
        from fourfold.launch import leases

        with leases.alone(self.folder, self.before, first=number_of_rank() == 0) as elsewhere:
            return elsewhere or self._run()

    def _run(self) -> JobReturn:
        import submitit

        Singleton.set_state(self.program.singletons)
        setup_globals()
        with open_dict(self.config.hydra.job):
            self.config.hydra.job.id = submitit.JobEnvironment().job_id
            self.config.hydra.job.num = self.number
        found = run_job(
            hydra_context=self.program.context,
            task_function=self.program.task,
            config=self.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if found.status == JobStatus.FAILED and number_of_ranks() > 1:
            raise found._return_value  # so that this process fails, and its launcher ends the other ranks
        return found

    def checkpoint(self) -> Any:
        """What a preempted job is queued again as: itself."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@dataclass
class Job:
    """``request`` is what it asks of a scheduler; ``timeout`` (seconds) and what follows it hold on this machine.

    ``identity`` is what submitit's files of it are called, where that matters. ``devices`` are kept for it alone,
    ``ranks`` is how many processes it is, ``slots`` how many jobs run at once; ``requeues`` is how often Slurm may
    queue it again; ``modules`` are what its processes import, ``memory()`` the bytes that they will need, or None.
    ``on_start`` is called just before the job is handed over, ``on_wait`` with the reason if it cannot be yet,
    ``on_end`` once, when it has ended.
    """

    frozen: Any  # FrozenJob, or another function without arguments that can be pickled
    request: dict[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    identity: str | None = None
    devices: int = 0
    ranks: int = 1
    slots: int = 1
    requeues: int = 0
    modules: Sequence[str] = ()
    memory: Callable[[], int | None] = lambda: None
    on_start: Callable[[str | None], None] = lambda job: None
    on_wait: Callable[[str], None] = lambda why: None
    on_end: Callable[[Ending], None] = lambda ending: None
    ending: Ending | None = None

    def end(self, ending: Ending) -> None:
        self.ending = ending
        self.on_end(ending)


@dataclass
class RankJob:
    """A single cell of several ranks: what ``FrozenJob`` is to a sweep. ``run`` runs it and returns its record."""

    run: Callable[..., Any]
    cell: dict[str, Any]
    folder: Path
    overrides: list[str]
    before: tuple[int, int] | None

    def __call__(self) -> str | Elsewhere:
        from fourfold.launch import leases

        with leases.alone(self.folder, self.before, first=number_of_rank() == 0) as elsewhere:
            return elsewhere or self._run()

    def _run(self) -> str:
        found = self.run(self.cell, self.folder, self.overrides)
        fail_with_the_others(found)
        return str(found.state)


class RankFailed(Exception):
    """One of several ranks did not do its part; its process fails, so that the launcher ends the others."""


def fail_with_the_others(found: Any) -> None:
    """Raises RankFailed for the record of a cell that is not done, where the cell has several ranks."""
    if found.state != DONE and number_of_ranks() > 1:
        raise RankFailed(f"[{found.reason}] {found.message}")


def number_of_rank() -> int:
    """This process's number among those of its cell."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def number_of_ranks() -> int:
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1)


def job_return(job: Job) -> JobReturn:
    """What Hydra expects of a launcher for this job."""
    ending = job.ending
    if ending is not None and ending.returned and isinstance(ending.result, JobReturn):
        return ending.result
    config = job.frozen.config
    message = (ending.message if ending else None) or "the job did not run"
    found = JobReturn(
        overrides=OmegaConf.to_container(config.hydra.overrides.task),  # type: ignore[arg-type]
        cfg=OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]),
        hydra_cfg=OmegaConf.masked_copy(config, ["hydra"]),
        task_name=config.hydra.job.name,
        status=JobStatus.FAILED,
    )
    found.return_value = Failed(message, (ending.reason if ending else None) or "bug")
    return found
