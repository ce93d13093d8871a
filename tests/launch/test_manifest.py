"""The manifest of a sweep says soon what has happened, however quickly it came."""

import json
import time
from pathlib import Path

from fourfold.launch import manifest
from fourfold.launch.manifest import Manifest


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
