"""What is spared Hydra changes nothing that it finds."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf import _utils as omegaconf_utils

from fourfold import composition
from fourfold.cli.sources import hydra
from fourfold.launch.lighter import lighter_hydra

OURS = sorted(composition.config_directory().rglob("*.yaml"))
ODD = "a: 1e3\nb: 2020-01-01\nc: 0x10\nd: 'x: y'\ne: on\nf: 12:30\ng: |\n  two\n  lines\nh: [1_000, .inf, ~]\n"


def test_both_parsers_read_the_same() -> None:
    slow = omegaconf_utils.get_yaml_loader()
    with lighter_hydra([]):
        quick = omegaconf_utils.get_yaml_loader()
    assert quick is not slow
    for text in (ODD, *(file.read_text() for file in OURS)):
        assert yaml.load(text, quick) == yaml.load(text, slow)
        assert repr(yaml.load(text, quick)) == repr(yaml.load(text, slow))


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a: [1\n", "a: b: c\n"])
def test_bad_files_are_told_alike(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with lighter_hydra([]), pytest.raises(yaml.MarkedYAMLError) as quick:
        OmegaConf.load(tmp_path / "bad.yaml")
    with pytest.raises(yaml.MarkedYAMLError) as slow:
        OmegaConf.load(tmp_path / "bad.yaml")
    assert quick.value.problem_mark.line == slow.value.problem_mark.line


def test_composing_twice_finds_the_same_and_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = ConfigRepository.load_config

    def counted(self: Any, config_path: str) -> Any:
        read.append(config_path)
        return load(self, config_path)

    def found(words: list[str]) -> Any:
        loader: Any = GlobalHydra.instance().config_loader()
        config = loader.load_configuration(composition.CONFIG_NAME, words, run_mode=RunMode.RUN)
        return OmegaConf.to_container(config, resolve=False)

    sweep = [["benchmark=digits", "method=ewc"], ["benchmark=llama", "seed=3"]]
    with hydra():
        expected = [found(words) for words in sweep]
        monkeypatch.setattr(ConfigRepository, "load_config", counted)
        with lighter_hydra([]):
            assert [found(words) for words in sweep * 2] == expected * 2
    assert len(read) == len(set(read))
    assert ConfigRepository.load_config is counted
