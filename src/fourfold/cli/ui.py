"""`ui`: MLflow's own page on the runs, on this machine only."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourfold.errors import Failed, Refused
from fourfold.tracking import resolve
from fourfold.tracking.store import set_environment
from fourfold.tracking.views import charts_address, table_address

HOST = "127.0.0.1"
READY_SECONDS = 180.0


def serve(tracking: Mapping[str, Any], output_dir: Path, port: int) -> int:
    """Serves until it is interrupted; prints the address once it answers. Returns an exit status.

    Raises Refused if there is no store yet or the port is taken, Failed if the server does not come up.
    """
    where = resolve(tracking, output_dir)
    if where is None:
        raise Refused("tracking=off: there is nothing to show")
    if where.database is None:
        print(f"The server has its own page: {where.uri}", flush=True)
        return 0
    if not where.database.is_file():
        raise Refused(f"{where.database}: no MLflow store yet; run something first, or python -m fourfold sync")
    _check_port(port)
    set_environment(where)
    log = output_dir / "mlflow-ui.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            _command(where.uri, where.artifacts, port), stdout=stream, stderr=stream, start_new_session=True
        )
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        _wait(server, port, log)
        print(f"MLflow is at http://{HOST}:{port}   (Ctrl-C ends it)", flush=True)
        server_address = f"http://{HOST}:{port}"
        experiment = _experiment(server_address, where.experiment)
        if experiment:
            print(f"the cells, by the four axes: {table_address(server_address, experiment)}", flush=True)
            print(f"charts over the four axes:   {charts_address(server_address, experiment)}", flush=True)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)
        _end(server)


def _command(uri: str, artifacts: Path, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", uri),
        *("--default-artifact-root", artifacts.absolute().as_uri()),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
    ]


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "must be between 1 and 65535"
            raise Refused(
                f"--port {port}: {reason}; choose another, e.g. --port {5001 if port != 5001 else 5002}"
            ) from error


def _wait(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Until the server answers. Raises Failed if it ends, or does not within three minutes."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    last = (log.read_text(errors="replace").strip().splitlines() or ["nothing in its log"])[-1]
    raise Failed(f"MLflow's server did not start ({last[:200]}); its log: {log}")


def _experiment(server: str, experiment: str) -> str | None:
    """The id of an experiment; None if it is not there."""
    query = urllib.parse.urlencode({"experiment_name": experiment})
    try:
        with urllib.request.urlopen(f"{server}/api/2.0/mlflow/experiments/get-by-name?{query}", timeout=10) as answer:
            return str(json.load(answer)["experiment"]["experiment_id"])
    except (OSError, ValueError, KeyError):
        return None


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def _end(server: "subprocess.Popen[bytes]") -> None:
    """Ends the server and its workers: they are a process group of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            return
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
        return
