"""What a continual cell leaves behind besides its matrix: classes, the online curve, what its method keeps."""

from typing import Any

import numpy as np
import pytest

from fourfold.metrics import figures
from fourfold.record import read_series

SMALL = ("benchmark=digits", "until.steps=100", "batch=16")


def test_classes_and_curve_of_every_cell(run: Any) -> None:
    record = run(*SMALL, "setting=class_incremental", "method=replay", "method.memory=50")
    series = read_series(record.folder)
    last = [entry for entry in record.evaluations if entry["after"] == 5]
    assert sorted(label for entry in last for label, _, _ in entry["classes"]) == list(range(10))
    for entry in record.evaluations:
        right, samples = (sum(row[k] for row in entry["classes"]) for k in (1, 2))
        assert samples == entry["samples"]
        assert entry["value"] == pytest.approx(right / samples)
    judged = np.isfinite(series["score"])
    sizes = [int(line.split(" training")[0].split()[-1]) for line in record.measurements["contexts"]]
    for context, size in enumerate(sizes):
        own = judged[series["context"] == context]
        assert own[: -(-size // 16)].all(), "the first pass"
        assert not own[-(-size // 16) :].any(), "and no other"
    assert len(series["context"]) == len(series["score"])
    found = figures(record, series)
    assert 0 < found["online_accuracy"] < 1
    assert {"aaa", "amca", "lca_10", "cl_score_sequoia", "worst_case_accuracy"} <= set(found)
    assert found["ram_peak_bytes"] >= found["ram_mean_bytes"] > 1e7
    assert found["disk_mean_bytes"] >= 0
    assert found["model_size_efficiency"] == 1.0
    assert found["samples_storage_efficiency"] == pytest.approx(
        1 - 50 / sum(sizes), abs=1e-4
    )  # 50 from the first context on


def test_a_sample_is_judged_at_its_first_sight_only(run: Any) -> None:
    record = run(*SMALL[:1], "until.steps=300", "setting=traditional")
    series = read_series(record.folder)
    judged = np.flatnonzero(np.isfinite(series["score"]))
    assert judged.max() + 1 == -(-1438 // 32)


def test_kept_bytes_are_those_of_the_memory(run: Any) -> None:
    with_memory = run(*SMALL, "setting=class_incremental", "method=replay", "method.memory=50")
    plain = run(*SMALL, "setting=class_incremental", "method=finetune")
    kept = [record.measurements["bytes"]["kept"] for record in (plain, with_memory)]
    stored = 50 * (64 * 4 + 8)  # pictures of 8x8 in sixteenths are no bytes; and their labels
    assert stored <= kept[1] - kept[0] < stored + 20_000
    assert plain.measurements["bytes"]["parameters"] == 4 * plain.measurements["parameters"]


def test_computing_is_compared_where_flop_are_counted(run: Any) -> None:
    record = run(*SMALL, "setting=class_incremental", "method=finetune", "measure.flops=on")
    series = read_series(record.folder)
    found = figures(record, series)
    sizes = record.measurements["data"]["units"]
    assert sum(sizes) == sum(int(line.split(" training")[0].split()[-1]) for line in record.measurements["contexts"])
    passes = [series["step_units"][series["context"] == index].sum() / size for index, size in enumerate(sizes)]
    assert found["compute_efficiency"] == pytest.approx(np.mean([1 / each for each in passes]))
    assert 0 < found["cl_score_diaz"] < 1
