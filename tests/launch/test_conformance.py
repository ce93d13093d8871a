"""Our launchers and our sweeper keep Hydra's own contract, for any program."""

import importlib
from typing import Any

import hydra_plugins.hydra_submitit_launcher.config as submitit_config
import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.test_utils.launcher_common_tests import LauncherTestSuite
from hydra.version import VersionBase
from packaging.version import Version

from hydra_plugins.fourfold_plugins.launcher import LocalLauncher, SlurmLauncher
from hydra_plugins.fourfold_plugins.sweeper import FourfoldSweeper

OURS = [
    "hydra.launcher._target_=hydra_plugins.fourfold_plugins.launcher.LocalLauncher",
    "hydra.sweeper._target_=hydra_plugins.fourfold_plugins.sweeper.FourfoldSweeper",
]


@pytest.mark.parametrize(
    ("plugin", "kind"), [(LocalLauncher, Launcher), (SlurmLauncher, Launcher), (FourfoldSweeper, Sweeper)]
)
def test_is_discovered(plugin: Any, kind: Any) -> None:
    found = [(other.__module__, other.__name__) for other in Plugins.instance().discover(kind)]
    assert (plugin.__module__, plugin.__name__) in found


@pytest.fixture
def _as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's suite counts on a fresh process: its version base, and the plugin's own names of launchers."""
    monkeypatch.setattr(VersionBase.instance(), "version_base", Version("1.1"))
    importlib.reload(submitit_config)


@pytest.mark.usefixtures("_as_if_alone")
@pytest.mark.parametrize(
    ("launcher_name", "overrides"), [("submitit_local", OURS), ("submitit_local", [*OURS, "+hydra.launcher.warm=true"])]
)
class TestLocalLauncher(LauncherTestSuite):
    """Hydra's suite, with a process for each job: a fresh one, and a forked one."""
