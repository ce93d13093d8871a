"""Hydra's sweeper, extended: each cell is composed once, and cells that make no sense are left out."""

from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.fourfold_plugins.launcher import LocalLauncher


class FourfoldSweeper(BasicSweeper):
    """Behaves as Hydra's own for any other program's task function."""

    task: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.task = task_function

    def sweep(self, arguments: list[str]) -> Any:
        from fourfold.launch.task import CellTask

        if not isinstance(self.task, CellTask):
            return super().sweep(arguments)
        return self._sweep_cells(self.task, arguments)

    def _sweep_cells(self, task: Any, arguments: list[str]) -> list[list[JobReturn]]:
        from fourfold import composition
        from fourfold.launch import capacity, cells, suites, sweep
        from fourfold.launch.compose import Composer
        from fourfold.launch.through import launch_through

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        task.ran = True
        loader = self.hydra_context.config_loader
        launcher, config, batch = self.launcher, self.config, self.max_batch_size
        words = [*self._parse_config(), *arguments]
        composition.search_also(loader, config.hydra.overrides.hydra)
        rows: list[suites.Row | None] = [*suites.chosen_rows(task.suite, loader)] if task.suite else [None]
        plan = cells.plan(
            [one for row in rows for one in cells.combinations(words, row, loader)],
            Composer(loader, config),
            skip=config.get("invalid") != "error",
            lacking=lambda cell: capacity.lacking(cell, here=isinstance(launcher, LocalLauncher)),
        )
        sweep_dir = Path(config.hydra.sweep.dir)

        def launch(chosen: Any, on_start: Any, on_end: Any) -> list[JobReturn]:
            OmegaConf.save(config, sweep_dir / "multirun.yaml")
            return launch_through(launcher, chosen, on_start, on_end, batch)

        records, returns = sweep.run_sweep(plan, sweep_dir, launch, task.command)
        task.ran = not config.get("dry_run")
        task.records += records
        return [returns]
