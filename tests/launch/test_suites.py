"""Suites: rows with names and weights, run like any sweep; what a row keeps and what the shell takes over."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from fourfold import record
from fourfold.cli.explain import explain_text
from fourfold.cli.members import list_text
from fourfold.cli.sources import hydra
from fourfold.composition import config_directory, options
from fourfold.errors import Refused
from fourfold.launch import main, suites
from fourfold.launch.suites import Row, words_of
from fourfold.report.read import read_sweep
from fourfold.report.scores import score_text
from fourfold.report.select import Selection

Shell = Callable[..., int]

PAIR = """
overrides: [until.steps=5]
rows:
  plain: {overrides: [benchmark=digits], weight: 2}
  remembers: {overrides: [benchmark=digits, setting=class_incremental, method=replay, method.memory=50, until.steps=7]}
  wide: {overrides: [benchmark=digits, hardware.devices=64], about: more than a laptop has}
  cartpole: {overrides: [benchmark=cartpole], awaits: the reinforcement-learning workloads}
"""
MORE = """
defaults: [pair]
rows:
  plain: {overrides: [benchmark=digits, until.steps=9]}
  same: {overrides: [benchmark=digits, until.steps=5], weight: 0.5}
"""


@pytest.fixture
def outside(tmp_path: Path) -> str:
    """Two suites kept outside the project, as the word that makes Hydra find them."""
    folder = tmp_path / "conf" / "suite"
    folder.mkdir(parents=True)
    (folder / "pair.yaml").write_text(PAIR)
    (folder / "more.yaml").write_text(MORE)
    return f"hydra.searchpath=[file://{folder.parent}]"


def manifest(output: Path) -> dict[str, Any]:
    newest = max((output / "sweeps").iterdir(), key=lambda folder: folder.name)
    content: dict[str, Any] = json.loads((newest / "sweep.json").read_text())
    return content


def records(output: Path) -> list[record.Record]:
    return [record.read(folder) for folder in (output / "cells").iterdir()]


def test_a_suite_is_a_sweep_of_its_rows(shell: Shell, output: Path, outside: str, capsys: Any) -> None:
    assert shell("-m", "suite=pair", "hardware=cpu", "seed=0,1", outside) == 0
    found = {(one.config["suite"]["row"], one.axes["seed"]): one for one in records(output)}
    assert set(found) == {("plain", 0), ("plain", 1), ("remembers", 0), ("remembers", 1)}
    plain, remembers = found["plain", 0], found["remembers", 1]
    assert plain.config["suite"] == {"name": "pair", "row": "plain", "weight": 2.0}
    assert (plain.config["until"]["steps"], remembers.config["until"]["steps"]) == (5, 7)
    assert (remembers.axes["method"], remembers.config["method"]["memory"]) == ("replay", 50)
    content = manifest(output)
    assert content["cells"][0]["rows"] == [{"name": "pair", "row": "plain", "weight": 2.0}]
    out = {(entry["rows"][0]["row"], entry["why"]) for entry in content["not_applicable"]}
    assert {row for row, _ in out} == {"wide", "cartpole"}
    assert ("cartpole", "awaits the reinforcement-learning workloads") in out
    said = capsys.readouterr().out
    assert "not applicable: 4 of 8" in said
    assert "cartpole  awaits the reinforcement-learning workloads" in said
    shown = read_sweep(output)
    assert sorted(cell.state for cell in shown.cells) == ["done"] * 4 + ["not applicable"] * 4


def test_without_m_it_is_a_sweep_all_the_same(shell: Shell, output: Path, outside: str) -> None:
    assert shell("suite=pair", "row=plain", "hardware=cpu", outside) == 0
    assert [one.config["suite"]["row"] for one in records(output)] == ["plain"]


def test_the_shell_wins(shell: Shell, output: Path, outside: str) -> None:
    words = ["suite=pair", "row=remembers", "method=ewc", "method.strength=3", "until.steps=2", "hardware=cpu"]
    assert shell("-m", *words, outside) == 0
    (found,) = records(output)
    assert (found.axes["method"], found.config["method"]["strength"]) == ("ewc", 3)
    assert found.config["until"]["steps"] == 2
    assert found.axes["setting"] == "class_incremental"


def test_a_cell_that_two_rows_ask_for_runs_once_and_counts_for_both(shell: Shell, output: Path, outside: str) -> None:
    assert shell("-m", "suite=pair,more", "row=plain,same", "hardware=cpu", outside) == 0
    content = manifest(output)
    asked = {tuple((row["name"], row["row"]) for row in cell["rows"]) for cell in content["cells"]}
    assert asked == {(("pair", "plain"), ("more", "same")), (("more", "plain"),)}
    assert len(records(output)) == 2
    table = [
        line.split()
        for line in score_text(Selection("latest", read_sweep(output).cells), None, "milabench").splitlines()
    ]
    assert {(line[0], line[-1]) for line in table[1:3]} == {("plain", "2"), ("same", "0.5")}
    before = {one.cell: one.started for one in records(output)}
    assert shell("-m", "suite=more", "row=same", "hardware=cpu", "rerun=missing", outside) == 0
    assert manifest(output)["cells"][0]["rows"] == [{"name": "more", "row": "same", "weight": 0.5}]
    assert {one.cell: one.started for one in records(output)} == before


def test_the_suite_is_not_part_of_the_cells_identity(shell: Shell, output: Path, outside: str) -> None:
    assert shell("-m", "suite=pair", "row=plain", "hardware=cpu", outside) == 0
    (cell,) = records(output)
    assert shell("benchmark=digits", "until.steps=5", "hardware=cpu") == 0
    assert [one.cell for one in records(output)] == [cell.cell]


def test_selected_by_glob(shell: Shell, outside: str, capsys: Any) -> None:
    assert shell("suite=pair", "row=glob(*, exclude=[wide, cart*])", "hardware=cpu", "dry_run=true", outside) == 0
    said = capsys.readouterr().out
    assert "2 of 2 cells would run" in said
    assert "not applicable" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("suite=pear", "suite=pear: no such suite; choose one of "),
        ("suite=pear", "; did you mean pair?"),
        ("suite=pair row=plane", "row=plane: no such row; choose of plain, remembers, wide, cartpole; did you mean"),
        ("suite=pair suite=more", "suite is given twice"),
        ("row=plain", "suite=NAME is missing"),
        ("suite=pair row=cartpole", "none of the 1 combinations is applicable: awaits the reinforcement"),
        ("suite=pair row=plain method.memory=3", "rounding_growth [in row plain of suite pair]"),
        ("suite=pair sed=3", "did you mean seed?"),
        ("suite=pair slots=1,2", "whole sweep"),
        ("suite=pair --cfg job", "explain suite=pair shows them"),
        ("suite=broken", "suite broken: row: no such key; did you mean rows?"),
        ("suite=stray", "row a: wieght: no such key; did you mean weight?"),
        ("suite=flat", "row a: overrides: must be a list of KEY=VALUE"),
        ("suite=heavy", "row a: weight=-1.0: must be a number, 0 or more"),
        ("suite=whole", "row a: slots=4: holds for the whole sweep"),
        ("suite=scored", "suite scored: score=ratio: choose one of milabench, milabench+1"),
        ("suite=wrong", "no such benchmark"),
        ("suite=wrong", "[in row a of suite wrong]"),
    ],
)  # fmt: skip
def test_what_is_refused(
    words: str, message: str, outside: str, tmp_path: Path, output: Path, capsys: Any, hydra_as_it_was: None
) -> None:
    folder = tmp_path / "conf" / "suite"
    (folder / "broken.yaml").write_text("row: {}")
    (folder / "stray.yaml").write_text("rows: {a: {wieght: 1}}")
    (folder / "flat.yaml").write_text("rows: {a: {overrides: benchmark=digits}}")
    (folder / "heavy.yaml").write_text("rows: {a: {weight: -1.0}}")
    (folder / "whole.yaml").write_text("rows: {a: {overrides: [slots=4]}}")
    (folder / "scored.yaml").write_text("score: ratio\nrows: {a: {overrides: [benchmark=digits]}}")
    (folder / "wrong.yaml").write_text("rows: {a: {overrides: [benchmark=digitz]}}")
    assert main.run_command_line([*words.split(), outside, "tracking=off"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not output.exists()


def test_words_of_a_row() -> None:
    row = Row("s", "r", ("method=replay", "method.memory=5", "hardware.devices=8", "seed=3"))
    assert words_of(row, ["hardware=a100"]) == [*row.overrides, "hardware=a100"]
    assert words_of(row, ["method=ewc"]) == ["hardware.devices=8", "seed=3", "method=ewc"]
    assert words_of(row, ["seed=0,1", "++method.memory=7"]) == [
        "method=replay", "hardware.devices=8", "seed=0,1", "++method.memory=7",
    ]  # fmt: skip


def test_list_and_explain() -> None:
    assert "quickstart" in list_text("suite")
    text, valid = explain_text(["suite=quickstart", "hardware=cpu", "hardware.capacity.devices=1"])
    assert valid
    assert "not applicable: hardware.devices=2: cpu has 1" in text
    with pytest.raises(Refused, match="did you mean quickstart"):
        explain_text(["suite=quickstrat"])


@pytest.mark.parametrize("suite", sorted(path.stem for path in (config_directory() / "suite").glob("*.yaml")))
def test_every_suite_is_sound(suite: str) -> None:
    """Its rows have what rows have, and each runnable one names choices that exist."""
    with hydra():
        loader = GlobalHydra.instance().config_loader()
        rows = suites.chosen_rows([f"suite={suite}"], loader)
        assert rows
        assert len({row.name for row in rows}) == len(rows)
        for row in rows:
            for word in row.overrides:
                group, _, name = word.partition("=")
                known = options(group) if "." not in group and not group.startswith("tuned") else []
                if row.awaits is None and known:
                    assert set(name.split(",")) <= set(known), f"{row.name}: {word}"


def test_rows_of_another_suite_are_adapted(outside: str, tmp_path: Path) -> None:
    small = (
        "defaults: [pair]\nadapt: [~until.steps, scale=smoke, method=ewc]\nrows: {own: {overrides: [benchmark=mnist]}}"
    )
    (tmp_path / "conf" / "suite" / "small.yaml").write_text(small)
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        rows = {row.name: row for row in suites.read("small")}
    assert rows["plain"].overrides == ("benchmark=digits", "scale=smoke", "method=ewc")
    assert rows["plain"].weight == 2
    # The values of a method that was replaced go with it; the file's own rows are as they are written.
    assert rows["remembers"].overrides == (
        "benchmark=digits", "setting=class_incremental", "scale=smoke", "method=ewc",
    )  # fmt: skip
    assert rows["own"].overrides == ("benchmark=mnist",)
    assert {row.suite for row in rows.values()} == {"small"}
    assert rows["cartpole"].awaits


# Table 1.3 of the specification: the 26, the 16, and what Milabench has beside them.
WEIGHTED = [
    "resnet50", "convnext_large-tf32-fp16", "regnet_y_128gf", "lightning-gpus", "diffusion-gpus",
    "diffusion-nodes", "dinov2-giant-gpus", "llava-single", "vjepa-single", "vjepa-gpus", "bert-tf32-fp16",
    "reformer", "llama", "llm-lora-single", "llm-lora-ddp-gpus", "llm-lora-ddp-nodes", "llm-lora-mp-gpus",
    "llm-full-mp-gpus", "llm-full-mp-nodes", "rlhf-single", "torchatari", "brax", "ppo", "pna", "dimenet",
    "recursiongfn",
]  # fmt: skip
OPTIONAL = [
    "resnet50-noio", "resnet152-ddp-gpus", "lightning", "convnext_large-fp32", "convnext_large-tf32",
    "convnext_large-fp16", "focalnet", "diffusion-single", "dinov2-giant-single", "bert-fp32", "bert-tf32",
    "bert-fp16", "t5", "whisper", "rlhf-gpus", "dqn",
]  # fmt: skip
BESIDE = [
    "fp32", "tf32", "fp16", "bf16", "fp8", "llm-chat-completion", "txt-to-image-single",
    "whisper-transcribe-single", "vllm-dense-physics-gpus", "vllm-moe-code-gpus", "dinov2-giant-nodes",
    "llava-gpus", "cleanrljax",
]  # fmt: skip


def milabench(name: str) -> dict[str, Row]:
    with hydra():
        return {row.name: row for row in suites.read(name)}


def test_milabenchs_suites_are_scored_by_its_formula() -> None:
    for suite in ("milabench", "milabench_optional", "milabench_all", "smoke"):
        assert {row.label()["score"] for row in suites.read(suite)} == {"milabench"}
    assert all("score" not in row.label() for row in suites.read("quickstart"))


def test_milabenchs_rows_are_all_there_with_its_weights() -> None:
    assert len(WEIGHTED) == 26
    assert len(OPTIONAL) == 16
    assert {name: row.weight for name, row in milabench("milabench").items()} == dict.fromkeys(WEIGHTED, 1.0)
    assert {name: row.weight for name, row in milabench("milabench_optional").items()} == dict.fromkeys(OPTIONAL, 0.0)
    everything = milabench("milabench_all")
    assert set(everything) == {*WEIGHTED, *OPTIONAL, *BESIDE}
    assert sum(row.weight for row in everything.values()) == 26
    assert set(milabench("smoke")) == set(everything)


def test_rows_ask_for_the_devices_that_their_names_say() -> None:
    for name, row in milabench("milabench_all").items():
        several = name.endswith(("-gpus", "-nodes"))
        assert ("hardware.devices=8" in row.overrides) == several, name
        assert ("hardware.nodes=2" in row.overrides) == name.endswith("-nodes"), name
        assert (row.awaits is not None) == (name in {"torchatari", "brax", "ppo", "dqn", "cleanrljax"}), name


@pytest.mark.slow
@pytest.mark.parametrize("hardware", ["h100", "mi300"])
def test_every_row_is_a_valid_cell_on_hardware_that_can_hold_it(hardware: str) -> None:
    """Composed and checked as a sweep does it; a precision that the hardware lacks is not applicable, nothing else."""
    text, valid = explain_text(
        [
            *("suite=milabench_all", f"hardware={hardware}", "hydra/launcher=submitit_slurm"),
            *("hardware.capacity.devices=8", "hardware.capacity.nodes=2"),
        ]
    )
    assert valid
    reasons = [line.strip() for line in text.splitlines() if "not applicable: " in line]
    reasons = [reason for reason in reasons if "awaits the reinforcement-learning" not in reason]
    assert all("precision=tf32" in reason for reason in reasons), reasons
    assert len(reasons) == {"h100": 0, "mi300": 3}[hardware]
