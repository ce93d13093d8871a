"""One MLflow store for all tests of the session: creating one costs seconds. Each test has an experiment of its own."""

from itertools import count
from pathlib import Path

import pytest

from fourfold.tracking import prepare
from fourfold.tracking.store import Location, Store, open_store

_experiments = count()


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    prepare({"kind": "local", "uri": None, "experiment": "fourfold"}, folder)
    return folder / "mlflow.db"


@pytest.fixture
def tracking(database: Path) -> dict[str, str]:
    return {"kind": "local", "uri": f"sqlite:///{database}", "experiment": f"test {next(_experiments)}"}


@pytest.fixture
def store(tracking: dict[str, str], tmp_path: Path) -> Store:
    return open_store(Location(tracking["uri"], tracking["experiment"], tmp_path))
