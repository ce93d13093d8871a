"""The pages that are made from the configurations say what these say."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from fourfold.cli.members import tree_picture
from fourfold.cli.sources import hydra
from fourfold.composition import options
from fourfold.launch import suites
from fourfold.schema import Method

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PAGE.with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    return script("benchmarks")


def test_methods_devices_and_the_tree_of_settings_are_up_to_date() -> None:
    methods, hardware = script("methods"), script("hardware")
    assert methods.FILE.read_text() == methods.text(), "run: make docs"
    assert hardware.FILE.read_text() == hardware.page(hardware.FILE.read_text()), "run: make docs"
    assert (PAGE.parent / "images" / "settings.svg").read_text() == tree_picture() + "\n", "run: make docs"


def test_every_value_of_a_method_tells_where_it_comes_from() -> None:
    methods = script("methods")
    common = set(Method.__dataclass_fields__)
    for path in methods.METHODS.glob("[!_]*.yaml"):
        values = set(methods.composed(path)) - methods.NOT_VALUES - common
        assert not values or methods.origin(path), f"{path.name}: no line '# Values: ...'"
    places = {place for name in ("replay", "mir") for own in methods.tuned(name).values() for place in own}
    assert "mnist (class_incremental, domain_incremental, task_incremental)" in places


def test_it_lists_every_benchmark_and_every_row_of_milabench(maker) -> None:
    text = PAGE.read_text()
    with hydra():
        assert {key.split()[0] for key in maker.counts_in(text)} == set(options("benchmark"))
        missing = [row.name for row in suites.read("milabench_all") if maker.suite_row(row) not in text]
    assert not missing, "run: make docs"
    assert "| other |" not in text, "a benchmark has no domain"


def test_parameters_and_flop_are_told_of_every_trained_model(maker) -> None:
    counts = maker.counts_in(PAGE.read_text())
    assert counts["resnet 50"][0] == "25.6 M"
    assert counts["llama 70b"][0] == "70.6 G"
    # A multiplication and an addition a weight forward, twice that backward: 6 N a token, and attention.
    assert 6 * 1.236 <= float(counts["llama 1b"][1].removesuffix(" G")) <= 7.5 * 1.236


@pytest.mark.slow
def test_the_page_is_what_the_script_writes(maker) -> None:
    with hydra():
        rows = list(maker.benchmarks())
        text = PAGE.read_text()
        assert maker.page(rows, maker.counts_in(text)) == text, "run: make docs"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "bert", "whisper"])
def test_counts_are_those_of_the_code(name, maker) -> None:
    with hydra():
        key, cell, recipe = next(row for row in maker.benchmarks() if row[0].split()[0] == name)
    assert maker.counted(cell, recipe) == maker.counts_in(PAGE.read_text())[key]
