"""Where MLflow keeps the runs: found, created once, migrated, opened.

A fresh SQLite store is built under a temporary name and moved into place: sixteen processes that open a new
file at once otherwise break it for good (measured), and so does one that is killed half-way.
"""

import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fourfold.errors import Refused
from fourfold.tracking.locks import TrackingError, locked
from fourfold.tracking.views import experiment_tags

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SQLITE = "sqlite:///"
# A server that is down must cost seconds: MLflow's own defaults block for four minutes (measured).
SERVER_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # the page needs none of its eight helper processes
    "GIT_PYTHON_REFRESH": "quiet",
}
CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Location:
    """Of a store: MLflow's tracking URI, the experiment, and the folder of records that it mirrors."""

    uri: str
    experiment: str
    output_dir: Path

    @property
    def database(self) -> Path | None:
        """The SQLite file; None for anything else."""
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None

    @property
    def artifacts(self) -> Path:
        """Where a store on this machine keeps its artifacts."""
        return self.output_dir / "artifacts"


@dataclass(frozen=True)
class Store:
    """An open store: MLflow's client and the experiment's id."""

    client: "MlflowClient"
    experiment_id: str


def resolve(tracking: Mapping[str, Any], output_dir: Path) -> Location | None:
    """The store that a configuration of tracking names; None if tracking is off.

    Raises Refused if it names none.
    """
    kind, uri = tracking["kind"], tracking.get("uri")
    if kind == "off":
        return None
    output_dir = output_dir.absolute()
    if kind == "local":
        uri = uri or f"{SQLITE}{output_dir / 'mlflow.db'}"
        if not uri.startswith("sqlite:"):
            raise Refused(
                f"tracking.uri={uri}: tracking=local keeps a file, sqlite:///FILE; for a server: tracking=server"
            )
        uri = SQLITE + str(Path(uri.removeprefix(SQLITE)).absolute())
    elif not uri:
        raise Refused("tracking=server needs tracking.uri=http://HOST:PORT (or MLFLOW_TRACKING_URI)")
    elif urlsplit(uri).scheme not in ("http", "https"):
        raise Refused(f"tracking.uri={uri}: tracking=server needs an http or https address")
    return Location(str(uri), tracking["experiment"], output_dir)


def open_store(where: Location) -> Store:
    """The store, created, migrated and with its experiment if need be.

    Raises TrackingError with one line if it cannot be reached or used.
    """
    set_environment(where)
    if where.database is None:
        _ensure_reachable(where.uri)
    import mlflow.tracking  # noqa: F401  before the lock is held: it takes seconds

    if where.database is not None:
        with locked(where.database.with_name(f".{where.database.name}.lock"), "another process is creating the store"):
            _ensure_database(where)
            return _connect(where)
    return _connect(where)


def set_environment(where: Location) -> None:
    """No telemetry, no patience with a dead server; what the user has set stays. Before MLflow is imported."""
    for name, value in {**ENVIRONMENT, **({} if where.database else SERVER_ENVIRONMENT)}.items():
        os.environ.setdefault(name, value)


def guarded(error: Exception, where: str) -> TrackingError:
    """Whatever MLflow, SQLAlchemy or the network raised, as one line."""
    lines = str(error).strip().splitlines()
    return TrackingError(f"{where}: {lines[0][:300] if lines else type(error).__name__}")


def _connect(where: Location) -> Store:
    from mlflow.tracking import MlflowClient

    _quiet()
    try:
        client = MlflowClient(tracking_uri=where.uri)
        return Store(client, _experiment(client, where))
    except TrackingError:
        raise
    except Exception as error:
        raise guarded(error, where.uri) from error


def _experiment(client: "MlflowClient", where: Location) -> str:
    """The id of the experiment: found, restored from the trash, or created."""
    found = client.get_experiment_by_name(where.experiment)
    if found is None:
        location = where.artifacts.as_uri() if where.database else None
        # Another controller may create it at this moment, so that ours is refused: then theirs is found.
        with suppress(Exception):
            client.create_experiment(where.experiment, artifact_location=location)
        found = client.get_experiment_by_name(where.experiment)
    if found is None:
        raise TrackingError(f"{where.uri}: the experiment {where.experiment} cannot be created")
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    for key, value in experiment_tags().items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(found.experiment_id, key, value)
    return str(found.experiment_id)


def _ensure_database(where: Location) -> None:
    """The SQLite file exists and has this MLflow's schema. The caller holds the store's lock."""
    database = where.database
    assert database is not None
    if not database.exists():
        _create(where, database)
        return
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    _quiet()
    try:
        MlflowClient(tracking_uri=where.uri).search_experiments(max_results=1)
    except MlflowException as error:
        if "out-of-date" not in str(error):
            raise guarded(error, str(database)) from error
        _migrate(where, database)
    except Exception as error:
        raise TrackingError(
            f"{database}: not a usable MLflow store ({guarded(error, 'SQLite')}); "
            "move it away, and python -m fourfold sync makes it again from the records"
        ) from error


def _create(where: Location, database: Path) -> None:
    fresh = database.with_name(f".{database.name}.{os.getpid()}.new")
    try:
        fresh.unlink(missing_ok=True)
        _connect(Location(SQLITE + str(fresh), where.experiment, where.output_dir))
        _forget(SQLITE + str(fresh))
        os.replace(fresh, database)
    except OSError as error:
        raise TrackingError(f"{database}: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)


def _forget(uri: str) -> None:
    """Closes MLflow's connections to a file that is about to get another name."""
    try:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        engine = getattr(SqlAlchemyStore, "_engine_map", {}).pop(uri, None)
        if engine is not None:
            engine.dispose()
    except ImportError:
        return


def _migrate(where: Location, database: Path) -> None:
    """Brings an older MLflow's file to this one's schema; a copy of it stays beside."""
    backup = database.with_name(f"{database.name}.{time.strftime('%Y%m%d-%H%M%S')}.bak")
    shutil.copy2(database, backup)
    logging.getLogger(__name__).info("MLflow: %s is of an older version; migrating, copy at %s", database, backup)
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", where.uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrackingError(f"{database}: migration failed ({last[:200]}); the copy before it is {backup}")


def _ensure_reachable(uri: str) -> None:
    """A quick look at the port: MLflow's own error is pages long and late."""
    address = urlsplit(uri)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise TrackingError(f"{uri} cannot be reached ({error.strerror or error})") from error


def _quiet() -> None:
    """MLflow tells of every migration, and of errors with their tracebacks; what matters comes as an exception."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for name in ("mlflow.store.db.utils", "mlflow.store.tracking"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
