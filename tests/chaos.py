"""A sweep that things happen to, beside one to which nothing does: starting it, and comparing what came of both."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold import record

ROOT = Path(__file__).resolve().parents[1]


def environment(output: Path) -> dict[str, str]:
    return {**os.environ, "FOURFOLD_OUTPUT": str(output), "OMP_NUM_THREADS": "1"}


def start(output: Path, words: list[str]) -> "subprocess.Popen[bytes]":
    with (output.parent / "printed").open("ab") as printed:
        command = [sys.executable, str(ROOT / "run.py"), *words]
        return subprocess.Popen(
            command, stdout=printed, stderr=printed, env=environment(output), cwd=output.parent, preexec_fn=_hear
        )


def _hear() -> None:
    """Ctrl-C, which is ignored by all that a script starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def results(output: Path) -> dict[str, Any]:
    """What each cell found: its evaluations, and the loss of each step, to the last bit."""
    found = {}
    for folder in (output / "cells").iterdir():
        one = record.read(folder)
        assert one.state == "done", (one.cell, one.message)
        values = [(entry["after"], entry["context"], entry["value"]) for entry in one.evaluations]
        found[one.cell] = (values, np.asarray(record.read_series(folder)["loss"]).tobytes())
    return found


def done(output: Path) -> int:
    return sum(1 for path in output.glob("cells/*/record.json") if record.read(path.parent).state == "done")


def mlflow_runs(uri: str) -> tuple[list[Any], list[Any]]:
    """(sweeps, cells) of the store."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("fourfold")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    kinds = {kind: [run for run in runs if run.data.tags.get("kind") == kind] for kind in ("sweep", "cell")}
    return kinds["sweep"], kinds["cell"]


def sync(output: Path, words: list[str]) -> str:
    command = [sys.executable, "-m", "fourfold", "sync", "--output-dir", str(output), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment(output)).stdout


def check_mlflow(output: Path, uri: str, words: list[str], cells: int) -> None:
    """Every cell exactly once, whole, under the last sweep; no sweep is left running; nothing is left to be written."""
    sync(output, words)
    assert "runs written: 0" in sync(output, words)
    parents, found = mlflow_runs(uri)
    assert len(found) == cells
    assert len({run.data.tags["cell"] for run in found}) == cells
    assert all("record_digest" in run.data.tags and run.info.status == "FINISHED" for run in found)
    assert len({run.data.tags["mlflow.parentRunId"] for run in found}) == 1
    assert "RUNNING" not in {parent.info.status for parent in parents}
    assert len(parents) == len(list((output / "sweeps").iterdir()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """An MLflow server that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def words(self) -> list[str]:
        return ["tracking=server", f"tracking.uri=http://127.0.0.1:{self.port}"]

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 180
        while socket.socket().connect_ex(("127.0.0.1", self.port)) != 0:
            assert time.monotonic() < end, (self.folder / "server.log").read_text()[-2000:]
            time.sleep(0.3)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    found = Server(tmp_path)
    yield found
    found.kill()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB; skips where this user may not mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
