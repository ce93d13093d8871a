"""Projected cells from the words of a shell to the table; and the fit, on rates whose law is known."""

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fourfold.__main__ import main
from fourfold.composition import cell_name, compose, plain
from fourfold.errors import Refused
from fourfold.measure.flops import Operator
from fourfold.metrics import figures
from fourfold.projection import calibrate
from fourfold.projection.cell import sizes_of
from fourfold.projection.model import Table, project
from fourfold.projection.trace import Facts
from fourfold.report import report
from records import make_record, make_series, write_cell

SMALL = ("scale=smoke", "mode=projected")
FITTED = {
    "name": "test",
    "matmul": 0.8,
    "convolution": 0.4,
    "depthwise": 0.1,
    "attention": 0.5,
    "memory": 0.6,
    "reduction": 0.4,
    "launch": 4e-6,
    "spread": None,
}


def test_a_projected_cell_measures_nothing_and_says_so(run: Any) -> None:
    record = run("benchmark=llama", "hardware=a100", "calibration=none", *SMALL)
    assert (record.state, record.evidence) == ("done", "projected"), record.message
    assert not (record.folder / "series.npz").exists() or "step_seconds" not in record.measurements
    found = figures(record)
    assert found["units_per_second"] > 0
    assert found["upper_bound"] == found["fits"] == 1
    assert not {"units_per_second_low", "joules_per_unit_at_limit_low", "joules_per_unit_at_limit_high"} & set(found)
    assert found["joules_per_unit_at_limit"] == pytest.approx(400 / found["units_per_second"])
    assert found["projected_memory_bytes_high"] == pytest.approx(1.1 * found["projected_memory_bytes"])
    text = report(record.folder.parent.parent, None, "text", True)
    assert "a100" in text
    assert "(projected)" in text
    assert "≤" in text
    rows = json.loads(report(record.folder.parent.parent, None, "json", True))["rows"]
    assert rows[0]["evidence"] == "projected"


def test_a_fitted_projection_has_an_interval(run: Any) -> None:
    record = run("benchmark=llama", "hardware=a100", "calibration=a100", *SMALL)
    found = figures(record)
    assert 0 < found["units_per_second_low"] < found["units_per_second"] < found["units_per_second_high"]
    assert found["upper_bound"] == 0
    limit = [found[f"joules_per_unit_at_limit{end}"] for end in ("_low", "", "_high")]
    rates = [found[f"units_per_second{end}"] for end in ("_high", "", "_low")]
    assert limit == [pytest.approx(400 / rate) for rate in rates]
    assert "~" in report(record.folder.parent.parent, None, "text", True)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["hardware=cpu"], "hardware=cpu mode=projected: states no peak rates"),
        (["hardware=auto"], "hardware=auto mode=projected: states no peak rates"),
        (["hardware=a100", "hardware.stand_in=true"], "needs nothing to stand in"),
        (["hardware=a100", "batch=auto"], "batch=auto mode=projected: its trials need the device; give a number"),
        (["hardware=v100", "precision=bf16"], "precision=bf16: hardware v100 has fp16, fp32"),
        (["hardware=mi300", "precision=tf32"], "precision=tf32: hardware mi300 has"),
    ],
)
def test_what_cannot_be_projected_is_refused(words: list[str], what: str) -> None:
    with pytest.raises(Refused, match=what):
        compose([*words, "mode=projected"])


@pytest.mark.parametrize(
    ("words", "state", "what"),
    [
        (["hardware=gaudi2", "precision=fp32"], "unavailable", "hardware gaudi2 states no fp32 rate"),
        (["hardware=a100", "hardware.devices=2", "strategy=fsdp", "precision=fp16"], "refused", "loss scaling"),
        (
            ["hardware=a100", "hardware.devices=2", "strategy=tensor"],
            "unavailable",
            "it exchanges is not modelled",
        ),
        (["hardware=a100", "method=serving", "method.server=transformers"], "unavailable", "where a server does it"),
    ],
)
def test_what_is_not_modelled_is_one_line(run: Any, words: list[str], state: str, what: str) -> None:
    record = run("benchmark=llama", *words, *SMALL)
    assert record.state == state
    assert what in record.message


def test_weights_that_are_held_in_16_bits_take_half_the_memory(run: Any) -> None:
    """10 bytes a parameter less: weight, gradient and two states of 2 bytes for 4; and no 16-bit copy is made."""
    words = ["benchmark=llama", "hardware=a100", "precision=bf16", "batch=1", "benchmark.data.sequence=16"]
    wide, narrow = run(*words, *SMALL), run(*words, "weights_precision=bf16", *SMALL)
    sizes = [
        each.measurements["projection"]["memory"]["static"] / each.measurements["parameters"] for each in (wide, narrow)
    ]
    assert sizes == [pytest.approx(16, rel=0.05), pytest.approx(8, rel=0.05)]


def test_a_large_step_whose_shapes_hang_on_values_is_one_line(run: Any) -> None:
    record = run("benchmark=dimenet", "benchmark.model.hidden=1200", "hardware=a100", *SMALL)
    assert record.state == "unavailable"
    assert "cannot be traced without values" in record.message


@pytest.mark.parametrize(
    "words",
    [
        ["benchmark=pna"],
        ["benchmark=dimenet"],  # taken on the CPU: which edges make triangles is known from values alone
        ["benchmark=gflownet"],
        ["benchmark=fno"],
        ["benchmark=dlrm"],  # sparse gradients
        pytest.param(["benchmark=vjepa"], marks=pytest.mark.slow),
        pytest.param(["benchmark=llava"], marks=pytest.mark.slow),  # the library counts the places of pictures
        ["benchmark=llama", "method=inference", "method.new_tokens=4"],
        pytest.param(["benchmark=pythia", "method=rlhf", "method.new_tokens=4"], marks=pytest.mark.slow),
    ],
)
def test_steps_of_every_kind_are_traced(run: Any, words: list[str]) -> None:
    record = run(*words, "hardware=a100", *SMALL)
    assert record.state == "done", record.message
    found = figures(record)
    assert found["units_per_second"] > 0
    assert found["projected_memory_bytes"] > 4 * record.measurements["parameters"]
    assert record.measurements["projection"]["flop_per_unit"] > 0


def test_the_nearest_precision_is_taken_and_marked(run: Any) -> None:
    record = run("benchmark=resnet", "hardware=mi300", "precision=tf32", "precision_policy=nearest", *SMALL)
    assert (record.recipe["precision_asked"], record.recipe["precision"]) == ("tf32", "fp32")


def test_what_a_device_states_names_a_projected_cell_and_no_other() -> None:
    words = ["benchmark=llama", "hardware=a100"]
    measured, other = (plain(compose([*words, *more])) for more in ([], ["hardware.peak.bf16=1e12"]))
    assert cell_name(measured) == cell_name(other)
    words.append("mode=projected")
    projected, other = (plain(compose([*words, *more])) for more in ([], ["hardware.peak.bf16=1e12"]))
    assert len({cell_name(cell) for cell in (measured, projected, other)}) == 3


@pytest.fixture(scope="module")
def rows() -> list[calibrate.Row]:
    """Rows whose rates follow the model exactly, with known efficiencies: mixtures of operators of every class."""
    hardware = plain(compose(["hardware=a100"]))["hardware"]
    chance = random.Random(0)
    kinds = {"mm": "matmul", "bmm": "batched_matmul", "conv": "convolution", "dw": "depthwise_convolution"}
    found = []
    for number in range(24):
        each = [
            Operator(name, kind, "bfloat16", int(10 ** chance.uniform(8, 12)), 10**6, 3) for name, kind in kinds.items()
        ]
        each += [Operator(name, "other", "float32", 0, int(10 ** chance.uniform(7, 9)), 9) for name in ("add", "sum")]
        each += [Operator("mul", "other", "float32", 0, 8, int(10 ** chance.uniform(1, 4)))]
        facts = Facts(tuple(each), "images", 8.0, 8, 10, 10, 10**6, 10**7)
        known = project(Table(each, hardware, "bf16"), sizes_of(facts), hardware, "ddp", FITTED)
        row = calibrate.Row(f"row {number}", f"group {number // 4}", facts, hardware, "bf16", "ddp", 1.0)
        found.append(replace(row, rate=known["units_per_second"]))
    return found


def test_a_fit_finds_the_law_that_made_the_rates(rows: list[calibrate.Row], tmp_path: Path) -> None:
    found = calibrate.fit(rows, "test", "rates made by the model")
    assert found.median_error < 0.05
    for row in rows:
        assert row.projected(found.calibration) == pytest.approx(row.rate, rel=0.05)
    text = calibrate.yaml_text(found, "this test")
    assert "rows: 24" in text
    assert "+0 %" in calibrate.text(found, rows) or "-0 %" in calibrate.text(found, rows)


def test_a_fit_knows_how_far_off_it_is(rows: list[calibrate.Row]) -> None:
    """A group of rows that is twice as fast as its law is off by half when it is left out."""
    odd = [replace(row, rate=row.rate * (2 if row.group == "group 2" else 1)) for row in rows]
    errors = calibrate.fit(odd, "test", "").errors
    assert all(errors[row.name] == pytest.approx(-math.log(2), abs=0.2) for row in odd if row.group == "group 2")


def test_a_fit_says_what_lies_on_its_bound(rows: list[calibrate.Row]) -> None:
    made = calibrate.Fit({**FITTED, "launch": 2e-6, "spread": 0.1}, {row.name: 0.0 for row in rows})
    said = "launch=2e-06 lies on its bound: the rows would have it beyond, so it is no measure of its own"
    assert calibrate.text(made, rows).splitlines()[-1] == said
    assert "launch: 2e-06   # on its bound: " in calibrate.yaml_text(made, "this test")
    inside = calibrate.Fit({**made.calibration, "launch": 3e-6}, made.errors)
    assert "bound" not in calibrate.text(inside, rows) + calibrate.yaml_text(inside, "this test")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("odd,benchmark=matmul hardware=a100,fast,yes", "line 3: units_per_second=fast: must be a number above 0"),
        ("odd,benchmark=matmul hardware=a100,-1,yes", "line 3: units_per_second=-1: must be a number above 0"),
        ("odd,benchmark=matmul hardware=a100,nan,yes", "line 3: units_per_second=nan: must be a number above 0"),
        ("odd,benchmark=matmul hardware=a100", None),  # not used
        ("odd,benchmark=nothing,1,yes", "line 3: benchmark=nothing"),
    ],
)
def test_a_bad_line_of_a_table_is_named(line: str, said: str | None, tmp_path: Path) -> None:
    table = tmp_path / "rates.csv"
    table.write_text(f"name,overrides,units_per_second,use\nfirst,,,a comment\n{line}\n")
    if said is None:
        assert calibrate.rows_of_figures(table, print) == []
        return
    with pytest.raises(Refused, match=re.escape(said)):
        calibrate.rows_of_figures(table, print)


def test_a_device_that_auto_found_teaches_under_its_own_name(tmp_path: Path) -> None:
    """And what was dropped is said."""
    config = plain(compose(["benchmark=matmul", "hardware=auto", "scale=smoke", "batch=auto"]))
    for number, target in enumerate(["h100", None]):
        device = {"name": "a device", "target": target}
        record = make_record("matmul", "auto", seed=number, config=config, device=device, recipe={"batch": 1})
        write_cell(tmp_path, record, make_series(400))
    said: list[str] = []
    (row,) = calibrate.rows_of_records(tmp_path, said.append)
    assert row.hardware["name"] == "h100"
    assert row.hardware["bandwidth"] == 3350e9
    assert [line.partition(": ")[2] for line in said if line.startswith("left out")] == [
        "device a device: the catalogue states no rates of it"
    ]


def test_too_few_rows_and_unreadable_tables_are_refused(tmp_path: Path, capsys: Any) -> None:
    assert main(["calibrate", "--output-dir", str(tmp_path)]) == 2
    assert "calibrate: 0 usable rows; it takes" in capsys.readouterr().err
    assert main(["calibrate", "--figures", str(tmp_path / "absent.csv")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert main(["calibrate", "--figures", str(tmp_path / "other.csv")]) == 2
    assert "needs the columns name, overrides" in capsys.readouterr().err
