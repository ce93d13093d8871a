"""What the documentation says to type works as typed: members kept outside the project, and links."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fourfold import errors

ROOT = Path(__file__).resolve().parent.parent
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def block(text: str, language: str, after: str) -> str:
    """The first fenced block of a language after some words."""
    found = re.search(rf"```{language}\n(.*?)```", text[text.index(after) :], re.DOTALL)
    assert found
    return found[1]


def test_a_method_from_outside_is_one_yaml_and_one_python_file(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "adding.md").read_text()
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "shrink.yaml").write_text(block(text, "yaml", "conf/method/shrink.yaml"))
    (tmp_path / "fourfold_shrink.py").write_text(block(text, "python", "fourfold_shrink.py"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    words = ["benchmark=digits", f"hydra.searchpath=[file://{tmp_path}]", "method=shrink", "until.steps=20"]
    record = run(*words)
    assert (record.state, record.axes["method"]) == (errors.DONE, "shrink")
    with pytest.raises(errors.Refused, match=r"method.rate=2.*between 0 and 1"):
        run(*words, "method.rate=2")


def test_a_setting_from_outside_is_one_yaml(run: Callable[..., Any], tmp_path: Path) -> None:
    text = (ROOT / "docs" / "adding.md").read_text()
    (tmp_path / "setting").mkdir()
    (tmp_path / "setting" / "pairs.yaml").write_text(block(text, "yaml", "conf/setting/pairs.yaml"))
    record = run("benchmark=digits", f"hydra.searchpath=[file://{tmp_path}]", "setting=pairs", "until.steps=3")
    assert record.state == errors.DONE
    assert record.measurements["contexts"][0].startswith("context 0: classes 0,1,2,3,")


def test_a_site_s_own_hardware_lies_in_local(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "hardware" / "local").mkdir(parents=True)
    text = (ROOT / "docs" / "adding.md").read_text()
    (tmp_path / "hardware" / "local" / "ours.yaml").write_text(block(text, "yaml", "conf/hardware/local/ours.yaml"))
    words = ["benchmark=digits", f"hydra.searchpath=[file://{tmp_path}]", "hardware=local/ours", "until.steps=2"]
    record = run(*words, "hardware.stand_in=true")
    assert (record.state, record.axes["hardware"], record.evidence) == (errors.DONE, "ours", "simulated")
    request = record.config["hardware"]["launcher"]
    assert (request["partition"], request["gres"], request["cpus_per_task"]) == ("gpu", "gpu:a100:1", 16)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}, which is not there"
