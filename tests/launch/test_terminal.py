"""What a person sees of a sweep on a terminal, and what a file or a pipe gets instead."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from standing_in import BEAT, RAISE

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from standing_in import stand_in
from fourfold.launch.main import main
main(stand_in)
"""
COMMAND = [sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parent))]
WORDS = ["-m", "tracking=off", "hydra.launcher.warm=false"]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_on_a_terminal_there_is_one_live_view(output: Path) -> None:
    """Counts by state, the running cell with step, rate and time left, the failure; the lines of events above it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "140", "LINES": "40"}
    sweep = subprocess.Popen(
        [*COMMAND, *WORDS, f"seed={RAISE},{BEAT},0"], stdin=slave, stdout=slave, stderr=slave, env=environment
    )
    os.close(slave)
    wanted = [
        r"1/3  1 failed  1 running  1 waiting",
        rf"\S+-seed{BEAT}-\S+ +step \d+/100000 +[23],\d{{3}} images/s +1\d min \d+ s left",
        rf"\S+-seed{RAISE}-\S+: ValueError: something broke",
    ]
    shown, end = "", time.monotonic() + 120
    while select.select([master], [], [], max(0.0, end - time.monotonic()))[0]:
        try:
            shown += os.read(master, 65536).decode(errors="replace")
        except OSError:  # nobody holds the other end any more
            break
        if all(re.search(line, ESCAPES.sub("", shown)) for line in wanted):
            for folder in output.glob(f"cells/*-seed{BEAT}-*"):
                (folder / "seen").touch()
    assert sweep.wait(30) == 1
    os.close(master)
    plain = ESCAPES.sub("", shown)
    for line in wanted:
        assert re.search(line, plain), plain[-3000:]
    for line in (rf"\[1/3\] failed +\S+-seed{RAISE}-", rf"\[2/3\] done +\S+-seed{BEAT}-", r"\[3/3\] done +\S+-seed0-"):
        assert re.search(line, plain), plain[-3000:]
    assert "\x1b[" in shown


def test_piped_it_is_a_line_for_each_event(output: Path) -> None:
    found = subprocess.run([*COMMAND, *WORDS, f"seed={RAISE},0"], capture_output=True, text=True, timeout=120)
    assert found.returncode == 1
    assert "\x1b" not in found.stdout + found.stderr
    events = [re.match(r"(started|\[\d/2\] \w+)", line) for line in found.stdout.split("\n\n")[0].splitlines()]
    assert [event and event[1] for event in events] == ["started", "[1/2] failed", "started", "[2/2] done"]
    assert found.stderr == ""
