"""The vendors' libraries as they are: what we call is there, with these arguments. Their sources are read, not run, as
importing some of them needs a driver; where a package is not installed its test is skipped.
"""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from fourfold.measure.monitors import amd, intel, nvidia, processor
from fourfold.record import read_series

SOURCES = Path(nvidia.__file__).parent


def sources_of(package: str) -> list[ast.Module]:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    path = Path(found.origin)
    files = path.parent.glob("*.py") if path.name == "__init__.py" else [path]
    return [ast.parse(file.read_text()) for file in files]


def functions(trees: list[ast.Module]) -> dict[str, tuple[int, int]]:
    """(arguments at least, at most) by name."""
    found = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                most = len(node.args.args)
                found[node.name] = (most - len(node.args.defaults), most)
    return found


def calls(module: Any, pattern: str) -> dict[str, set[int]]:
    """How many arguments our code gives to each function of the library that it calls."""
    found: dict[str, set[int]] = {}
    for node in ast.walk(ast.parse((SOURCES / f"{module}.py").read_text())):
        name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
        if re.match(pattern, name) and not any(isinstance(each, ast.Starred) for each in node.args):
            found.setdefault(name, set()).add(len(node.args) + len(node.keywords))
    return found


@pytest.mark.parametrize(
    ("package", "module", "pattern"), [("pynvml", "nvidia", "nvml[A-Z]"), ("amdsmi", "amd", "amdsmi_")]
)
def test_what_we_call_takes_what_we_give(package: str, module: str, pattern: str) -> None:
    theirs, ours = functions(sources_of(package)), calls(module, pattern)
    assert len(ours) >= 8
    for name, counts in ours.items():
        least, most = theirs[name]
        assert all(least <= count <= most for count in counts), name


def test_amd_smi_answers_in_the_words_that_we_read() -> None:
    text = "\n".join(ast.unparse(tree) for tree in sources_of("amdsmi"))
    words = ("vram_used", "current_socket_power", "average_socket_power", "energy_accumulator", "counter_resolution")
    for word in (*words, "gfx_activity", "clk", "hip_uuid", *amd.REASONS):
        assert f"'{word}'" in text, word
    for member in ("HOTSPOT", "CURRENT", "GFX"):
        assert re.search(rf"\b{member} = ", text), member


def test_level_zero_has_the_functions_and_the_structures_that_we_fill() -> None:
    text = "\n".join(ast.unparse(tree) for tree in sources_of("pyzes"))
    ours = (SOURCES / "intel.py").read_text()
    names = set(re.findall(r"\bzes[A-Z]\w+", ours)) | set(re.findall(r"\bzes_\w+_handle_t\b", ours))
    assert len(names) > 12
    states = set(re.findall(r'"(power_energy_counter|mem_state|freq_state|engine_stats)"', ours))
    for name in names | {f"zes_{state}_t" for state in states}:
        assert re.search(rf"\b{name}\b", text), name
    for field in (
        "throttleReasons",
        "activeTime",
        "timestamp",
        "actual",
        "free",
        "size",
        "energy",
        "core",
        "uuid",
        "id",
    ):
        assert f"'{field}'" in text, field


class Meter:
    """A device of 100 W whose library answers ``looks`` times, then is lost."""

    name, kind = "package_0", "device"

    def __init__(self, looks: int) -> None:
        self.left = looks

    def read(self) -> dict[str, float]:
        self.left -= 1
        if self.left < 0:
            raise OSError("the counter went away\nwith a second line")
        return {"power": 100.0}

    def close(self) -> None:
        if self.left < 0:
            raise OSError("nor can it be closed")


@pytest.mark.parametrize("backend", ["rapl", "cuda", "hip", "xpu"])
def test_a_monitor_that_fails_in_the_middle_leaves_the_cell_running_without_its_energy(
    backend: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourfold import experiment
    from fourfold.measure import monitor as monitors

    library = {"rapl": processor, "cuda": nvidia, "hip": amd, "xpu": intel}[backend]
    dying = lambda *_: [Meter(looks=2)]  # noqa: E731
    monkeypatch.setattr(processor, "sources", dying if backend == "rapl" else lambda *_: [])
    if backend != "rapl":
        assert monitors.VENDORS[backend] is library.sources
        monkeypatch.setitem(monitors.VENDORS, backend, dying)
        monkeypatch.setattr(
            experiment, "open_monitor", lambda _, *rest: monitors.open_monitor(backend, [""], *rest[1:])
        )
    words = ["benchmark=digits", "measure.period=0.01", "measure.idle=0", "until.steps=300", "measure.carbon=30"]
    record = run(*words)
    assert record.state == "done"
    assert record.measurements["steps"] == 300
    assert record.measurements["monitor"]["failed"] == {"package_0": "the counter went away"}
    from fourfold.metrics import figures

    found = figures(record, read_series(record.folder))
    assert found["units_per_second"] > 0
    assert not any("joules" in name or "co2" in name for name in found)


def test_the_same_monitor_when_it_lives_tells_energy(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fourfold.metrics import figures

    monkeypatch.setattr(processor, "sources", lambda *_: [Meter(looks=10**9)])
    record = run("benchmark=digits", "measure.period=0.01", "measure.idle=0", "until.steps=300", "measure.carbon=30")
    found = figures(record, read_series(record.folder))
    assert found["joules_per_unit"] == pytest.approx(100 / found["units_per_second"], rel=0.5)
    assert found["co2_grams_per_unit"] > 0
