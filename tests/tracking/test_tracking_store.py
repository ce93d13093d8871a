"""The store: created once whoever comes first, found again, and never a reason to lose a sweep."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fourfold.errors import Refused
from fourfold.tracking import TrackingError, log_sweep, prepare, sync
from fourfold.tracking.locks import locked
from fourfold.tracking.store import Store, open_store, resolve
from records import folders, make_record, write_sweep

LOCAL = {"kind": "local", "uri": None, "experiment": "fourfold"}
PREPARE = (
    f"import sys; from pathlib import Path; from fourfold.tracking import prepare; prepare({LOCAL}, Path(sys.argv[1]))"
)


def server(uri: str | None) -> dict[str, str | None]:
    return {"kind": "server", "uri": uri, "experiment": "fourfold"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_where_the_store_is(tmp_path: Path) -> None:
    where = resolve(LOCAL, tmp_path)
    assert where.database == tmp_path / "mlflow.db"
    assert where.artifacts == tmp_path / "artifacts"
    assert resolve({**LOCAL, "kind": "off"}, tmp_path) is None
    assert resolve({**LOCAL, "uri": "sqlite:////elsewhere/runs.db"}, tmp_path).database == Path("/elsewhere/runs.db")
    assert resolve(server("http://localhost:5000"), tmp_path).database is None


@pytest.mark.parametrize(
    ("tracking", "said"),
    [
        (server(None), "tracking.uri"),
        (server("localhost:5000"), "http"),
        (server("ftp://x"), "http"),
        ({**LOCAL, "uri": "http://localhost:5000"}, "tracking=server"),
        ({**LOCAL, "uri": "/some/folder"}, "sqlite:///FILE"),
    ],
)
def test_what_is_no_store_is_refused_in_one_line(tracking: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=said) as caught:
        prepare(tracking, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("processes", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_several_controllers_at_once(processes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Sixteen processes on a fresh file break it for good without our lock (measured)."""
    command = [sys.executable, "-c", PREPARE, str(tmp_path)]
    others = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(processes - 1)]
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda _: prepare(LOCAL, tmp_path), range(3)))
    assert [process.communicate(timeout=250)[1] for process in others] == [""] * (processes - 1)
    assert [process.returncode for process in others] == [0] * (processes - 1)
    assert not caplog.records
    where = resolve(LOCAL, tmp_path)
    with sqlite3.connect(where.database) as connection:
        names = [name for (name,) in connection.execute("select name from experiments where name = 'fourfold'")]
    assert names == ["fourfold"]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".new")]
    client = open_store(where).client
    assert client.get_experiment_by_name("fourfold").artifact_location == (tmp_path / "artifacts").as_uri()


def test_the_page_shows_the_four_axes(store: Store) -> None:
    view = store.client.get_experiment(store.experiment_id).tags["mlflow.sharedViewState.four_axes"]
    for column in (
        "tags.`benchmark`",
        "tags.`hardware`",
        "tags.`setting`",
        "tags.`method`",
        "metrics.`units_per_second`",
    ):
        assert column in json.loads(view)["selectedColumns"]


def test_an_experiment_in_the_trash_comes_back(store: Store, tracking: dict[str, str], tmp_path: Path) -> None:
    store.client.delete_experiment(store.experiment_id)
    assert open_store(resolve(tracking, tmp_path)).experiment_id == store.experiment_id
    assert store.client.get_experiment(store.experiment_id).lifecycle_stage == "active"


def test_a_broken_file_is_a_warning_that_says_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database, whatever its name says" * 100)
    prepare(LOCAL, tmp_path)
    (record,) = caplog.records
    assert "move it away" in record.getMessage()
    assert "\n" not in record.getMessage()
    with pytest.raises(TrackingError):
        sync(LOCAL, tmp_path)


def test_a_server_that_is_down_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracking = server(f"http://127.0.0.1:{free_port()}")
    sweep = write_sweep(tmp_path, [make_record()])
    begin = time.perf_counter()
    prepare(tracking, tmp_path)
    log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    assert time.perf_counter() - begin < 5
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert all("cannot be reached" in message and "\n" not in message for message in messages)
    with pytest.raises(TrackingError):
        sync(tracking, tmp_path)


def test_nobody_may_write_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    prepare(LOCAL, tmp_path / "file" / "outputs")
    assert "Not a directory" in caplog.text


def test_tracking_off_does_nothing(tmp_path: Path) -> None:
    off = {**LOCAL, "kind": "off"}
    prepare(off, tmp_path)
    log_sweep(off, tmp_path, write_sweep(tmp_path, [make_record()]), [])
    assert not (tmp_path / "mlflow.db").exists()
    with pytest.raises(Refused):
        sync(off, tmp_path)


def test_the_user_decides_about_telemetry(tmp_path: Path) -> None:
    show = PREPARE + "; import os; print(os.environ['MLFLOW_DISABLE_TELEMETRY'], 'mlflow' in sys.modules)"
    off = show.replace("'local'", "'server'").replace("'uri': None", "'uri': 'http://127.0.0.1:9'")
    for value, seen in ((None, "true"), ("false", "false")):
        environment = {key: item for key, item in os.environ.items() if key != "MLFLOW_DISABLE_TELEMETRY"}
        environment |= {} if value is None else {"MLFLOW_DISABLE_TELEMETRY": value}
        done = subprocess.run(
            [sys.executable, "-c", off, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [seen, "False"]


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock", "somebody writes"),
        pytest.raises(TrackingError, match="somebody writes"),
        locked(tmp_path / "lock", "somebody writes", patience=0.1),
    ):
        pass
    with locked(tmp_path / "lock", "somebody writes", patience=0.1):
        pass
