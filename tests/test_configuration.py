"""conf/: every file says what it is, every member composes, schema and YAML agree, facts have a meaning."""

import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from fourfold import schema
from fourfold.cli.sources import hydra
from fourfold.compatibility import AXES, FACTS, Member, members_of, unmet
from fourfold.composition import catalogue, compose, config_directory, options, plain

CONF = config_directory()
FILES = sorted(CONF.rglob("*.yaml"))
LOCAL = CONF / "hardware" / "local"


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_file_opens_with_what_it_is_and_how_to_use_it(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# "), "the first line says what this file is"
    shared = path.stem.startswith("_") or path.parent.name in ("job_logging", "hydra_logging")
    assert shared or any("python run.py" in line for line in lines[:4]), "and a command that uses it"


@pytest.mark.parametrize("axis", ["benchmark", "hardware", "setting", "method"])
def test_members_are_named_as_their_files(axis: str) -> None:
    for name in choices(axis):
        text = (CONF / axis / f"{name}.yaml").read_text()
        assert re.search(rf"^name: {name}$", text, re.MULTILINE), f"{axis}/{name}.yaml names itself otherwise"


@cache
def facts() -> dict[str, dict[str, Member]]:
    """axis -> name -> what the member gives and needs."""
    with hydra():
        return {axis: {member.name: member for member in members} for axis, members in catalogue().items()}


def where_it_applies(method: str) -> list[str]:
    """A benchmark and a setting, as overrides, that meet a method's needs: the most generous setting if it will do."""
    known = facts()
    beside = [known["hardware"]["cpu"], known["method"][method]]
    if "trained_by_gradients" in known["method"][method].gives:
        beside.append(known["method/rule"]["backprop"])
    for benchmark in dict.fromkeys(["digits", *known["benchmark"]]):
        for setting in dict.fromkeys(["multi_task", *known["setting"]]):
            if not unmet([*beside, known["benchmark"][benchmark], known["setting"][setting]]):
                return [f"benchmark={benchmark}", f"setting={setting}"]
    raise AssertionError(f"method {method} applies nowhere")


@pytest.mark.parametrize(("axis", "name"), [(axis, name) for axis in AXES for name in choices(axis)])
def test_every_member_composes_and_passes_its_schema(axis: str, name: str) -> None:
    """Alone, with the defaults; a method in the first cell that it applies to."""
    words = [f"method={name}", *where_it_applies(name)] if axis == "method" else [f"{axis}={name}"]
    if axis == "setting" and "meta_training" in facts()["setting"][name].needs:
        words += ["benchmark=osaka_glyphs"]
    cell = plain(compose(words))
    node = cell[axis]
    expected = {field.name for field in fields(schema.COMMON[axis])}
    assert expected <= set(node), f"{axis}={name} lacks {sorted(expected - set(node))}"
    for member in members_of(cell):
        needs = {alternative for need in member.needs for alternative in need.split("|")}
        assert member.gives | needs | member.uses <= set(FACTS), "a fact without a meaning, or misspelt"


def test_the_top_level_agrees_with_the_schema() -> None:
    cell = plain(compose([]))
    assert set(cell) == {field.name for field in fields(schema.Cell)}


def test_schemas_hold_no_values() -> None:
    for node_type in [schema.Cell, schema.Until, schema.Optimizer, schema.Request, *schema.COMMON.values()]:
        assert not [name for name in node_type.__dataclass_fields__ if hasattr(node_type, name)]


def test_limits_name_keys_that_exist() -> None:
    for path in FILES:
        content = yaml.safe_load(re.sub(r"\?\?\?", "null", path.read_text())) or {}
        unknown = set(content.get("limits") or {}) - set(content)
        assert not unknown, f"{path.relative_to(CONF)}: limits for {sorted(unknown)}, which it does not have"


def shown() -> list[Path]:
    """Every file of conf/; of the published values of a method, which are all alike, one."""
    tuned = {path.relative_to(CONF).parts[1]: path for path in FILES if path.relative_to(CONF).parts[0] == "tuned"}
    return [path for path in FILES if path.relative_to(CONF).parts[0] != "tuned"] + list(tuned.values())


@pytest.mark.parametrize("path", shown(), ids=lambda path: str(path.relative_to(CONF)))
def test_the_command_in_the_first_lines_composes(path: Path) -> None:
    for command in re.findall(r"python run\.py ([^\n]+)", "\n".join(path.read_text().splitlines()[:4])):
        words = [word for word in command.split() if word != "-m" and not word.startswith("suite=")]
        compose([word.split(",")[0] for word in words])


def test_classes_in_the_yaml_are_those_of_the_data() -> None:
    from fourfold.data.packaged import digits

    assert OmegaConf.load(CONF / "benchmark/data/digits.yaml").classes == digits("", 0).classes


def test_peaks_have_a_source() -> None:
    for name in choices("hardware"):
        text = (CONF / f"hardware/{name}.yaml").read_text()
        assert "\npeak:" not in text or re.search(r"^# .*\((19|20)\d\d\)", text, re.MULTILINE), f"{name}: no source"


def test_shared_parts_are_no_choices() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert not [name for axis in AXES for name in options(axis) if name.startswith("_")]
