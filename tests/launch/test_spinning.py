"""How long threads of OpenMP spin while they wait for each other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fourfold.launch.slots import SPINNING, spin_briefly

ROOT = Path(__file__).resolve().parents[2]


def test_threads_spin_briefly_unless_the_user_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SPINNING:
        monkeypatch.delenv(name, raising=False)
    spin_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "3000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    spin_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    spin_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_the_command_line_says_so_before_torch_is_loaded() -> None:
    code = (
        "import os, sys\n"
        "from fourfold.launch import main\n"
        "main._through_hydra = lambda *_: print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)\n"
        "main.run_command_line(['benchmark=digits'])\n"
    )
    free = {name: value for name, value in os.environ.items() if name not in SPINNING}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=free, check=True)
    assert said.stdout.split() == ["3000", "False"]
