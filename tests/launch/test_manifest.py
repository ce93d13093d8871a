"""The manifest of a sweep says soon what has happened, however quickly it came."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from fourfold.launch import manifest
from fourfold.launch.ending import blank_record
from fourfold.launch.manifest import Manifest

CELL: dict[str, Any] = {axis: {"name": axis} for axis in ("benchmark", "hardware", "setting", "method")} | {"seed": 0}


def test_what_comes_right_after_a_save_is_saved_though_nothing_follows(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(manifest, "SAVE_INTERVAL", 0.2)
    made = Manifest(tmp_path, "one", ["run.py"], [{"index": 0}, {"index": 1}])
    made.save()
    made.update(0, job="7_0")
    made.update(1, job="7_1")
    read = lambda: json.loads((made.folder / manifest.MANIFEST_FILE).read_text())  # noqa: E731
    assert [cell["job"] for cell in read()["cells"]] == [None, None], "not at every one of many"
    time.sleep(0.6)
    assert [cell["job"] for cell in read()["cells"]] == ["7_0", "7_1"]
    made.update(0, state="done")
    made.end()
    assert read()["cells"][0]["state"] == "done"
    assert read()["ended"]


def test_a_sweep_whose_launcher_was_killed_is_closed_by_the_next(tmp_path: Path) -> None:
    """What its cells left is noted; a sweep that is alive, here or in another process, is left alone."""
    folder = tmp_path / "cells" / "c"
    cells = [{"index": 0, "cell": "c", "folder": "cells/c"}, {"index": 1, "cell": "d", "folder": "cells/d"}]
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        dead = Manifest(tmp_path, "dead", ["run.py"], cells)
        dead.begin()
        os.write(writer, b"1")
        time.sleep(60)
    os.read(reader, 1)
    alive = Manifest(tmp_path, "alive", ["run.py"], cells)
    alive.begin()
    assert manifest.close_dead(tmp_path) == []
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    found = blank_record(CELL, "c", [])
    found.state, found.ended = "done", time.time()
    found.write(folder)
    (closed,) = manifest.close_dead(tmp_path)
    assert (closed["id"], closed["killed"]) == ("dead", True)
    assert [cell["state"] for cell in closed["cells"]] == ["done", None]
    assert closed["ended"] >= closed["started"]
    assert json.loads((tmp_path / "sweeps" / "dead" / "sweep.json").read_text()) == closed
    assert manifest.close_dead(tmp_path) == []
    alive.end()
    assert manifest.close_dead(tmp_path) == []


def test_a_manifest_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    for name, text in (("half", '{"id": "half", "ended": null, "cel'), ("odd", '{"ended": null}')):
        (tmp_path / "sweeps" / name).mkdir(parents=True)
        (tmp_path / "sweeps" / name / "sweep.json").write_text(text)
    assert manifest.close_dead(tmp_path) == []
