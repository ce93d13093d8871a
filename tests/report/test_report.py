"""The comparison table, from records."""

import csv
import json
import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from fourfold.errors import Refused
from fourfold.record import RECORD_FILE, SERIES_FILE
from fourfold.report import report, summary
from records import START, evaluations, folders, make_record, make_series, write_cell, write_sweep

NEEDS = "method ewc needs boundaries_train, which setting continual does not grant"
MATRIX = [[0.5, 0.5], [0.9, 0.1], [0.7, 0.8]]


def accuracies(seed: int) -> list:
    return evaluations([[value + 0.01 * seed for value in row] for row in MATRIX])


@pytest.fixture
def learning(tmp_path: Path) -> Path:
    """Two settings, three methods, three seeds; one cell failed, two were refused."""
    records = [
        make_record(
            "fashion_mnist", "cpu", setting, method, seed, evaluations=accuracies(seed), oracle=method == "joint"
        )
        for seed in (0, 1, 2)
        for setting in ("class_incremental", "task_incremental")
        for method in ("joint", "finetune", "ewc")
    ]
    broken = records[1]
    broken.state, broken.reason, broken.message = "failed", "out of memory", "tried to allocate 2 GiB\nlast line"
    refused = [{"overrides": ["setting=continual", "method=ewc"], "why": NEEDS}] * 2
    write_sweep(tmp_path, records, refused=refused)
    return tmp_path


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    records = [
        make_record("llama", "a100", evidence="simulated"),
        make_record(
            "resnet",
            "mi300",
            state="unavailable",
            reason="unavailable",
            message="mi300: only a CPU here",
            measurements={},
        ),
    ]
    write_sweep(tmp_path, records)
    return tmp_path


def row(text: str, *words: str) -> str:
    (found,) = [line for line in text.splitlines() if all(word in line for word in words)]
    return found


def test_a_row_for_each_group_over_seeds(learning: Path) -> None:
    text = report(learning)
    ewc = row(text, "class_incremental", "ewc", "3 done")
    # 0.75, 0.76, 0.77: mean 0.76, t_2 = 4.303, s = 0.01: 4.303 * 0.01 / sqrt(3) = 0.025
    assert "0.760 ±0.025" in ewc
    assert "0.200 ±0" in ewc
    assert "3 done" in ewc
    assert "2 done, 1 failed" in row(text, "class_incremental", "finetune", "done")
    assert "images/s" in text
    assert row(text, "hardware cpu, benchmark fashion_mnist")  # one value each: above the table
    assert "20 cells: 17 done, 1 failed, 2 refused" in text


def test_what_went_wrong_is_told(learning: Path) -> None:
    text = " ".join(report(learning).split())
    assert "out of memory: tried to allocate 2 GiB" in text
    assert "last line" not in text
    assert f"refused: setting=continual method=ewc and 1 more: {NEEDS}" in text


def test_bounds_are_set_apart(learning: Path) -> None:
    lines = report(learning).splitlines()
    joint = [index for index, line in enumerate(lines) if "joint †" in line]
    others = [
        index for index, line in enumerate(lines) if "ewc" in line and "incremental" in line and "refused" not in line
    ]
    assert min(joint) > max(others[:2])
    assert lines[min(joint) - 1] == ""
    assert "† a bound" in "\n".join(lines)


def test_what_was_not_measured_is_not_shown_as_that_device(devices: Path) -> None:
    text = report(devices)
    assert "a100 (simulated)" in row(text, "llama", "tokens/s" if "rate, " not in text else "llama")
    assert "not measured on that device" in text
    (simulated, _) = json.loads(report(devices, form="json"))["rows"]
    assert (simulated["hardware"], simulated["evidence"]) == ("a100 (simulated)", "simulated")
    assert "a100 (simulated)" in report(devices, form="csv")


def test_columns_without_a_value_are_dropped(devices: Path) -> None:
    text = report(devices)
    assert "accuracy" not in text
    assert "forgetting" not in text
    assert "rule" not in text
    assert "1 unavailable" in row(text, "resnet", "mi300", "1 unavailable")
    assert "mi300: only a CPU here" in text


@pytest.mark.parametrize("name", ["learning", "devices"])
def test_it_fits_100_columns_when_piped(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    for text in (report(folder), summary(sorted((folder / "cells").iterdir()))):
        assert max(map(len, text.splitlines())) <= 100
        assert "\x1b" not in text


def test_what_is_too_wide_goes_into_a_second_table(tmp_path: Path) -> None:
    records = [
        make_record(b, h, s, m, evaluations=accuracies(0), evidence="simulated")
        for b, h, s, m in [
            ("fashion_mnist", "max1550", "class_incremental", "finetune"),
            ("mnist", "a100", "task_incremental", "inference"),
        ]
    ]
    write_sweep(tmp_path, records)
    text = report(tmp_path)
    assert max(map(len, text.splitlines())) <= 100
    assert "left out" not in text
    assert text.count("fashion_mnist") == 2
    for word in ("fashion_mnist", "class_incremental", "max1550", "(simulated)", "512 MiB", "0.149"):
        assert word in text


def test_cells_of_other_overrides_are_not_mixed(tmp_path: Path) -> None:
    records = [
        make_record(cell=f"c{b}{s}", seed=s, overrides=["benchmark=digits", f"batch={b}", f"seed={s}"])
        for b in (32, 64)
        for s in (0, 1)
    ]
    write_sweep(tmp_path, records)
    rows = json.loads(report(tmp_path, form="json"))["rows"]
    assert [(one["variant"], one["seeds"]) for one in rows] == [("batch=32", [0, 1]), ("batch=64", [0, 1])]
    assert "batch=64" in report(tmp_path)


def test_json_and_csv_hold_every_figure(learning: Path) -> None:
    content = json.loads(report(learning, form="json"))
    ewc = next(one for one in content["rows"] if one["method"] == "ewc" and one["setting"] == "class_incremental")
    assert ewc["figures"]["average_accuracy"]["mean"] == pytest.approx(0.76)
    assert ewc["figures"]["average_accuracy"]["count"] == 3
    assert ewc["rate"]["over"] == "seeds"
    assert ewc["rate"]["unit"] == "images"
    assert len(content["refused"]) == 2
    lines = list(csv.DictReader(StringIO(report(learning, form="csv"))))
    assert len(lines) == 6
    assert float(next(one for one in lines if one["method"] == "ewc")["average_accuracy"]) == pytest.approx(0.76)


def test_a_single_seed_has_the_interval_of_its_steps(tmp_path: Path) -> None:
    write_sweep(tmp_path, [make_record()])
    (one,) = json.loads(report(tmp_path, form="json"))["rows"]
    assert one["rate"]["over"] == "steps"
    assert one["rate"]["low"] < one["rate"]["mean"] < one["rate"]["high"]
    assert one["figures"]["last_loss"]["low"] is None


def test_sweeps_are_found(tmp_path: Path) -> None:
    write_sweep(tmp_path, [make_record(method="ewc")], "2026-02-01_a")
    later = write_sweep(tmp_path, [make_record(method="joint")], "2026-01-01_b")
    later["started"] = START + 10
    (tmp_path / "sweeps" / "2026-01-01_b" / "sweep.json").write_text(json.dumps(later))
    assert "2026-01-01_b" in report(tmp_path)  # by when it started, not by its name
    assert "2026-02-01_a" in report(tmp_path, "2026-02")
    with pytest.raises(Refused, match="2 begin like that"):
        report(tmp_path, "2026")
    with pytest.raises(Refused, match=r"no such sweep.*did you mean 2026-01-01_b"):
        report(tmp_path, "2026-01-02_b")
    assert "2 cells: 2 done" in report(tmp_path, everything=True)


def test_no_sweep_is_one_line(tmp_path: Path) -> None:
    for everything in (False, True):
        with pytest.raises(Refused, match=r"run\.py"):
            report(tmp_path, everything=everything)
    (tmp_path / "sweeps" / "x").mkdir(parents=True)
    (tmp_path / "sweeps" / "x" / "sweep.json").write_text("[]")
    with pytest.raises(Refused, match="not a readable manifest"):
        report(tmp_path)


def test_a_sweep_that_is_running(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, [make_record()])
    sweep["ended"] = None
    sweep["cells"] += [
        {**sweep["cells"][0], "index": 1, "cell": "b", "folder": "cells/b", "state": None},
        {**sweep["cells"][0], "index": 2, "cell": "c", "folder": "cells/c", "state": "failed"},
    ]
    (tmp_path / "sweeps" / sweep["id"] / "sweep.json").write_text(json.dumps(sweep))
    text = report(tmp_path)
    assert "has not ended" in text
    assert "3 cells: 1 done, 1 failed, 1 no record" in text


def test_summary_shows_every_cell(learning: Path) -> None:
    text = summary(sorted((learning / "cells").iterdir()))
    assert len([line for line in text.splitlines() if "class_incremental" in line and "done" in line]) == 8
    assert "failed" in row(text, "class_incremental", "finetune", " 0 ")
    assert "18 cells: 17 done, 1 failed" in text


def test_summary_shows_what_cannot_be_read_as_that(tmp_path: Path) -> None:
    damaged = write_cell(tmp_path, make_record(seed=1))
    (damaged / RECORD_FILE).write_text("{")
    cut = write_cell(tmp_path, make_record(seed=2))
    (cut / SERIES_FILE).write_bytes((cut / SERIES_FILE).read_bytes()[:50])
    text = " ".join(summary([write_cell(tmp_path, make_record()), damaged, cut, tmp_path / "cells" / "absent"]).split())
    assert "4 cells: 2 done, 1 unreadable, 1 no record" in text
    assert "not a readable record" in text


def test_summary_takes_records_in_hand() -> None:
    text = summary([make_record(), make_record(seed=1, state="interrupted", message="Ctrl-C")])
    assert "2,560" in row(text, " 0 ")  # 6400 images in 2.5 s; without the series there is no steady rate
    assert "2 cells: 1 done, 1 interrupted" in text


def test_summary_of_nothing() -> None:
    assert summary([]) == "0 cells: none"


def test_a_rate_that_did_not_settle_is_marked(tmp_path: Path) -> None:
    import numpy as np

    record = make_record()
    sweep = write_sweep(tmp_path, [record])
    steps = np.linspace(0.02, 0.01, 400)
    write_cell(tmp_path, record, {"step_seconds": steps, "step_units": np.full(400, 32.0)})
    assert "≈ warming up for half" in report(tmp_path)
    assert folders(tmp_path, sweep)


def test_a_suite_has_a_line_for_each_of_its_rows(tmp_path: Path) -> None:
    """Also for rows that share a cell, and for those that did not apply."""
    records = [make_record("bert"), make_record("resnet", seed=1)]
    sweep = write_sweep(tmp_path, records)
    for entry, names in zip(sweep["cells"], [["bert-fp16", "bert-tf32"], ["resnet50"]], strict=True):
        entry["rows"] = [{"name": "small", "row": name, "weight": 1.0} for name in names]
    brax = {"name": "small", "row": "brax", "weight": 1.0}
    sweep["not_applicable"] = [{"rows": [brax], "why": "awaits its workload"}]
    (tmp_path / "sweeps" / sweep["id"] / "sweep.json").write_text(json.dumps(sweep))
    lines = report(tmp_path).splitlines()
    rows = ["bert-fp16", "bert-tf32", "resnet50", "brax"]
    table = {words[0]: words[1:] for words in map(str.split, lines) if words and words[0] in rows}
    assert list(table) == rows
    assert table["bert-fp16"] == table["bert-tf32"]
    assert table["brax"] == ["1", "not", "applicable"]
    assert all(len(line) <= 100 for line in lines)
    assert "3 cells: 2 done, 1 not applicable" in lines
    names = [line["row"] for line in csv.DictReader(StringIO(report(tmp_path, form="csv")))]
    assert names == rows


def test_price_and_carbon_have_columns_where_they_are_asked_for(tmp_path: Path) -> None:
    """An hour for 1.8 is 0.0005 a second, which does 32 units; 64 W are 2 J a unit, and at 36 g a kWh 2e-05 g."""
    record = make_record("bert")
    series = {"step_seconds": np.ones(20), "step_units": np.full(20, 32.0), "step_ended": 1.0 + np.arange(20)}
    watched = {"monitor.seconds": np.arange(22.0), "monitor.gpu0.power": np.full(22, 64.0)}
    record.measurements["monitor"] = {"sources": {"gpu0": "device"}, "failed": {}, "idle_watts": {}}
    write_sweep(tmp_path, [record])
    write_cell(tmp_path, record, series | watched)
    assert "CO2" not in report(tmp_path)
    assert "price" not in report(tmp_path)
    record.config["measure"] = {"price": 1.8, "carbon": 36.0}
    write_cell(tmp_path, record, series | watched)
    text = report(tmp_path)
    assert "1.56e-05" in text
    assert "2e-05" in text
    assert "CO2/unit" in text
    assert "price/unit" in text


def test_spread_between_repeats_is_told_apart_from_that_within(tmp_path: Path) -> None:
    """Rates of 90, 100 and 110: a standard deviation of 10 %; within each 199 steps differ by 5 %, so about 0.35 %."""
    record = make_record("bert")
    write_sweep(tmp_path, [record])
    series = make_series(seconds=0.01)
    for number, level in enumerate((1 / 0.9, 1 / 1.1), start=1):
        again = make_series(seconds=0.01 * level)
        series |= {f"repeats.{number}.{name}": again[name] for name in ("step_seconds", "step_units")}
    write_cell(tmp_path, record, series)
    text = report(tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("bert")]
    assert re.search(r" 3: 10% / 0\.[2-6]\d*% ", line)
    assert "between repeats" in text
    assert "over the steps" not in text
