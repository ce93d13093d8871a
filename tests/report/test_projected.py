"""What was computed is marked wherever it is shown, and enters a score only where that was asked for."""

import json
from pathlib import Path

import pytest

from fourfold.__main__ import main
from fourfold.report.beside import first_hardware, ratio_texts
from fourfold.report.groups import group
from fourfold.report.read import read_all
from fourfold.report.text import sweep_text
from fourfold.tracking.runs import cell_run
from records import make_record, make_series, write_cell


def cell(output: Path, benchmark: str, hardware: str, rate: float, measured: bool, bound: bool = False) -> None:
    if measured:
        record = make_record(benchmark, hardware)
        write_cell(output, record, make_series(400, seconds=32 / rate))
        return
    record = projected_record(benchmark, hardware, rate, bound)
    write_cell(output, record, {})


def projected_record(benchmark: str, hardware: str, rate: float, bound: bool = False):  # type: ignore[no-untyped-def]
    record = make_record(benchmark, hardware, evidence="projected")
    record.cell += "-projected"
    spread = {"low": None, "high": None} if bound else {"low": rate / 2, "high": rate * 2}
    record.measurements = {
        "unit": "images",
        "projection": {
            "units_per_second": rate, **spread, "upper_bound": bound, "joules_per_unit": 0.5,
            "bound": {"compute": 0.7, "memory": 0.3}, "bound_by": "compute",
            "memory": {"needed": 3 * 2**30, "error": 0.1, "available": 80e9, "fits": True, "largest_batch": 900},
        },
    }  # fmt: skip
    return record


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """The reference (a100) is measured; of the other machine one row is measured, one projected."""
    for benchmark in ("bert", "resnet"):
        cell(tmp_path, benchmark, "a100", 1000.0, measured=True)
    cell(tmp_path, "bert", "h100", 2000.0, measured=True)
    cell(tmp_path, "resnet", "h100", 4000.0, measured=False)
    return tmp_path


def score(output: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    words = ["report", "hardware=h100", "--score", "ratio", "--reference", "hardware=a100", "--output-dir", str(output)]
    assert main([*words, *more]) == 0
    return capsys.readouterr().out


def test_a_score_counts_projected_rows_only_where_asked(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(score(mixed, capsys, "--json"))
    assert found["score"]["value"] == pytest.approx(2.0, rel=0.01)
    assert {row["name"]: row["state"] for row in found["rows"]} == {"bert": "done", "resnet": "missing"}
    found = json.loads(score(mixed, capsys, "--json", "--with-projected"))
    assert found["score"]["value"] == pytest.approx(8**0.5, rel=0.01)
    assert {row["name"]: row["projected"] for row in found["rows"]} == {"bert": False, "resnet": True}
    assert found["score"]["low"] is None, "of a ratio of projections no error is known"
    text = score(mixed, capsys, "--with-projected")
    assert "score: ~2.8" in text
    assert "95 % interval" in score(mixed, capsys)
    assert "~4,000" in text
    assert "~ 1 of 2 rows are projected, not measured" in text


def test_a_row_that_was_measured_counts_as_measured(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell(mixed, "bert", "h100", 9000.0, measured=False)
    found = json.loads(score(mixed, capsys, "--json", "--with-projected"))
    assert found["score"]["value"] == pytest.approx(8**0.5, rel=0.01)


def test_all_projected_beside_all_measured_is_refused_unless_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell(tmp_path, "bert", "a100", 1000.0, measured=True)
    cell(tmp_path, "bert", "h100", 2000.0, measured=False)
    words = ["report", "hardware=h100", "--score", "ratio", "--reference", "hardware=a100"]
    assert main([*words, "--output-dir", str(tmp_path)]) == 2
    assert "--with-projected compares them" in capsys.readouterr().err
    assert "score: " in score(tmp_path, capsys, "--with-projected")
    assert main(["report", "--all", "--with-projected", "--output-dir", str(tmp_path)]) == 2


def test_tables_mark_rate_and_memory_and_keep_them_when_narrow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell(tmp_path, "bert", "a100", 1000.0, measured=False)
    cell(tmp_path, "resnet", "h100", 2000.0, measured=False, bound=True)
    assert main(["report", "--all", "--output-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for expected in ("~1,000 (500 to 2,000)", "≤2,000", "~3 GiB ±10%", "not measured on that device", "its limit all"):
        assert expected in text
    assert max(map(len, text.splitlines())) <= 100
    assert "over the steps" not in text
    narrow = sweep_text(read_all(tmp_path), width=80)
    assert "~3 GiB" in narrow
    assert "left out" not in narrow, "what is too wide goes into a second table"
    assert narrow.count("bert") == 2
    for expected in ("compute 70%", "~0.5 (0.25 to 1) J", "~0.5 J"):
        assert expected in narrow
    assert "≤0.5" not in narrow, "the limit over an upper bound of the rate bounds nothing"
    assert max(map(len, narrow.splitlines())) <= 80
    words = ["--pivot", "benchmark,hardware", "--metric", "units_per_second"]
    assert main(["report", "--all", *words, "--output-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "~1000" in text
    assert "~ projected, not measured" in text


def test_the_table_says_how_much_faster_each_card_is_than_the_first(tmp_path: Path) -> None:
    for benchmark, hardware, rate in [("bert", "a100", 1000.0), ("resnet", "a100", 500.0), ("bert", "mi300", 2500.0)]:
        cell(tmp_path, benchmark, hardware, rate, measured=False)
    cell(tmp_path, "resnet", "mi300", 400.0, measured=False, bound=True)
    for width in (100, 70):
        text = sweep_text(read_all(tmp_path), width=width)
        assert "a100" in text.splitlines()[next(i for i, line in enumerate(text.splitlines()) if "times" in line) + 1]
        for benchmark, ratio in (("bert", "~2.5"), ("resnet", "~0.8")):  # of a bound and an estimate no bound follows
            lines = [line for line in text.splitlines() if f" {ratio} " in f"{line} "]
            assert [line.split()[:2] for line in lines] == [[benchmark, "mi300"]]


def test_no_ratio_of_a_projection_to_a_measurement(mixed: Path) -> None:
    rows = group(read_all(mixed).cells)
    texts, notes = ratio_texts(rows, first_hardware(rows) or "")
    assert [(row.benchmark, row.evidence, bool(text)) for row, text in zip(rows, texts, strict=True)] == [
        ("bert", "measured", False),
        ("bert", "measured", True),
        ("resnet", "measured", False),
        ("resnet", "projected", False),
    ]
    assert notes == []


def test_a_ratio_of_unlike_work_says_so(tmp_path: Path) -> None:
    for hardware, batch in (("a100", 32), ("h100", 64)):
        write_cell(tmp_path, make_record("bert", hardware, recipe={"batch": batch}), make_series(400))
    assert "times a100: bert, h100: batch differs: 32 and 64" in sweep_text(read_all(tmp_path))


@pytest.mark.parametrize(("available", "said"), [(4.0, "yes"), (3.2, "perhaps"), (2.9, "batch ≤ 900")])
def test_what_fits_only_within_the_error_is_perhaps(available: float, said: str, tmp_path: Path) -> None:
    record = projected_record("bert", "h100", 1000.0)
    memory = record.measurements["projection"]["memory"]
    memory |= {"available": available * 2**30, "fits": available >= 3}
    write_cell(tmp_path, record, {})
    row = next(line for line in sweep_text(read_all(tmp_path)).splitlines() if "~1,000" in line)
    assert said in row


def test_mlflow_has_the_marks_in_its_tags() -> None:
    fitted = cell_run(projected_record("bert", "h100", 2000.0), {}, None)
    assert fitted.tags["evidence"] == "projected"
    assert fitted.tags["hardware"] == "h100 (projected)"
    assert fitted.tags["mlflow.note.content"] == (
        "*~2,000 images/s (1,000 to 4,000), projected, not measured*; *~3 GiB ±10% of memory*"
    )
    assert (
        "≤2,000" in cell_run(projected_record("bert", "h100", 2000.0, bound=True), {}, None).tags["mlflow.note.content"]
    )
    assert not cell_run(make_record(), {}, None).tags.get("mlflow.note.content")
