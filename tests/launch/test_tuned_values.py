"""Which tuned values a cell gets where they are for one value of its setting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fourfold import composition
from fourfold.cli.sources import hydra
from fourfold.composition import compose, with_tuned
from fourfold.errors import Refused
from fourfold.launch import suites
from fourfold.tuned_values import stated

Shell = Callable[..., int]
OMNIGLOT = ["benchmark=osaka_omniglot", "setting=osaka", "method=maml"]


@pytest.mark.parametrize(
    ("words", "alpha", "rate", "batch"),
    [
        ([], 0.98, 1e-3, 8),
        (["setting.alpha=0.98"], 0.98, 1e-3, 8),
        (["setting.alpha=0.9"], 0.9, 1e-4, 4),
        (["setting.alpha=0.90"], 0.9, 1e-4, 4),
        (["setting.alpha=0.95"], 0.95, 1e-3, 4),  # published for neither: the method's and the benchmark's own
        (["tuned=osaka_omniglot_0.90"], 0.9, 1e-4, 4),
        (["tuned=osaka_omniglot_0.98"], 0.98, 1e-3, 8),
        (["tuned=osaka_omniglot_0.98", "setting.alpha=0.9"], 0.9, 1e-3, 8),  # what the shell says holds
        (["tuned=off", "setting.alpha=0.9"], 0.9, 1e-3, 4),
        (["tuned=maml/osaka_omniglot/osaka_0.90", "setting.alpha=0.5", "method.meta_batch=3"], 0.5, 1e-4, 3),
        (["setting.alpha=0.9", "method.meta_batch=3"], 0.9, 1e-4, 3),
    ],
)
def test_published_values_go_by_benchmark_and_alpha(words: list[str], alpha: float, rate: float, batch: int) -> None:
    cell = compose([*OMNIGLOT, *words])
    learning_rate = cell.optimizer.learning_rate
    if learning_rate is None:
        learning_rate = cell.benchmark.recipe.full.optimizer.learning_rate
    assert (cell.setting.alpha, learning_rate, cell.method.meta_batch) == (alpha, rate, batch)


def test_the_words_say_which_values_were_taken() -> None:
    assert with_tuned([*OMNIGLOT, "setting.alpha=0.98"]) == [*OMNIGLOT, "setting.alpha=0.98"]
    assert with_tuned([*OMNIGLOT, "setting.alpha=0.9"])[-1] == "tuned=maml/osaka_omniglot/osaka_0.90"
    assert with_tuned([*OMNIGLOT, "setting.alpha=0.5"])[-1] == "tuned=off"
    once = with_tuned([*OMNIGLOT, "setting.alpha=0.9"])
    assert with_tuned(once) == once
    for untouched in (
        ["benchmark=osaka_glyphs", "setting=osaka", "method=maml", "setting.alpha=0.9"],  # nothing was tuned for it
        ["benchmark=osaka_omniglot", "setting=continual_meta", "method=maml", "setting.alpha=0.9"],
        ["benchmark=mnist", "setting=task_incremental", "method=ewc", "setting.contexts=2"],
        [*OMNIGLOT, "setting.alpha=high"],
    ):
        assert with_tuned(untouched) == untouched


@pytest.mark.parametrize("words", [["tuned=off", "until.steps=10"], ["method.each=null"]])
def test_a_tuned_value_can_be_taken_back(words: list[str]) -> None:
    cell = compose(["benchmark=fashion_mnist", "setting=class_incremental", "method=replay", *words])
    assert cell.method.each is None


def test_a_sweep_takes_a_tuned_value_back(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["benchmark=fashion_mnist", "setting=class_incremental", "method=replay", "method.each=null,50"]
    assert shell("-m", *words, "dry_run=true") == 0
    assert "2 of 2 cells would run" in capsys.readouterr().out


def test_a_setting_with_two_names_has_the_same_values_under_both() -> None:
    strengths = [
        compose(["benchmark=mnist", f"setting={setting}", "method=ewc"]).method.strength
        for setting in ("incremental", "class_incremental")
    ]
    assert strengths == [1e9, 1e9]
    assert with_tuned(["benchmark=digits", "setting=incremental", "method=ewc"])[-1] == "method=ewc"
    assert compose(["benchmark=mnist", "setting=incremental", "method=ewc", "tuned=off"]).method.strength == 1000


def test_values_of_another_benchmark_are_named_by_it_and_alpha() -> None:
    words = ["benchmark=osaka_glyphs", "setting=osaka", "method=cmaml_pre_um_pap", "tuned=osaka_synbols_0.98"]
    cell = compose(words)
    assert (cell.method.inner_steps, cell.method.modulation) == (16, 3)


@pytest.mark.parametrize(
    ("method", "name", "told"),
    [
        ("replay", "osaka_omniglot_0.98", ["tuned=osaka_omniglot_0.98", "method replay in setting osaka has none"]),
        ("maml", "osaka_omniglot_0.95", ["tuned=osaka_omniglot_0.95", "osaka_omniglot_0.90, osaka_omniglot_0.98"]),
        ("maml", "osaka_glyphs_0.9", ["tuned=osaka_glyphs_0.9", "osaka_synbols_0.90"]),
    ],
)
def test_values_that_there_are_not_are_refused(method: str, name: str, told: list[str]) -> None:
    with pytest.raises(Refused) as refusal:
        compose(["benchmark=osaka_omniglot", "setting=osaka", f"method={method}", f"tuned={name}"])
    assert all(part in str(refusal.value) for part in told)


def test_each_published_file_states_its_alpha() -> None:
    conf = composition.config_directory()
    for folder in sorted((conf / "tuned").glob("*/osaka_*")):
        found = stated(conf, folder.parent.name, folder.name, "osaka")
        assert found == {0.98: "osaka", 0.9: "osaka_0.90"}, folder


def test_a_sweep_over_alpha_takes_the_values_of_each(shell: Shell, capfd: pytest.CaptureFixture[str]) -> None:
    words = [*OMNIGLOT, "hardware=cpu"]
    assert shell("-m", *words, "setting.alpha=0.9,0.98,0.5", "dry_run=true") == 0
    planned = capfd.readouterr().out
    for alpha in ("0.9", "0.98", "0.5"):
        assert composition.cell_name(compose([*words, f"setting.alpha={alpha}"])) in planned
    assert shell("-m", *words, "tuned=osaka_omniglot_0.90,osaka_omniglot_0.98", "dry_run=true") == 0
    again = capfd.readouterr().out
    for alpha in ("0.9", "0.98"):
        assert composition.cell_name(compose([*words, f"setting.alpha={alpha}"])) in again


def test_explain_says_which_values_there_are() -> None:
    from fourfold.cli.explain import explain_text

    assert "tuned values from conf/tuned/maml/osaka_omniglot/osaka_0.90.yaml" in str(
        explain_text([*OMNIGLOT, "setting.alpha=0.9"])
    )
    assert "there are some for setting.alpha=0.9, 0.98" in str(explain_text([*OMNIGLOT, "setting.alpha=0.5"]))


def test_the_suite_of_the_paper_has_its_three_tables() -> None:
    """13 methods at two alphas on three benchmarks, each with the values published for it, where there are any."""
    with hydra():
        rows = suites.read("osaka_paper")
    assert len(rows) == 3 * 2 * 13
    for row in (row for row in rows if row.name.split("-")[1] in ("bgd", "maml", "cmaml_pre_um_pap")):
        words = with_tuned(row.overrides)
        chosen = dict(word.split("=") for word in words)
        table, method, alpha = row.name.split("-")
        assert (chosen["benchmark"], chosen["method"]) == (
            f"osaka_{table}".replace("tiered", "tiered_imagenet"),
            method,
        )
        assert chosen["tuned"] == f"{method}/{chosen['benchmark']}/{'osaka' if alpha == '0.98' else 'osaka_0.90'}"
        assert compose(words).setting.alpha == float(alpha)


def test_cells_of_a_table_without_its_files_are_unavailable(run: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("tiered_imagenet", "synbols"):
        words = [f"benchmark=osaka_{name}", "setting=osaka", "method=online_adam", f"tuned=osaka_{name}_0.98"]
        found = run(*words, f"data_dir={tmp_path}")
        assert found.state == "unavailable"
        assert f"data set {name} is not here (looked in {tmp_path / name})" in found.message
