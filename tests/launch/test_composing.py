"""A sweep's cells: what expands to which combinations, and that sharing a composition changes nothing."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from fourfold import composition
from fourfold.cli.sources import hydra
from fourfold.errors import Refused
from fourfold.launch.cells import combinations, frozen, plan
from fourfold.launch.compose import Composer
from fourfold.launch.lighter import lighter_hydra

Shell = Callable[..., int]

MEMBERS = [
    ["benchmark=digits", "method=replay", "setting=class_incremental"],
    ["benchmark=llama", "hardware=a100"],
    ["benchmark=fashion_mnist", "setting=task_incremental", "method=ewc"],
    ["benchmark=digits", "setting=traditional", "optimizer=sgd"],
    ["benchmark=digits", "until=epochs", "scale=full"],
]
VALUES: list[list[str]] = [
    ["seed=7"],
    ["seed=1", "batch=16", "until.steps=5"],
    ["hardware.devices=4", "hardware.nodes=2"],
    ["hardware.launcher.tasks_per_node=1", "seed=2"],
    ["optimizer.learning_rate=0.5", "optimizer.name=adam"],
    ["optimizer.learning_rate=1"],
    ["size=7b", "precision=bf16"],
    ["size='7b'"],
    ["method.memory=9"],
    ["method={memory: 8}"],
    ["method.strength=3", "tuned=off"],
    ["setting.contexts=2", "setting.class_order=[0,1,2,3,4,5,6,7,8,9]"],
    ["setting.contexts=3"],
    ["hardware.launcher.setup=[module load x]", "seed=3"],
    ["hardware.launcher.partition=null", "hardware.launcher.gres='gpu:${hardware.devices}'"],
    ["hardware.launcher.partition=gpu", "hardware.launcher.gres=null"],
    ["+benchmark.more=1"],
    ["~seed"],
    ["sed=1"],
    ["seed=x"],
    ["seed=1.5"],
    ["seed="],
    ["seed=-1"],
    ["seed=true"],
    ["data_dir=${output_dir}"],
    ["output_dir=/tmp/elsewhere", "timeout=5"],
    ["seed=1", "seed=2"],
    ["++seed=5"],
    ["benchmark.model=null"],
    ["hardware=null"],
]


@pytest.fixture
def composers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Composer, Composer]]:
    """One that shares compositions and one that does not, on the same controller's configuration."""
    monkeypatch.setenv("FOURFOLD_OUTPUT", "/tmp/outputs")
    with hydra(), lighter_hydra([]):
        loader: Any = GlobalHydra.instance().config_loader()
        master = loader.load_configuration(composition.CONFIG_NAME, [], run_mode=RunMode.MULTIRUN)
        yield Composer(loader, master), Composer(loader, master, share=False)


def found(composer: Composer, words: list[str]) -> Any:
    """The cell as it would be handed to a job, or the refusal."""
    try:
        (cell,) = plan([*combinations(words, None, composer.loader)], composer, skip=False).cells
    except Refused as error:
        return type(error).__name__, str(error)
    config = frozen(cell)
    return cell.cell, str(cell.folder), OmegaConf.to_container(config, resolve=False)


def test_sharing_changes_nothing(composers: tuple[Composer, Composer]) -> None:
    shared, full = composers
    outcomes = set()
    for members, values in zip(itertools.cycle(MEMBERS), VALUES, strict=False):
        words = [*members, *values]
        one = found(shared, words)
        assert one == found(full, words), words
        outcomes.add(one[0] if isinstance(one[0], str) else "cell")
    assert outcomes == {"cell", "Refused", "NotApplicable"}
    assert any(template is not None for template in shared._templates.values())


def test_a_cell_leaves_no_trace_in_the_next(composers: tuple[Composer, Composer]) -> None:
    shared, full = composers
    members = ["benchmark=llama", "hardware=a100"]
    first = found(shared, [*members, "hardware.devices=8"])
    assert first[0]["hardware"]["launcher"]["gres"] == "gpu:a100:8"
    assert found(shared, [*members, "seed=1"]) == found(full, [*members, "seed=1"])
    assert first == found(shared, [*members, "hardware.devices=8"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=0,1", "batch=8,16"], ["0 8", "0 16", "1 8", "1 16"]),
        (["seed=range(1,4)"], ["1", "2", "3"]),
        (["seed=range(0,10,4)"], ["0", "4", "8"]),
        (["seed=choice(3,1)"], ["3", "1"]),
        (["seed=sort(3,1,2)"], ["1", "2", "3"]),
        (["seed=sort(3,1,2,reverse=true)"], ["3", "2", "1"]),
        (["scale=glob(*)"], ["auto", "full", "smoke"]),
        (["scale=glob(*, exclude=au*)"], ["full", "smoke"]),
        (["scale=glob([f*,s*])"], ["full", "smoke"]),
        (["setting.class_order=[1,2],[2,1]"], ["[1,2]", "[2,1]"]),
        (["data_dir='a,b'"], ["'a,b'"]),
    ],
)
def test_expansion(composers: tuple[Composer, Composer], words: list[str], expected: list[str]) -> None:
    found = combinations(words, None, composers[0].loader)
    assert [" ".join(word.split("=", 1)[1] for word in one.overrides) for one in found] == expected


def test_shuffle_keeps_every_value(composers: tuple[Composer, Composer]) -> None:
    found = combinations(["seed=shuffle(range(0,20))"], None, composers[0].loader)
    assert sorted(int(one.overrides[0][5:]) for one in found) == list(range(20))


@pytest.mark.parametrize("word", ["scale=glob(x*)", "optimizer.name=glob(*)"])
def test_a_glob_that_matches_nothing(composers: tuple[Composer, Composer], word: str) -> None:
    with pytest.raises(Refused, match=r"glob.* matches nothing; "):
        combinations([word], None, composers[0].loader)


def test_a_glob_over_all_benchmarks_leaves_shared_parts_out(shell: Shell, capsys: Any) -> None:
    words = ["benchmark=glob([d*,_*])", "setting=class_incremental", "method=finetune", "hardware=cpu", "dry_run=true"]
    assert shell("-m", *words) == 0
    said = capsys.readouterr().out
    assert "digits-cpu-class_incremental" in said
    assert "_benchmark" not in said
    assert "make no sense" in said
