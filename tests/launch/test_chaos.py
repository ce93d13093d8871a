"""A sweep that everything happens to ends as one to which nothing did: each cell once, in records and in MLflow."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from chaos import ROOT, Server, check_mlflow, done, environment, results, server, small_disk, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
__all__ = ["server", "small_disk"]

SWEEP = [
    *("-m", "benchmark=digits", "hardware=cpu", "setting=class_incremental", "method=finetune,replay,ewc"),
    *("seed=range(20)", "until.steps=60", "slots=2", "rerun=missing"),
]
CELLS = 60
REPEATS = 3


def workers(launcher: int) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """(the fork server, the cells) of a launcher: children with the same words, of which the server is the oldest."""
    try:
        children = psutil.Process(launcher).children()
        forked = [child for child in children if "fourfold.launch.forkserver" in child.cmdline()]
    except psutil.Error:
        return [], []
    forked.sort(key=lambda child: child.create_time())
    return forked[:1], forked[1:]


def kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        return


def disturb(launcher: "subprocess.Popen[bytes]", output: Path, number: int, luck: random.Random) -> None:
    """Kills cells now and then; once the fork server, and at the first try the launcher itself; then Ctrl-C."""
    begun, server_killed = done(output), False
    while launcher.poll() is None:
        time.sleep(luck.uniform(0.2, 1.5))
        servers, cells = workers(launcher.pid)
        if cells and luck.random() < 0.3:
            kill(luck.choice(cells))
        if servers and not server_killed and done(output) - begun >= 4:
            server_killed = True
            kill(servers[0])
        if done(output) - begun >= 15:
            launcher.send_signal(signal.SIGKILL if number == 0 else signal.SIGINT)
            launcher.wait(timeout=300)


def test_a_local_sweep_survives(tmp_path: Path, server: Server) -> None:
    """Cells, fork server, launcher and tracking server are killed; the same command again, at most three times."""
    calm, wild, luck = tmp_path / "calm", tmp_path / "wild", random.Random(3)
    assert start(calm, [*SWEEP, "tracking=off"]).wait(timeout=1200) == 0
    expected = results(calm)
    assert len(expected) == CELLS

    server.start()
    for number in range(1 + REPEATS):
        launcher = start(wild, [*SWEEP, *server.words])
        if number < REPEATS:
            if number == 1:
                server.kill()
            disturb(launcher, wild, number, luck)
            if number == 1:
                server.start()
        status = launcher.wait(timeout=1200)
        if status == 0 and done(wild) == CELLS:
            break
    assert status == 0, (tmp_path / "printed").read_text()[-3000:]
    assert results(wild) == expected
    check_mlflow(wild, f"http://127.0.0.1:{server.port}", server.words, CELLS)


def test_a_full_disk_for_the_tracking_store_costs_a_line(tmp_path: Path, small_disk: Path) -> None:
    output = tmp_path / "outputs"
    words = ["tracking=local", f"tracking.uri=sqlite:///{small_disk}/mlflow.db"]
    sweep = ["-m", "benchmark=digits", "hardware=cpu", "seed=range(6)", "until.steps=800", "slots=2"]
    (small_disk / "filler").write_bytes(b"x" * 500_000)
    assert start(output, [*sweep, *words]).wait(timeout=600) == 0
    printed = (tmp_path / "printed").read_text()
    warnings = [line for line in printed.splitlines() if "MLflow" in line]
    assert warnings, printed
    assert all("the records are safe" in line for line in warnings)
    assert "Traceback" not in printed
    assert len(results(output)) == 6
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    check_mlflow(output, f"sqlite:///{small_disk}/mlflow.db", words, 6)


def test_a_full_disk_for_the_outputs_costs_a_line_and_the_command_again_repairs_it(
    tmp_path: Path, small_disk: Path
) -> None:
    output = small_disk / "outputs"
    sweep = ["-m", "benchmark=digits", "hardware=cpu", "seed=range(6)", "until.steps=20", "tracking=off"]
    (small_disk / "filler").write_bytes(b"x" * 1_900_000)
    with (tmp_path / "printed").open("wb") as printed:
        command = [sys.executable, str(ROOT / "run.py"), *sweep]
        status = subprocess.run(command, stdout=printed, stderr=printed, env=environment(output)).returncode
    said = (tmp_path / "printed").read_text()
    assert status in (1, 2), said
    assert "No space left on device" in said
    assert "Traceback" not in said
    (small_disk / "filler").unlink()
    with (tmp_path / "printed").open("ab") as printed:
        again = [*command, "rerun=missing"]
        assert subprocess.run(again, stdout=printed, stderr=printed, env=environment(output)).returncode == 0
    assert len(results(output)) == 6
