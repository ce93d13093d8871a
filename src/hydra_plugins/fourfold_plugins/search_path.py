"""Lets conf/hydra/launcher/*.yaml stand for themselves."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

NAMES = ("submitit_local.yaml", "submitit_slurm.yaml")


class OwnLaunchers(SearchPathPlugin):
    """Takes the submitit plugin's registered nodes of the same names away, in Fourfold's own program only.

    A file wins over a registered node, but Hydra 1.3 merges the file into that node as if it were its
    schema, refuses keys which that lacks, and warns each time.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from fourfold.composition import config_directory

        ours = str(config_directory())
        if not any(str(element.path).removeprefix("file://") == ours for element in search_path.get_path()):
            return
        launchers = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
        for name in NAMES:
            launchers.pop(name, None)
