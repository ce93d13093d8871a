"""A package that is installed beside Fourfold brings a method, a setting and a benchmark; nothing of ours is edited."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from fourfold.cli.members import list_text, tree_picture
from learning import names

FILES = {
    "__init__.py": "",
    "conf/__init__.py": "",
    "conf/method/sprout.yaml": """\
# Finetuning that says how often it was asked.   python run.py method=sprout
defaults: [finetune, _self_]
name: sprout
_target_: fourfold_sprouts.learning.Sprout
every: 2
limits: {every: [1, 100]}
""",
    "conf/setting/halves.yaml": """\
# Two contexts in the natural order.   python run.py setting=halves
defaults: [class_incremental, _self_]
name: halves
contexts: 2
class_order: natural
""",
    "conf/benchmark/data/moons.yaml": """\
# Points on circles.   python run.py benchmark=moons
_target_: fourfold_sprouts.data.moons
classes: 4
points: 400
limits: {points: [4, 1000000]}
""",
    "conf/benchmark/moons.yaml": """\
# Points on circles.   python run.py benchmark=moons
defaults: [digits, override data: moons, _self_]
name: moons
""",
    "learning.py": """\
from fourfold.methods.finetune import Finetune


class Sprout(Finetune):
    def __init__(self, every):
        self.every, self.asked = every, 0

    def terms(self, observation):
        self.asked += 1
        if self.asked % self.every == 0:
            yield from super().terms(observation)
""",
    "data.py": """\
import torch

from fourfold.data.tensors import Sets, TensorData
from fourfold.randomness import generator


def moons(data_dir, seed, points):
    draw = generator(seed, "moons")
    labels = torch.arange(points) % 4
    turn = torch.rand(points, generator=draw) * 6.2832
    places = torch.stack([turn.cos(), turn.sin()], 1) * (1.0 + labels[:, None])
    data = TensorData(places[:, None], labels)
    return Sets(data, data, 4, (1, 2))
""",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, text in FILES.items():
        path = tmp_path / "fourfold_sprouts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "hydra.searchpath=[pkg://fourfold_sprouts.conf]"  # type: ignore[misc]
    for name in [name for name in sys.modules if name.startswith("fourfold_sprouts")]:
        del sys.modules[name]


def test_its_method_setting_and_benchmark_work_together(installed: str, run: Any) -> None:
    words = (installed, "method=sprout", "setting=halves", "benchmark=moons", "until.steps=8")
    words += ("method.every=2", "scale=smoke")
    record = run(*words)
    assert record.state == "done", record.message
    assert record.axes["method"] == "sprout"
    assert record.measurements["contexts"][0].startswith("context 0: classes 0,1, 200 training")
    assert record.measurements["steps"] == 8


def test_its_values_are_checked_like_ours(installed: str) -> None:
    from fourfold.composition import compose
    from fourfold.errors import Refused

    with pytest.raises(Refused, match=r"method.every=0: must be between 1 and 100"):
        compose([installed, "method=sprout", "method.every=0"])
    with pytest.raises(Refused, match=r"setting.contexts=9.*moons has 4 classes"):
        compose([installed, "benchmark=moons", "setting=halves", "setting.contexts=9"])


def test_the_tree_as_a_picture_has_every_setting_and_method_once() -> None:
    root = ElementTree.fromstring(tree_picture())
    words = [word for text in root.iter("{http://www.w3.org/2000/svg}text") for word in (text.text or "").split()]
    shown = [word.strip(",") for word in words]
    for name in names("setting"):
        assert name in shown, name
    assert "replay" in shown
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) >= 7


def test_every_method_has_a_section_in_its_page() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "docs"))
    try:
        import methods as page
    finally:
        sys.path.pop(0)
    text = page.text()
    members = sorted({*names("method"), "avalanche"})  # there without its library, too
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == members
    assert "w l(new) + v l(remembered)" in text, "the equation of replay"
    assert "replay" in list_text("method")
