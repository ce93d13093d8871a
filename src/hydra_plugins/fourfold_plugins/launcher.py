"""Hydra's submitit launchers, extended: each cell gets what its own configuration asks for, and dies alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

if TYPE_CHECKING:
    from fourfold.launch.jobs import Job


class FourfoldLauncher(BaseSubmititLauncher):
    """What the two launchers share. ``interrupted`` says that the user wants no more jobs to be started."""

    interrupted = False

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's interface: composes each job here, once, and runs them all."""
        from fourfold.launch.through import jobs_of_overrides

        return self.run_jobs(jobs_of_overrides(self, job_overrides, initial_job_idx))

    def run_jobs(self, jobs: "Sequence[Job]") -> list[JobReturn]:
        """Runs jobs that are composed already; a return for each, whatever became of it."""
        from fourfold.launch.jobs import job_return
        from fourfold.launch.stop import Stop

        with Stop() as stop:
            self._run(jobs, stop)
        self.interrupted = bool(stop)
        return [job_return(job) for job in jobs]

    def _run(self, jobs: "Sequence[Job]", stop: Any) -> None:
        raise NotImplementedError


class LocalLauncher(FourfoldLauncher):
    """Processes of this machine, ``slots`` at a time; with ``warm`` forked from one that has the imports."""

    _EXECUTOR = "local"

    def _run(self, jobs: "Sequence[Job]", stop: Any) -> None:
        from fourfold.launch.local import run_local

        run_local(jobs, str(self.params["submitit_folder"]), stop, bool(self.params.get("warm", False)))


class SlurmLauncher(FourfoldLauncher):
    """Slurm jobs, one array for each kind of request."""

    _EXECUTOR = "slurm"

    def setup(self, **given: Any) -> None:
        """Raises Refused for a value of hydra.launcher that is not of its kind."""
        from fourfold.launch.arrays import check_site

        check_site(self.params)
        super().setup(**given)

    def _run(self, jobs: "Sequence[Job]", stop: Any) -> None:
        from fourfold.launch.slurm import run_slurm

        run_slurm(jobs, self.params, stop)
