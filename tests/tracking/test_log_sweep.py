"""What lands in MLflow, exactly once."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold.record import RECORD_FILE
from fourfold.tracking import following as following_module
from fourfold.tracking import log_sweep, sync
from fourfold.tracking.store import Store
from records import START, evaluations, folders, make_record, make_series, write_cell, write_sweep

MATRIX = [[0.5, 0.5], [0.9, 0.1], [0.7, 0.8]]


def runs(store: Store, filter_string: str = "") -> list[Any]:
    return list(store.client.search_runs([store.experiment_id], filter_string))


def cells(store: Store) -> dict[str, Any]:
    found = runs(store, "tags.kind = 'cell'")
    assert len({run.data.tags["cell"] + run.data.tags.get("sweep", "") for run in found}) == len(found)
    return {run.data.tags["cell"]: run for run in found}


def test_a_parent_and_a_child_for_each_cell(tracking: dict[str, str], store: Store, tmp_path: Path) -> None:
    records = [
        make_record(method="ewc", setting="class_incremental", evaluations=evaluations(MATRIX)),
        make_record("llama", "a100", evidence="simulated", seed=1),
        make_record(
            "resnet", "mi300", state="unavailable", reason="unavailable", message="no such device", measurements={}
        ),
    ]
    sweep = write_sweep(tmp_path, records, refused=[{"overrides": ["method=ewc"], "why": "needs"}])
    log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))

    (parent,) = runs(store, "tags.kind = 'sweep'")
    assert parent.info.status == "FAILED"
    assert parent.data.tags["command"] == "run.py -m benchmark=digits"
    assert parent.data.tags["states"] == "2 done, 1 unavailable, 1 refused"
    assert parent.data.tags["git_commit"].startswith("c0ffee")
    assert parent.info.start_time == round((START - 5) * 1000)
    artifacts = {item.path for item in store.client.list_artifacts(parent.info.run_id)}
    assert artifacts == {"sweep.json"}

    found = cells(store)
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    ewc, llama, resnet = (found[record.cell] for record in records)
    assert [run.info.status for run in (ewc, llama, resnet)] == ["FINISHED", "FINISHED", "FAILED"]
    assert (ewc.info.start_time, ewc.info.end_time) == (round(START * 1000), round((START + 60) * 1000))
    for axis, value in {
        "benchmark": "digits",
        "hardware": "cpu",
        "setting": "class_incremental",
        "method": "ewc",
        "seed": "0",
    }.items():
        assert ewc.data.tags[axis] == value
        assert ewc.data.params[axis] == value
    assert ewc.data.params["recipe.until.steps"] == "200"
    assert ewc.data.params["setting.class_order"] == "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"
    assert not any(key.startswith(("benchmark.recipe", "hardware.launcher")) for key in ewc.data.params)
    assert ewc.data.metrics["average_accuracy"] == pytest.approx(0.75)
    assert ewc.data.metrics["forgetting_last"] == pytest.approx(0.2)
    assert resnet.data.tags["message"] == "no such device"
    assert {item.path for item in store.client.list_artifacts(ewc.info.run_id)} == {
        "record.json",
        "config.yaml",
        "cell.log",
        "accuracy_matrix.png",
    }


def test_the_table_of_methods_and_settings_goes_along(tracking: dict[str, str], store: Store, tmp_path: Path) -> None:
    methods = ("ewc", "replay")
    records = [
        make_record(method=name, setting="class_incremental", evaluations=evaluations(MATRIX)) for name in methods
    ]
    sweep = write_sweep(tmp_path, records)
    log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    (parent,) = runs(store, "tags.kind = 'sweep'")
    local = store.client.download_artifacts(parent.info.run_id, "method_x_setting.txt", str(tmp_path))
    text = Path(local).read_text()
    assert [line.split() for line in text.splitlines() if line.startswith(methods)] == [[m, "0.750"] for m in methods]


def test_the_curves_of_adaptation_go_along_where_contexts_switched(
    tracking: dict[str, str], store: Store, tmp_path: Path
) -> None:
    record = make_record(benchmark="osaka_glyphs", setting="osaka", method="cmaml")
    sweep = write_sweep(tmp_path, [record])
    series = {"score": [0.0, 0.5, 0.5, 0.25], "since_switch": [0.0, 1.0, 2.0, 0.0], "context": [0, 0, 0, 1]}
    write_cell(tmp_path, record, {name: np.array(values) for name, values in series.items()})
    log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    (parent,) = runs(store, "tags.kind = 'sweep'")
    text = Path(store.client.download_artifacts(parent.info.run_id, "adaptation.txt", str(tmp_path))).read_text()
    assert "0.312" in next(line for line in text.splitlines() if line.startswith("cmaml"))
    picture = Path(store.client.download_artifacts(parent.info.run_id, "adaptation.png", str(tmp_path)))
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_what_only_stood_in_is_never_shown_as_the_device(
    tracking: dict[str, str], store: Store, tmp_path: Path
) -> None:
    sweep = write_sweep(tmp_path, [make_record("llama", "a100", evidence="simulated")])
    log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    (run,) = cells(store).values()
    assert run.data.tags["hardware"] == run.data.params["hardware"] == "a100 (simulated)"
    assert "a100" not in [*run.data.params.values(), *run.data.tags.values()]
    assert "a100 (simulated)" in run.info.run_name
    assert run.data.tags["evidence"] == "simulated"


def test_curves_are_whole_and_short(tracking: dict[str, str], store: Store, tmp_path: Path) -> None:
    record = make_record(evaluations=evaluations(MATRIX))
    sweep = write_sweep(tmp_path, [record])
    write_cell(tmp_path, record, make_series(steps=2500))
    log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    (run,) = cells(store).values()
    history = store.client.get_metric_history
    loss = history(run.info.run_id, "learning/loss")
    assert len(loss) == 1000
    assert loss[-1].step == 2500
    assert loss[-1].timestamp <= run.info.end_time
    assert len(history(run.info.run_id, "learning/units_per_second")) == 1000
    assert [(m.step, m.value) for m in history(run.info.run_id, "accuracy/context_0")] == [(0, 0.5), (1, 0.9), (2, 0.7)]
    assert [(m.step, m.value) for m in history(run.info.run_id, "accuracy/mean_of_seen")] == [(1, 0.9), (2, 0.75)]


def test_twice_is_once_and_a_repeated_cell_replaces_its_run(
    tracking: dict[str, str], store: Store, tmp_path: Path
) -> None:
    records = [make_record(seed=seed) for seed in (0, 1)]
    sweep = write_sweep(tmp_path, records)
    for _ in range(2):
        log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    before = cells(store)
    assert len(before) == 2
    assert len(runs(store)) == 3

    records[1].state = "failed"
    write_cell(tmp_path, records[1])
    sweep["cells"][1]["state"] = "failed"
    log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    after = cells(store)
    assert len(runs(store)) == 3
    assert after[records[0].cell].info.run_id == before[records[0].cell].info.run_id
    assert after[records[1].cell].data.tags["state"] == "failed"
    (parent,) = runs(store, "tags.kind = 'sweep'")
    assert (parent.data.tags["states"], parent.info.status) == ("1 done, 1 failed", "FAILED")


def test_half_a_run_is_written_again(
    tracking: dict[str, str],
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from mlflow.tracking import MlflowClient

    sweep = write_sweep(tmp_path, [make_record()])

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", broken)
        log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    assert "No space left on device" in caplog.text
    assert "fourfold sync" in caplog.text
    assert len(cells(store)) == 1
    log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    (run,) = cells(store).values()
    assert run.info.status == "FINISHED"
    assert "record_digest" in run.data.tags


def test_a_cell_that_is_running_waits_for_its_end(tracking: dict[str, str], store: Store, tmp_path: Path) -> None:
    running = make_record(seed=1, state="interrupted", ended=None)
    sweep = write_sweep(tmp_path, [make_record(), running])
    sweep["ended"] = None
    log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    assert len(cells(store)) == 1
    (parent,) = runs(store, "tags.kind = 'sweep'")
    assert parent.info.status == "RUNNING"
    sweep["ended"] = START + 1000
    log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    assert cells(store)[running.cell].info.status == "KILLED"


def test_sync_brings_every_sweep_and_every_single_cell(tracking: dict[str, str], store: Store, tmp_path: Path) -> None:
    write_sweep(tmp_path, [make_record(seed=0), make_record(seed=1)], "one")
    write_sweep(tmp_path, [make_record(seed=1), make_record(seed=2)], "two")
    write_cell(tmp_path, make_record(seed=3))
    (tmp_path / "sweeps" / "broken").mkdir()
    (tmp_path / "sweeps" / "broken" / "sweep.json").write_text("{")
    damaged = tmp_path / "cells" / "damaged"
    damaged.mkdir()
    (damaged / RECORD_FILE).write_text(json.dumps({"schema": 99}))
    for written in (4, 0):
        assert sync(tracking, tmp_path) == {"sweeps": 2, "written": written, "kept": 5 - written}
        found = runs(store, "tags.kind = 'cell'")
        assert len(found) == 4, "one record, one run, however many sweeps hold it"
        (shared,) = (run for run in found if run.data.tags["seed"] == "1")
        assert (shared.data.tags["sweep"], shared.data.tags["sweeps"]) == ("two", "one, two")
        parents = {run.data.tags["sweep"]: run.info.run_id for run in runs(store, "tags.kind = 'sweep'")}
        assert set(parents) == {"one", "two"}
        assert shared.data.tags["mlflow.parentRunId"] == parents["two"]


def test_a_later_sweep_does_not_change_what_an_earlier_one_found(
    tracking: dict[str, str], store: Store, tmp_path: Path
) -> None:
    record = make_record()
    first = write_sweep(tmp_path, [record], "one")
    log_sweep(tracking, tmp_path, first, folders(tmp_path, first))
    record.started, record.ended = START + 5000, START + 5060
    write_sweep(tmp_path, [record], "two")
    assert sync(tracking, tmp_path) == {"sweeps": 2, "written": 1, "kept": 1}
    starts = {run.data.tags["sweep"]: run.info.start_time for run in runs(store, "tags.kind = 'cell'")}
    assert starts == {"one": round(START * 1000), "two": round((START + 5000) * 1000)}


def test_long_and_odd_values_are_made_to_fit(tracking: dict[str, str], store: Store, tmp_path: Path) -> None:
    record = make_record()
    record.config["odd@key,*"] = "x"
    record.config["long"] = list(range(5000))
    record.config |= {f"many{i}": i for i in range(230)}
    record.message = "m" * 20000
    sweep = write_sweep(tmp_path, [record])
    log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    (run,) = cells(store).values()
    assert run.data.params["odd_key__"] == "x"
    assert run.data.params["long"].endswith("…")
    assert run.data.params["many229"] == "229"
    assert run.data.tags["message"].endswith("…")


def test_an_attempt_that_failed_gives_way_to_the_one_that_did_not(
    tracking: dict[str, str], store: Store, tmp_path: Path
) -> None:
    lost = make_record(state="failed", reason="lost node")
    first = write_sweep(tmp_path, [lost], "one")
    log_sweep(tracking, tmp_path, first, folders(tmp_path, first))
    again = make_record(started=START + 5000, ended=START + 5060)
    second = write_sweep(tmp_path, [again], "two")
    log_sweep(tracking, tmp_path, second, folders(tmp_path, second))
    for _ in range(2):
        (run,) = cells(store).values()
        assert (run.data.tags["state"], run.data.tags["sweep"]) == ("done", "two")
        assert sync(tracking, tmp_path)["written"] == 0


def test_a_sweep_whose_launcher_was_killed_is_closed(tracking: dict[str, str], store: Store, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, [make_record()])
    sweep["ended"] = None
    log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    sweep |= {"ended": START + 70, "killed": True}
    log_sweep(tracking, tmp_path, sweep, folders(tmp_path, sweep))
    (parent,) = runs(store, "tags.kind = 'sweep'")
    assert (parent.info.status, parent.info.end_time) == ("KILLED", round((START + 70) * 1000))


def test_what_has_ended_is_written_while_the_sweep_runs(
    tracking: dict[str, str], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following_module, "INTERVAL", 0.2)
    sweep = write_sweep(tmp_path, [make_record(seed=0), make_record(seed=1)])
    sweep["ended"], sweep["cells"][1]["state"] = None, None
    with following_module.following(tracking, tmp_path, sweep):
        end = time.monotonic() + 60
        while not any("record_digest" in run.data.tags for run in runs(store, "tags.kind = 'cell'")):
            assert time.monotonic() < end
            time.sleep(0.1)
    (parent,) = runs(store, "tags.kind = 'sweep'")
    assert parent.info.status == "RUNNING"
    assert len(cells(store)) == 1


def test_a_store_that_fails_while_the_sweep_runs_costs_nothing(
    tracking: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def broken(*_: Any) -> None:
        tries.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(following_module, "INTERVAL", 0.05)
    monkeypatch.setattr(following_module, "write_so_far", broken)
    with following_module.following(tracking, tmp_path, write_sweep(tmp_path, [make_record()])):
        time.sleep(0.6)
    assert 1 < len(tries) < 6, "asked again, ever more seldom"
    assert not caplog.records
