"""python -m fourfold: what it prints, its exit status, and that it stays quick."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from fourfold import composition
from fourfold.__main__ import main
from fourfold.cli import members as cli_members
from fourfold.cli.members import _derived
from fourfold.cli.sources import hydra
from fourfold.compatibility import Member, unmet
from learning import catalogue
from records import make_record, write_sweep

WITHOUT_HEAVY_IMPORTS = """
import sys
from fourfold.__main__ import main
status = main(sys.argv[1:])
found = {name.split(".")[0] for name in sys.modules}
heavy = sorted(found & {"torch", "lightning", "mlflow", "transformers", "pandas"})
assert not heavy, heavy
sys.exit(status)
"""


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    write_sweep(tmp_path, [make_record(seed=0), make_record(seed=1)], "first")
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "list")
    assert status == 0
    for axis in ("benchmark=", "hardware=", "setting=", "method=", "method/rule="):
        assert axis in out.splitlines()
    (line,) = [line for line in out.splitlines() if line.split()[:1] == ["ewc"]]
    assert "Elastic weight consolidation" in line
    assert "python run.py" not in out
    assert not [line for line in out.splitlines() if line.strip().startswith("_")]
    assert "backprop" in said(capsys, "list", "rule")[1]


def test_every_member_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "list")[1]
    bare = [line for line in out.splitlines() if line.startswith("  ") and len(line.split()) < 3]
    assert bare == []


def test_explain_a_valid_cell(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("benchmark=mnist", "setting=task_incremental", "method=ewc", "hardware=cpu")
    status, out, _ = said(capsys, "explain", *words)
    assert status == 0
    assert out.startswith("valid: ")
    assert "needs   boundaries_train" in out
    assert "(setting task_incremental)" in out
    assert "uses    task_labels_test" in out
    assert "would run (scale=auto: smoke)" in out
    assert "tuned values from conf/tuned/ewc/mnist/task_incremental.yaml" in out
    assert "method.strength = 100000.0\n" in out
    assert "stream: 5 contexts" in out
    assert "cell  mnist-cpu-task_incremental-ewc-seed0-" in out
    assert "(overridden: 3)" in said(capsys, "explain", *words, "method.strength=3")[1]
    assert "without task_labels_test" in said(capsys, "explain", "setting=class_incremental", "method=ewc")[1]


def test_explain_a_cell_that_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, "explain", "benchmark=digits", "setting=continual", "method=ewc")
    assert status == 2
    assert err == ""
    assert out.startswith("refused: ")
    assert "method ewc needs boundaries_train" in out
    assert "NOT MET" in out
    assert "would run" not in out
    assert "class_incremental" in out  # what would do


def test_explain_a_wrong_number(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "explain", "setting=class_incremental", "setting.contexts=99")
    assert status == 2
    assert "setting.contexts=99: digits has 10 classes" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "metod"], "did you mean method?"),
        (["explain", "benchmark=digit"], "did you mean digits?"),
        (["explain", "sed=1"], "sed=1: no such key"),
        (["report", "--output-dir", "/nowhere/at/all"], "no sweep in /nowhere/at/all/sweeps yet"),
        (["report", "nope"], "sweep nope: no such sweep"),
        (["report", "first", "--all"], "not both"),
        (["sync", "--output-dir", "/nowhere/at/all"], "no such folder"),
        (["sync", "tracking=off"], "tracking=off"),
        (["sync", "tracking=server"], "tracking.uri"),
        (["sync", "seed=1"], "seed=1: only tracking"),
        (["sync", "tracking=locl"], "did you mean local?"),
        (["ui", "tracking=off"], "nothing to show"),
        (["ui"], "no MLflow store yet"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str], message: str, outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOURFOLD_OUTPUT", str(outputs))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    status, out, err = said(capsys, *words)
    assert status == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_taken_port(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (outputs / "mlflow.db").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, _, err = said(capsys, "ui", "--port", port, "--output-dir", str(outputs))
    assert status == 2
    assert f"--port {port}: Address already in use" in err
    assert "between 1 and 65535" in said(capsys, "ui", "--port", "99999", "--output-dir", str(outputs))[2]


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from fourfold.errors import Refused

    monkeypatch.setenv("FOURFOLD_DEBUG", "1")
    with pytest.raises(Refused):
        main(["list", "metod"])


def test_tree(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "tree")
    assert status == 0
    lines = out.splitlines()
    path = [_node(lines, name) for name in ("continual", "class_incremental", "task_incremental", "multi_task")]
    indents = [len(lines[index]) - len(lines[index].lstrip()) for index in path]
    assert indents == sorted(set(indents))
    root, _, task, multi = path
    assert lines[task + 1].strip() == "+ task_labels_test"
    assert lines[multi + 1].strip() == "+ stationary"
    assert "replay" in lines[root + 2]
    assert "ewc" not in lines[root + 2]  # it needs to be told when a context ends
    assert [line for line in lines if "+ methods:" in line and "ewc" in line]
    assert len([line for line in lines if line.strip() == "multi_task"]) == 2  # below both of its parents
    less = [line.strip() for line in lines if "- methods:" in line]
    assert set(less) == {"- methods: execute, rlhf, serving", "- methods: icarl"}


def test_the_tree_lists_methods_that_some_benchmark_can_be_used_with() -> None:
    """Each claim has a cell: a setting of the node, a benchmark and a rule, on a CPU or the largest device."""
    found, members = _derived(), catalogue()
    hardware = [members["hardware"][name] for name in ("cpu", "h100")]
    for node, methods in found.methods.items():
        settings = [members["setting"][name] for name in node.split(" = ")]
        for method in methods:
            cells = product(settings, members["benchmark"].values(), members["method/rule"].values(), hardware)
            assert any(not unmet([*cell, members["method"][method]]) for cell in cells), (node, method)
    holding = {
        name: {node for node, methods in found.methods.items() if name in methods}
        for name in ("execute", "serving", "joint")
    }
    assert holding["execute"] == {"traditional"}
    assert {node.split(" = ")[0] for node in holding["serving"]} == {"domain_incremental", "traditional"}
    assert "osaka" in found.methods
    assert not {"osaka", "continual_meta", "meta_learning"} & holding["joint"]


def test_the_tree_asks_the_models_that_a_benchmark_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that refuses some models stands where a benchmark has another one, perhaps one of its kind's."""
    own, branched = composition.own_values, {"mlp", "conv"}

    def with_branches(path: str) -> dict[str, Any]:
        return {**own(path), "branches": True} if Path(path).name in branched else own(path)

    with hydra():
        few = _few(setting="task_incremental", benchmark="mnist", method="hat ewc packnet")
        usual = deepcopy(cli_members._usual_cell("mnist"))
        monkeypatch.setattr(composition, "own_values", with_branches)
        monkeypatch.setattr(cli_members, "_usual_cell", lambda _: usual)
        assert cli_members.applicable(few["setting"], few) == ["ewc", "hat", "packnet"]
        usual["benchmark"]["model"]["branches"] = True
        assert cli_members.applicable(few["setting"], few) == ["ewc", "hat", "packnet"]  # with conv4
        branched.add("conv4")
        assert cli_members.applicable(few["setting"], few) == ["ewc", "packnet"]


def test_the_tree_asks_beyond_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judging each batch before it is learned, and a loop of its own, say."""
    own = composition.own_values

    def judged_as_it_comes(path: str) -> dict[str, Any]:
        return {**own(path), "protocol": ["prequential"]} if path == "setting/online" else own(path)

    with hydra():
        few = _few(setting="online", benchmark="digits", method="avalanche replay")
        assert cli_members.applicable(few["setting"], few) == ["avalanche", "replay"]
        monkeypatch.setattr(composition, "own_values", judged_as_it_comes)
        assert cli_members.applicable(few["setting"], few) == ["replay"]


def _few(**chosen: str) -> dict[str, list[Member]]:
    """The catalogue with some members of these axes only."""
    return {
        axis: [one for one in every if one.name in chosen.get(axis, one.name).split()]
        for axis, every in composition.catalogue().items()
    }


def _node(lines: list[str], name: str) -> int:
    """The first line that shows a setting, perhaps with others of equal grants."""
    return next(index for index, line in enumerate(lines) if name in line.strip().split(" = "))


def test_report(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ("--output-dir", str(outputs))
    status, out, _ = said(capsys, "report", *folder)
    assert status == 0
    assert "digits" in out
    assert "2 done" in out
    assert json.loads(said(capsys, "report", "first", "--json", *folder)[1])["sweep"] == "first"
    assert said(capsys, "report", "--csv", *folder)[1].splitlines()[0].startswith("row,benchmark,hardware,")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for command in ("list", "explain", "tree", "report", "ui", "sync", "run"):
        assert command in out
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2


def test_run_hands_everything_to_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    import fourfold.launch.main as launch

    asked: list[list[str]] = []
    monkeypatch.setattr(launch, "run_command_line", lambda words: asked.append(list(words)) or 7)
    assert main(["run", "-m", "seed=0,1", "--cfg", "job"]) == 7
    assert asked == [["-m", "seed=0,1", "--cfg", "job"]]


@pytest.mark.parametrize("words", [["list"], ["tree"], ["explain", "benchmark=llama", "hardware=a100"], ["report"]])
def test_nothing_heavy_is_imported(words: list[str], outputs: Path) -> None:
    environment = {**os.environ, "FOURFOLD_OUTPUT": str(outputs)}
    command = [sys.executable, "-c", WITHOUT_HEAVY_IMPORTS, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


def test_head_is_no_error(outputs: Path) -> None:
    command = f"{sys.executable} -m fourfold report --json --output-dir {outputs} | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_ui_serves_until_it_is_ended_and_leaves_nothing_behind(outputs: Path) -> None:
    assert main(["sync", "--output-dir", str(outputs)]) == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "fourfold", "ui", "--port", str(port), "--output-dir", str(outputs)]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert ui.stdout.readline().startswith(f"MLflow is at http://127.0.0.1:{port}")
        assert f"http://127.0.0.1:{port}/#/experiments/" in ui.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
            assert b"MLflow" in page.read()
        server = ["tracking=server", f"tracking.uri=http://127.0.0.1:{port}", "tracking.experiment=other"]
        command = [sys.executable, "-m", "fourfold", "sync", *server, "--output-dir", str(outputs)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "sweeps: 1; runs written: 2; up to date before: 0\n"
    finally:
        ui.send_signal(signal.SIGTERM)
        assert ui.wait(timeout=30) == 0
    deadline = time.monotonic() + 20
    while _answers(port):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
