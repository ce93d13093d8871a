"""Sweeps on this machine: what is run, what is left out, and what becomes of a cell that dies."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standing_in import DEAF, EXIT, KILL, RAISE, SLEEP, stand_in

from fourfold import composition, record
from fourfold.errors import Refused
from fourfold.launch import local, main, sweep

Shell = Callable[..., int]


def records(output: Path) -> dict[int, record.Record]:
    found = [record.read(folder) for folder in (output / "cells").iterdir()]
    return {one.axes["seed"]: one for one in found}


def manifest(output: Path) -> dict[str, Any]:
    newest = max((output / "sweeps").iterdir(), key=lambda folder: folder.name)
    content: dict[str, Any] = json.loads((newest / "sweep.json").read_text())
    return content


def test_single_run(shell: Shell, output: Path, capsys: Any) -> None:
    assert shell("seed=4") == 0
    assert records(output)[4].state == "done"
    content = manifest(output)
    assert [cell["state"] for cell in content["cells"]] == ["done"]
    assert content["ended"] >= content["started"]
    assert (output / content["cells"][0]["folder"] / ".hydra" / "overrides.yaml").is_file()
    assert "1 done" in capsys.readouterr().out


def test_single_run_that_breaks(shell: Shell, output: Path, capsys: Any) -> None:
    assert shell(f"seed={RAISE}") == 1
    found = records(output)[RAISE]
    assert (found.state, found.reason) == ("failed", "bug")
    assert found.message == "ValueError: something broke"
    assert "Traceback" not in capsys.readouterr().err


def test_single_run_over_its_time(shell: Shell, output: Path) -> None:
    assert shell(f"seed={SLEEP}", "timeout=0.5") == 1
    found = records(output)[SLEEP]
    assert (found.state, found.reason) == ("failed", "timeout")


def test_dead_cells_take_no_others_with_them(shell: Shell, output: Path, capsys: Any) -> None:
    assert shell("-m", f"seed=0,{EXIT},{KILL},{RAISE},1") == 1
    found = records(output)
    assert {seed: one.state for seed, one in found.items()} == {
        0: "done", EXIT: "failed", KILL: "failed", RAISE: "failed", 1: "done",
    }  # fmt: skip
    assert found[EXIT].reason == "bug"
    assert "status 3" in (found[EXIT].message or "")
    assert "the last words" in (found[EXIT].message or "")
    assert found[KILL].reason == "lost node"
    assert "SIGKILL" in (found[KILL].message or "")
    assert found[RAISE].message == "ValueError: something broke"
    processes = {found[seed].environment["process"] for seed in (0, 1)}
    assert len(processes) == 2
    assert os.getpid() not in processes
    printed = capsys.readouterr().out
    assert "[5/5] done" in printed
    assert "2 done, 3 failed" in printed
    assert {cell["state"] for cell in manifest(output)["cells"]} == {"done", "failed"}


def test_a_cell_over_its_time_is_ended(shell: Shell, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "TIMEOUT_GRACE", 0.5)
    assert shell("-m", f"seed={DEAF},0", "timeout=2") == 1
    found = records(output)
    assert (found[DEAF].state, found[DEAF].reason) == ("failed", "timeout")
    assert found[0].state == "done"


def test_slots_run_cells_side_by_side(shell: Shell, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert shell("-m", "seed=0,1,2", "slots=3") == 0
    assert len(records(output)) == 3


def test_combinations_that_make_no_sense_are_left_out(shell: Shell, output: Path, capsys: Any) -> None:
    assert shell("-m", "method=execute,finetune", "seed=0,1", "setting=traditional,class_incremental") == 0
    content = manifest(output)
    assert len(content["cells"]) == 4
    assert len(content["refused"]) == 4
    assert all("needs kernel" in refusal["why"] for refusal in content["refused"])
    assert "skipped 4 of 8 combinations" in capsys.readouterr().out


def test_a_dry_run_shows_the_plan_and_starts_nothing(shell: Shell, output: Path, capsys: Any) -> None:
    words = ["-m", "benchmark=digits", "setting=continual,class_incremental", "method=ewc", "hardware=cpu,a100"]
    assert shell(*words, "dry_run=true") == 0
    said = capsys.readouterr().out
    for expected in ("skipped 2 of 4", "2 of 2 cells would run", "gres=gpu:a100:1", "never run before"):
        assert expected in said
    assert not output.exists()
    assert shell(*words) == 0
    capsys.readouterr()
    assert shell(*words, "dry_run=true", "rerun=missing") == 0
    assert "0 of 2 cells would run" in capsys.readouterr().out
    assert shell("benchmark=digits", "dry_run=true") == 2


def test_cells_that_repeat_another_are_left_out(shell: Shell, output: Path, capsys: Any) -> None:
    assert shell("-m", "seed=0,1,0", "timeout=5,6") == 0
    assert len(manifest(output)["cells"]) == 2
    assert "left out 4" in capsys.readouterr().out


def test_keys_of_a_swept_choice(shell: Shell, output: Path) -> None:
    assert shell("-m", "method=replay", "method.memory=7", "setting=class_incremental") == 0
    assert shell("-m", "method=replay,replay", "method.memory=8", "setting=class_incremental") == 0
    assert {one.config["method"]["memory"] for one in map(record.read, (output / "cells").iterdir())} == {7, 8}


def test_rerun(shell: Shell, output: Path, capsys: Any) -> None:
    assert shell("-m", f"seed=0,{RAISE}") == 1
    first = records(output)[0].started
    capsys.readouterr()
    assert shell("-m", f"seed=0,{RAISE},1", "rerun=missing") == 1
    assert records(output)[0].started == first
    printed = capsys.readouterr().out
    assert "1 of 3 cells are not run again" in printed
    assert "[2/2] done" in printed
    assert "2 done, 1 failed" in printed
    assert [cell["state"] for cell in manifest(output)["cells"]] == ["done", "failed", "done"]
    assert shell("-m", "seed=0,1", "rerun=missing") == 0
    assert shell("-m", "seed=0,5", "rerun=failed") == 0
    assert 5 not in records(output)
    assert shell("-m", "seed=5,6", "rerun=failed") == 2
    assert "nothing to run" in capsys.readouterr().err
    assert shell("seed=0", "rerun=missing") == 0
    assert records(output)[0].started == first
    assert shell("seed=0", "rerun=all") == 0
    assert records(output)[0].started > first
    assert shell("seed=6", "rerun=failed") == 2


def test_an_older_record_does_not_hide_a_death(shell: Shell, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forge(cell: Any, folder: Path, overrides: Any) -> record.Record:
        from fourfold.launch.ending import blank_record

        found = blank_record(cell, folder.name, overrides)
        found.state, found.ended = "done", time.time()
        found.write(folder)
        (folder / record.SERIES_FILE).touch()
        return found

    assert main.run_command_line([f"seed={KILL}", "tracking=off"], forge) == 0
    assert shell("-m", f"seed={KILL},0") == 1
    assert records(output)[KILL].state == "failed"
    assert not next((output / "cells").glob(f"*seed{KILL}*/{record.SERIES_FILE}"), None)


def test_jobs_are_frozen_at_submission(
    shell: Shell, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that starts after conf/ was edited runs what was asked for."""
    import shutil

    conf = tmp_path / "conf"
    shutil.copytree(composition.config_directory(), conf)
    monkeypatch.setattr(composition, "config_directory", lambda: conf)
    begun = local._start

    def edit_then_start(*arguments: Any) -> Any:
        for file in conf.rglob("*.yaml"):
            file.write_text("seed: [broken")
        return begun(*arguments)

    monkeypatch.setattr(local, "_start", edit_then_start)
    assert shell("-m", "seed=0,1", "optimizer.learning_rate=0.125", "optimizer.name=sgd") == 0
    assert {one.environment["learning_rate"] for one in records(output).values()} == {0.125}


def test_sigterm_ends_a_single_run_as_control_c_does(shell: Shell, output: Path) -> None:
    def end() -> None:
        last = time.monotonic() + 60
        while not list(output.glob("cells/*/started")) and time.monotonic() < last:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end).start()
    assert shell(f"seed={SLEEP}") == 130
    assert records(output)[SLEEP].state == "interrupted"


def test_batches_of_a_sweep(shell: Shell, output: Path) -> None:
    assert shell("-m", "seed=0,1,2", "hydra.sweeper.max_batch_size=2") == 0
    assert len(records(output)) == 3


def test_another_launcher_of_hydra_serves_too(shell: Shell, output: Path) -> None:
    assert shell("-m", "seed=0,1", "hydra/launcher=basic") == 0
    assert {one.environment["process"] for one in records(output).values()} == {os.getpid()}


@pytest.mark.parametrize("times", [1, 2])
def test_control_c(shell: Shell, output: Path, capsys: Any, times: int) -> None:
    """The first asks the cells to end, the second ends them; what did not run is said so, what is done stays."""

    def press() -> None:
        end = time.monotonic() + 60
        while not list(output.glob("cells/*/started")) and time.monotonic() < end:
            time.sleep(0.05)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    thread = threading.Thread(target=press)
    thread.start()
    status = shell("-m", f"seed=0,{SLEEP if times == 1 else DEAF},2")
    thread.join()
    assert status == 130
    assert [cell["state"] for cell in manifest(output)["cells"]][:2] == ["done", "interrupted"]
    printed = capsys.readouterr().out
    assert "1 done, 1 interrupted, 1 no record" in printed
    last = printed.splitlines()[-1]
    assert last.startswith("1 cell is done and kept, 1 cell was interrupted and 1 cell was not started; to go on")
    assert last.endswith(" rerun=missing")
    assert len(list((output / "cells").glob("*seed2-*"))) == 0


CHECKPOINTS = " from the last checkpoints"


@pytest.mark.parametrize(
    ("done", "begun", "waiting", "said"),
    [
        (
            2,
            1,
            4,
            f"2 cells are done and kept, 1 cell was interrupted and 4 cells were not started; to go on{CHECKPOINTS}",
        ),
        (0, 2, 0, f"2 cells were interrupted; to go on{CHECKPOINTS}"),
        (1, 0, 1, "1 cell is done and kept, 1 cell was not started; to go on"),
        (3, 0, 0, ""),
    ],
)
def test_the_last_line_says_what_is_kept_and_what_to_type(
    done: int, begun: int, waiting: int, said: str, capsys: Any
) -> None:
    reasons = ["ended by the user"] * begun + [sweep.NOT_STARTED] * waiting
    found = [record.Record("done", {}, {}, [], state="done") for _ in range(done)]
    found += [record.Record("cell", {}, {}, [], state="interrupted", reason=reason) for reason in reasons]
    sweep.say_how_to_continue(found, ["run.py", "-m", "seed=0,1"])
    assert capsys.readouterr().out == (f"{said}: python run.py -m seed=0,1 rerun=missing\n" if said else "")


def test_cells_without_checkpoints_do_not_go_on_from_them(capsys: Any) -> None:
    found = record.Record("cell", {}, {}, [], state="interrupted", reason="ended by the user")
    found.measurements = {"checkpoints": {"none": "a rate is measured"}}
    sweep.say_how_to_continue([found], ["run.py"])
    assert capsys.readouterr().out == "1 cell was interrupted; to go on: python run.py rerun=missing\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run.py -m seed=0,1 rerun=failed", "python run.py -m seed=0,1 rerun=missing"),
        ("run.py -m seed=range(20)", "python run.py -m 'seed=range(20)' rerun=missing"),
        ("/opt/fourfold/run.py -m suite=smoke", "python /opt/fourfold/run.py -m suite=smoke rerun=missing"),
        ("/lib/fourfold/__main__.py seed=1", "python -m fourfold run seed=1 rerun=missing"),
        ("/bin/fourfold seed=1", "/bin/fourfold run seed=1 rerun=missing"),
    ],
)
def test_the_command_that_goes_on_is_the_one_that_was_typed(command: str, said: str) -> None:
    assert sweep.again(command.split()) == said


def test_a_reader_that_goes_away_does_not_end_the_sweep(output: Path, tmp_path: Path) -> None:
    script = tmp_path / "cells.py"
    here = Path(__file__).parent
    script.write_text(
        f"import sys; sys.path.insert(0, {str(here)!r})\n"
        "from standing_in import stand_in\nfrom fourfold.launch.main import main\nmain(stand_in)\n"
    )
    command = [sys.executable, str(script), "-m", "seed=0,1", "tracking=off"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=120) == 0, process.stderr.read()
    process.stderr.close()
    assert len(records(output)) == 2


def test_tracking_that_breaks_costs_a_warning(
    output: Path, hydra_as_it_was: None, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fourfold.tracking

    def broken(*_: Any) -> None:
        raise RuntimeError("the store is on fire")

    monkeypatch.setattr(fourfold.tracking, "prepare", broken)
    monkeypatch.setattr(fourfold.tracking, "log_sweep", broken)
    assert main.run_command_line(["seed=0"], stand_in) == 0
    assert "the store is on fire" in capsys.readouterr().err
    assert records(output)[0].state == "done"


def test_from_python(output: Path, hydra_as_it_was: None, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import fourfold
    from fourfold.launch import single

    monkeypatch.setattr(single, "run_cell", stand_in)
    found = fourfold.run(["seed=3", "tracking=off"])
    assert found.state == "done"
    assert record.read(output / "cells" / found.cell).axes["seed"] == 3
    assert manifest(output)["command"] == ["fourfold.run", "seed=3", "tracking=off"]
    assert capsys.readouterr().out == ""
    with pytest.raises(Refused, match="did you mean ewc"):
        fourfold.run(["method=ewcc"])


def test_the_real_experiment(output: Path) -> None:
    """run.py as a user starts it; one cell that runs and one that makes no sense."""
    root = Path(__file__).resolve().parents[2]
    words = ["-m", "benchmark=digits", "method=finetune,execute", "until.steps=3", "scale=smoke", "tracking=off"]
    command = [sys.executable, str(root / "run.py"), *words]
    found = subprocess.run(command, capture_output=True, text=True, cwd=output.parent, timeout=280, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "skipped 1 of 2" in found.stdout
    (one,) = records(output).values()
    assert (one.state, one.measurements["steps"]) == ("done", 3)


def test_methods_without_use_for_a_rule_are_pruned_instead_of_stopping_the_sweep(shell: Shell, output: Path) -> None:
    assert shell("-m", "benchmark=digits", "method=finetune,random", "method/rule=backprop,dtp") == 0
    found = [record.read(folder).axes for folder in (output / "cells").iterdir()]
    assert sorted((axes["method"], axes["rule"]) for axes in found) == [("finetune", "backprop"), ("finetune", "dtp")]


def test_interrupted_cells_of_another_configuration_start_anew_and_that_is_said(
    shell: Shell, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """conf/ was edited between an interrupted run and its repetition: another cell, and the old one is left alone."""
    import shutil

    conf = tmp_path / "conf"
    shutil.copytree(composition.config_directory(), conf)
    monkeypatch.setattr(composition, "config_directory", lambda: conf)
    words = ["-m", "seed=0,1", "optimizer=sgd", "rerun=missing"]
    assert shell(*words) == 0
    for path in output.glob("cells/*/record.json"):
        content = json.loads(path.read_text())
        if content["axes"]["seed"] == 1:
            path.write_text(json.dumps({**content, "state": "interrupted"}))
    file = conf / "optimizer" / "sgd.yaml"
    before, after = "momentum: 0.9", "momentum: 0.5"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))
    capsys.readouterr()
    assert shell(*words) == 0
    said = capsys.readouterr().out
    assert "1 cell was interrupted with another configuration in sweep " in said
    assert "and start anew" in said
    assert "optimizer.momentum=0.5, was 0.9)" in said
    assert len(list(output.glob("cells/*/record.json"))) == 4
    assert shell(*words) == 0
    assert "another configuration" not in capsys.readouterr().out


def test_a_clock_that_jumps_changes_nothing(
    shell: Shell, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    now, day, looks = time.time, 86_400.0, itertools.count()
    monkeypatch.setattr(time, "time", lambda: now() + day * (next(looks) % 3 - 1))
    assert shell("-m", f"seed=0,{KILL},1", "retries=1") == 1
    assert {seed: one.state for seed, one in records(output).items()} == {0: "done", KILL: "failed", 1: "done"}
    assert shell("-m", "seed=0,1", "rerun=missing") == 0
    assert "2 of 2 cells are not run again" in capsys.readouterr().out
