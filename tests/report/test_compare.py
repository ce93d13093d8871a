"""Comparing, scoring and importing, through the command line, on records made by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold.__main__ import main
from fourfold.metrics.comparison import Estimate, ratio
from fourfold.report.compare import Compared, compare, failures
from fourfold.report.select import select
from records import make_record, make_series, write_cell, write_sweep


def cell(output: Path, benchmark: str, speed: float, hardware: str = "a100", seed: int = 0, **fields: Any) -> None:
    record = make_record(benchmark, hardware, seed=seed, **fields)
    record.cell = f"{benchmark}-{hardware}-{seed}-{fields.get('state', 'done')}"
    series = make_series(400, seconds=0.01 / speed, seed=seed)
    series["loss"] = make_series(400)["loss"]
    record.measurements = {**record.measurements, "fingerprint": fields.get("losses", [2.3, 2.2, 2.1])}
    write_cell(output, record, series if record.state == "done" else {})


def made(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != "losses"}


@pytest.fixture
def machines(tmp_path: Path) -> Path:
    for benchmark, speed in {"bert": 2.0, "resnet": 0.9, "llama": 1.0}.items():
        cell(tmp_path, benchmark, 1.0, "a100")
        cell(tmp_path, benchmark, speed, "h100", seed=0)
    return tmp_path


def test_two_machines_row_by_row(machines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "hardware=a100", "hardware=h100", "--json", "--output-dir", str(machines)]) == 0
    rows = {row["row"].split()[0]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "bert": "faster", "resnet": "slower", "llama": "no difference",
    }  # fmt: skip
    assert rows["bert"]["ratio"]["value"] == pytest.approx(2.0, rel=0.01)
    assert rows["resnet"]["ratio"]["low"] < 0.9 < rows["resnet"]["ratio"]["high"]
    assert main(["compare", "hardware=a100", "hardware=h100", "--output-dir", str(machines)]) == 0
    text = capsys.readouterr().out
    assert "3 rows compared: 1 faster, 1 slower, 1 no difference" in text


@pytest.mark.parametrize(("threshold", "status"), [("0.85", 0), ("0.95", 1)])
def test_a_gate_closes_on_what_is_slower_beyond_chance(
    machines: Path, threshold: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "hardware=a100", "hardware=h100", "--output-dir", str(machines), "--fail-below", threshold]
    assert main(words) == status
    assert ("gate: resnet" in capsys.readouterr().err) == bool(status)


def test_a_gate_closes_on_what_is_gone_and_states_are_shown(tmp_path: Path) -> None:
    cell(tmp_path, "bert", 1.0, "a100")
    cell(tmp_path, "llama", 1.0, "a100")
    cell(tmp_path, "llama", 1.0, "h100")
    cell(tmp_path, "bert", 1.0, "h100", **made(state="failed", reason="nan", message="nan"))
    rows = compare(select("hardware=a100", tmp_path), select("hardware=h100", tmp_path))
    assert failures(rows, 0.5) == ["bert finetune: done before, now 1 failed"]


def estimated(rate: float, other: float, error: float | None) -> Compared:
    sides = Estimate(rate, error, 30), Estimate(other, error, 30)
    found = ratio(*sides)
    return Compared("bert", "items", *sides, found, found.chance, ("1 done", "1 done"), ())


def test_a_gate_asks_whether_the_rate_is_below_it_not_whether_it_differs_from_one() -> None:
    """0.94 is surely less than 1, and surely below 0.95 only where its interval is narrow enough."""
    wide, narrow = estimated(100.0, 94.0, 0.01), estimated(100.0, 94.0, 0.001)
    assert wide.verdict == narrow.verdict == "slower"
    assert failures([wide], 0.95) == []
    assert failures([narrow], 0.95) == ["bert: 0.940 of the rate, below 0.95"]
    assert failures([estimated(100.0, 96.0, 0.001)], 0.95) == []
    assert failures([estimated(100.0, 50.0, 0.4)], 0.95) == []


def test_a_gate_stays_closed_where_no_interval_tells_and_says_so() -> None:
    (line,) = failures([estimated(100.0, 90.0, None), estimated(100.0, 99.0, None)], 0.95)
    assert line == "bert: 0.900 of the rate, below 0.95; no interval tells whether by chance"


def test_rows_of_a_suite_are_called_by_its_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"llama": ["llama"], "bert": ["bert-fp16", "bert-tf32"]}
    for hardware in ("a100", "h100"):
        records = [make_record(benchmark, hardware) for benchmark in asked]
        sweep = write_sweep(tmp_path, records, name=f"on-{hardware}")
        for cell, rows in zip(sweep["cells"], asked.values(), strict=True):
            cell["rows"] = [{"name": "milabench", "row": row, "weight": 1.0} for row in rows]
        (tmp_path / "sweeps" / f"on-{hardware}" / "sweep.json").write_text(json.dumps(sweep))
    assert main(["compare", "on-a100", "on-h100", "--json", "--output-dir", str(tmp_path)]) == 0
    assert [row["row"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["llama", "bert-fp16, bert-tf32"]


def test_cells_that_a_row_varies_are_told_apart(tmp_path: Path) -> None:
    for hardware in ("a100", "h100"):
        for batch in (32, 64):
            record = make_record("bert", hardware)
            record.cell, record.overrides = f"bert-{hardware}-{batch}", [*record.overrides, f"batch={batch}"]
            record.config["suite"] = {"name": "milabench", "row": "bert-fp16", "weight": 1.0}
            write_cell(tmp_path, record)
    rows = compare(select("hardware=a100", tmp_path), select("hardware=h100", tmp_path))
    assert [row.row for row in rows] == [f"bert-fp16 (bert finetune batch={batch})" for batch in (32, 64)]


def test_unlike_work_and_batch_are_said(tmp_path: Path) -> None:
    cell(tmp_path, "bert", 1.0, "a100")
    record = make_record("bert", "h100", recipe={"scale": "smoke", "batch": 32, "precision": "fp32"})
    record.cell = "bert-h100"
    record.measurements["fingerprint"] = [2.3, 2.2, 2.9]
    write_cell(tmp_path, record, make_series(400))
    (row,) = compare(select("hardware=a100", tmp_path), select("hardware=h100", tmp_path))
    assert any(note.startswith("DIFFERENT work: at step 2 losses 2.1 and 2.9") for note in row.notes)
    record.recipe["batch"], record.recipe["batch_from"] = 64, "auto"
    write_cell(tmp_path, record, make_series(400))
    (row,) = compare(select("hardware=a100", tmp_path), select("hardware=h100", tmp_path))
    assert "batch differs: 32 and 64" in row.notes


def test_commits_folders_and_sweeps_can_be_compared(tmp_path: Path) -> None:
    for number, commit in enumerate(("aaa1", "bbb2")):
        record = make_record("bert", environment={"git": {"commit": commit}})
        record.cell = f"bert-{number}"
        write_cell(tmp_path / str(number), record)
        write_cell(tmp_path, record)
    assert len(compare(select("commit=aaa", tmp_path), select("commit=bbb", tmp_path))) == 1
    assert len(compare(select(str(tmp_path / "0"), tmp_path), select(str(tmp_path / "1"), tmp_path))) == 1
    write_sweep(tmp_path, [make_record("llama")], "2026-01-01_00")
    write_sweep(tmp_path, [make_record("llama", seed=1)], "2026-01-02_00")
    assert len(compare(select("2026-01-01", tmp_path), select("2026-01-02", tmp_path))) == 1


def test_two_methods_and_two_commits_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ratios, verdicts and gates; two methods are not asked to lose the same."""
    for method, commit, speed in (("finetune", "aaa1", 1.0), ("lora", "aaa1", 1.5), ("finetune", "bbb2", 0.8)):
        record = make_record("bert", method=method, environment={"git": {"commit": commit}})
        record.cell = f"bert-{method}-{commit}"
        record.measurements["fingerprint"] = [2.3, 2.2] if method == "finetune" else [2.3, 2.1]
        write_cell(tmp_path / ("old" if commit == "aaa1" else "new"), record, make_series(400, 0.01 / speed))
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    assert main(["compare", "method=finetune", "method=lora", "--json", "--output-dir", old]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["verdict"], row["notes"]) == ("faster", [])
    assert row["ratio"]["value"] == pytest.approx(1.5, rel=0.01)
    assert main(["compare", old, new, "--fail-below", "0.75"]) == 1  # lora was done before, and now was not
    said = capsys.readouterr()
    assert said.err == "gate: bert cpu lora: done before, now missing\n"
    assert "slower" in next(line for line in said.out.splitlines() if line.startswith("bert cpu finetune"))
    assert main(["compare", new, old, "--fail-below", "0.95"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "hardware=b200", "hardware=a100"], "none of the 6 cells in"),
        (["compare", "hardware=b200", "hardware=a100"], "hardware is one of a100, h100"),
        (["compare", "benchmark=bert", "hardware=h100", "--fail-below", "95"], "--fail-below 95: a ratio"),
        (["compare", "nothing", "hardware=h100"], "no sweep in"),
        (["report", "--all", "--score", "ratio"], "ratios to what?"),
        (["report", "--all", "--score", "milabench", "--csv"], "text or --json"),
        (["report", "--all", "--reference", "hardware=a100"], "--score ratio is missing"),
        (["import", "milabench", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    machines: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--output-dir", str(machines)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_score_beside_a_reference(machines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", "hardware=h100", "--score", "ratio", "--reference", "hardware=a100"]
    assert main([*words, "--output-dir", str(machines)]) == 0
    text = capsys.readouterr().out
    score = float(text.split("score: ")[1].split()[0])
    assert score == pytest.approx((2.0 * 0.9 * 1.0) ** (1 / 3), rel=0.01)
    assert "rows with weight: 3 done" in text
    assert main([*words, "--json", "--output-dir", str(machines)]) == 0
    assert json.loads(capsys.readouterr().out)["score"]["counts"] == {"done": 3}


def events(rates: list[float], weight: float = 2.0, end: dict[str, Any] | None = None, **extra: Any) -> str:
    """A file of a Milabench process, in its own words."""
    config = {
        "name": "bert-fp16",
        "weight": weight,
        "plan": {"method": "per_gpu"},
        "argv": {"--batch-size": 32},
        "devices": ["0"],
    }
    gpus = {"0": {"product": "NVIDIA A100-SXM4-80GB"}}
    lines = [
        {"event": "config", "data": config, "pipe": None},
        {"event": "meta", "data": {"accelerators": {"gpus": gpus}}, "pipe": None},
        {"event": "start", "data": {"command": ["voir"], "time": 1000.0}, "pipe": None},
        *({"event": "data", "data": {"task": "train", "loss": 10.0 - i}, "pipe": "data"} for i in range(3)),
        *({"event": "data", "data": {"task": "train", "rate": r, "units": "items/s"}, "pipe": "data"} for r in rates),
        {"event": "data", "data": {"task": "main", "gpudata": {"0": {"memory": [24456.0, 81251.0], "load": 0.9}}}},
        *([{"event": "error", "data": extra["error"]}] if "error" in extra else []),
        {"event": "end", "data": {"time": 1060.0, "return_code": 0, **(end or {})}, "pipe": None},
    ]
    return "\n".join(json.dumps(line) for line in lines) + "\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "old.2023-05-10_13_37_18"
    folder.mkdir()
    steady = [1.0, *[160.0] * 20, 200.0]
    (folder / "bert-fp16.D0.data").write_text(events(steady))
    (folder / "bert-fp16.D1.data").write_text(events(steady) + '{"event": "da')  # cut off at the end
    failure = {"type": "OutOfMemoryError", "message": "CUDA out of memory"}
    (folder / "bert-fp16.D2.data").write_text(events([], end={"return_code": 1}, error=failure))
    return folder


def test_a_milabench_run_becomes_records(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert main(["import", "milabench", str(run), "--output-dir", str(output)]) == 0
    assert "3 records of 1 benchmarks" in capsys.readouterr().out
    cells = select("benchmark=bert-fp16", output).cells
    assert [each.state for each in cells] == ["done", "done", "failed"]
    first = cells[0].record
    assert first.axes["hardware"] == "nvidia-a100-sxm4-80gb"
    assert (first.ended - first.started, first.measurements["unit"]) == (60.0, "items")
    assert first.measurements["memory"]["device_peak"] == 24456 * 2**20
    assert first.measurements["fingerprint"] == [10.0, 9.0, 8.0]
    assert cells[2].record.reason == "OutOfMemoryError"
    assert cells[0].numbers["units_per_second"] == pytest.approx(160, rel=0.02)
    assert cells[0].rates[0][1] == pytest.approx(160.0)
    np.testing.assert_allclose(cells[0].numbers["warmup_steps"], 1)


def test_milabenchs_table_of_an_imported_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: each process is 160 after the trim, two of three did: 2 x 160 x 2/3, charged twice as Milabench does."""
    output = tmp_path / "out"
    main(["import", "milabench", str(run), "--output-dir", str(output)])
    capsys.readouterr()
    assert main(["report", "--score", "milabench", "--output-dir", str(output)]) == 0
    text = capsys.readouterr().out
    line = next(line.split() for line in text.splitlines() if line.startswith("bert-fp16"))
    assert line[:4] == ["bert-fp16", "1", "3", "1"]
    assert float(line[-2]) == pytest.approx(2 * 160 * 2 / 3, abs=0.01)
    assert f"Score: {2 * 160 * 2 / 3:.2f}" in text
    assert "Failure rate: 33.33%" in text
    assert main(["report", "--score", "milabench+1", "--output-dir", str(output)]) == 0
    assert f"Score: {2 * 160 * 2 / 3 + 1:.2f}" in capsys.readouterr().out


def stream(
    name: str, plan: str, tag: list[str], rates: list[float], devices: list[str], *ending: dict[str, Any], **more: Any
) -> str:
    """What a process leaves: all kinds of events, in the order in which they come."""
    config = {"name": name, "tag": tag, "plan": {"method": plan}, "weight": 1.0, "devices": devices, "group": "llm",
              "argv": {"--batch-size": 8}, "num_machines": more.get("machines", 1)}  # fmt: skip
    gpus = {device: {"product": "NVIDIA L40S"} for device in devices}
    gpu = {
        device: {"memory": [1000.0 * (1 + int(device)), 46068.0], "load": 0.97, "power": 300.0} for device in devices
    }
    units = more.get("units", "items/s")
    train = [
        {"event": "data", "data": {"task": "train", "rate": r, "units": units, "time": 1.0}, "pipe": "data"}
        for r in rates
    ]
    return "".join(
        json.dumps(line) + "\n"
        for line in (
            {"event": "config", "data": config, "pipe": None},
            {
                "event": "meta",
                "data": {"cpu": {"hostname": "node7"}, "accelerators": {"arch": "cuda", "gpus": gpus}},
                "pipe": None,
            },
            {"event": "start", "data": {"command": ["torchrun"], "time": 1000.0}, "pipe": None},
            {"event": "phase", "data": {"name": "init"}, "pipe": "data"},
            {"event": "line", "data": "Loading checkpoint shards: 100%", "pipe": "stderr"},
            {"event": "line", "data": "", "pipe": "stdout"},
            {"event": "data", "data": {"task": "main", "cpudata": {"load": 0.2}}, "pipe": "data"},
            {"event": "data", "data": {"task": "main", "gpudata": gpu}, "pipe": "data"},
            {"event": "data", "data": {"task": "main", "iodata": {"read_count": 1}, "netdata": {}}, "pipe": "data"},
            {"event": "data", "data": {"task": "train", "loss": 2.5}, "pipe": "data"},
            *train,
            {"event": "data", "data": {"task": "early_stop", "progress": [len(rates), len(rates)]}, "pipe": "data"},
            *ending,
        )
    )


def test_a_run_of_a_whole_node_of_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One process for each of four GPUs; one job over all of them, whose other ranks say nothing; two nodes; and
    processes that were killed, or ended in an error.
    """
    folder, output = tmp_path / "l40s.2024-11-19_12_00_00", tmp_path / "out"
    folder.mkdir()
    end = {"event": "end", "data": {"time": 1090.0, "return_code": 0}, "pipe": None}
    for gpu in range(4):
        text = stream("resnet50", "per_gpu", ["resnet50", f"D{gpu}"], [100.0, *[500.0 + gpu] * 30], [str(gpu)], end)
        if gpu == 3:  # killed before its count
            text = "".join(
                line for line in text.splitlines(keepends=True) if "early_stop" not in line and '"end"' not in line
            )
        (folder / f"resnet50.D{gpu}.data").write_text(text)
    whole = [str(gpu) for gpu in range(4)]
    job = stream("lightning-gpus", "njobs", ["lightning-gpus", "0"], [2000.0] * 30, whole, end)
    (folder / "lightning-gpus.0.data").write_text(job)
    for node in (0, 1):
        tag = ["llm-lora-ddp-nodes", f"node{node}", *(["nolog"] if node else [])]
        rates = [] if node else [16000.0] * 30
        text = stream("llm-lora-ddp-nodes", "njobs", tag, rates, whole, end, machines=2, units="Tok/s")
        if node:
            text = "".join(line for line in text.splitlines(keepends=True) if "early_stop" not in line)
        (folder / f"llm-lora-ddp-nodes.node{node}.data").write_text(text)
    (folder / "notes.txt").write_text("not a process")
    assert main(["import", "milabench", str(folder), "--output-dir", str(output)]) == 0
    assert "7 records of 3 benchmarks" in capsys.readouterr().out
    assert [each.state for each in select("benchmark=resnet50", output).cells] == ["done", "done", "done", "failed"]
    assert "it was killed" in select("benchmark=resnet50", output).cells[3].message
    nodes = select("benchmark=llm-lora-ddp-nodes", output).cells
    assert [each.state for each in nodes] == ["done", "done"]
    assert (nodes[0].record.measurements["unit"], nodes[0].record.config["hardware"]["nodes"]) == ("Tok", 2)
    assert nodes[0].record.measurements["memory"]["device_peak"] == 4000 * 2**20
    assert main(["report", "--score", "milabench", "--output-dir", str(output)]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    # The killed process's rates count, too, before they are charged for it: 500 + 501 + 502 + 503, times 3/4.
    assert float(rows["resnet50"][-2]) == pytest.approx(2006 * 3 / 4, abs=0.01)
    assert float(rows["lightning-gpus"][-2]) == pytest.approx(2000)
    assert float(rows["llm-lora-ddp-nodes"][-2]) == pytest.approx(16000)
    assert rows["lightning-gpus"][1:4] == ["0", "1", "4"]
    assert rows["llm-lora-ddp-nodes"][1:4] == ["0", "2", "8"]


def test_a_file_that_is_no_event_stream_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "bert-fp16.D0.data").write_text("not json\n{}\n")
    assert main(["import", "milabench", str(run), "--output-dir", str(tmp_path)]) == 2
    assert "line 1 is not one of Milabench's events" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["import", "milabench", str(empty), "--output-dir", str(tmp_path)]) == 2
