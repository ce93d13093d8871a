"""An output folder that takes nothing, from the start or from some moment on: a line, and nothing is lost."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from standing_in import FILL

from fourfold import record

Shell = Callable[..., int]
SMALL = 600_000  # bytes


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own; skips where this user may not mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def states(output: Path) -> dict[int, str]:
    found = [record.read(path.parent) for path in output.glob("cells/*/record.json")]
    return {one.axes["seed"]: one.state for one in found}


@pytest.mark.parametrize("words", [["seed=0"], ["-m", "seed=0,1"]], ids=["single", "sweep"])
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_nothing_is_started_where_nothing_can_be_written(
    words: list[str], how: str, small: Path, shell: Shell, capsys: Any
) -> None:
    if how == "full":
        (small / "filler").write_bytes(bytes(SMALL - SMALL % 4096))
        why = "No space left on device"
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        why = "Read-only file system"
    assert shell(*words, f"output_dir={small / 'outputs'}") == 2
    printed = capsys.readouterr()
    assert len(printed.err.strip().splitlines()) == 1
    assert printed.err.startswith("error: ")
    assert why in printed.err
    assert str(small / "outputs") in printed.err
    assert "started" not in printed.out


def test_a_disk_that_fills_up_costs_lines_and_nothing_that_was_there(small: Path, shell: Shell, capsys: Any) -> None:
    output = small / "outputs"
    assert shell("-m", "seed=0,1", f"output_dir={output}") == 0
    before = {path: path.read_bytes() for path in output.glob("cells/*/record.json")}
    capsys.readouterr()

    words = ["-m", f"seed=0,{FILL},2,1,3", f"output_dir={output}", "rerun=missing"]
    assert shell(*words) == 1
    printed = capsys.readouterr()
    said = printed.out + printed.err
    for line in (
        rf"\[1/3\] failed +\S+-seed{FILL}-",
        r"\[3/3\] unavailable +\S+-seed3-\S+ +cannot be started: No space",
    ):
        assert re.search(line, said), said
    assert "2 done, 3 no record" in said
    assert "Traceback" not in said
    assert {path: path.read_bytes() for path in before} == before

    for filler in output.glob("cells/*/filler"):
        filler.unlink()
    assert shell("-m", "seed=0,2,1,3", f"output_dir={output}", "rerun=missing") == 0
    assert {seed: state for seed, state in states(output).items() if seed != FILL} == dict.fromkeys(range(4), "done")
    assert {path: path.read_bytes() for path in before} == before
