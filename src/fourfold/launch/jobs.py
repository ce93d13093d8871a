"""One job: what is pickled for it, what it asks for, and who is told when it has ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from fourfold.errors import Failed
from fourfold.launch.ending import Ending


@dataclass
class FrozenJob:
    """A configuration as it was composed at submission: conf/ is not read again when the job starts."""

    context: HydraContext
    task: TaskFunction
    config: DictConfig
    number: int
    singletons: Any

    def __call__(self) -> JobReturn:
        import submitit

        Singleton.set_state(self.singletons)
        setup_globals()
        with open_dict(self.config.hydra.job):
            self.config.hydra.job.id = submitit.JobEnvironment().job_id
            self.config.hydra.job.num = self.number
        return run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=self.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )

    def checkpoint(self) -> Any:
        """What a preempted job is queued again as: itself."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@dataclass
class Job:
    """``request`` is what it asks of a scheduler; ``timeout`` (seconds) and what follows it hold on this machine.

    ``devices`` are kept for it alone, ``ranks`` is how many processes it is, ``slots`` how many jobs run at once;
    ``modules`` are what its processes import, ``memory()`` the bytes that they will need, or None.
    ``on_start`` is called just before the job is handed over, ``on_wait`` with the reason if it cannot be yet,
    ``on_end`` once, when it has ended.
    """

    frozen: FrozenJob
    request: dict[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    devices: int = 0
    ranks: int = 1
    slots: int = 1
    modules: Sequence[str] = ()
    memory: Callable[[], int | None] = lambda: None
    on_start: Callable[[str | None], None] = lambda job: None
    on_wait: Callable[[str], None] = lambda why: None
    on_end: Callable[[Ending], None] = lambda ending: None
    ending: Ending | None = None

    def end(self, ending: Ending) -> None:
        self.ending = ending
        self.on_end(ending)


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
