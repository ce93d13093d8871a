"""Writes docs/methods.md from what stands in conf/method and in the methods' docstrings: python docs/methods.py"""

import ast
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "methods.md"
METHODS = ROOT / "conf" / "method"
TUNED = ROOT / "conf" / "tuned"
NOT_VALUES = {"defaults", "name", "_target_", "check", "needs", "uses", "offers", "oracle", "search", "limits", "rule"}


def text() -> str:
    """The whole page."""
    lines = [
        "# Methods",
        "",
        "Made by `python docs/methods.py` from `conf/method/` and the docstrings of `src/fourfold/methods/`. *Needs*",
        "are what a setting must grant or a benchmark offer (`python -m fourfold explain method=NAME setting=NAME`",
        "says whether they do). *Values* are the defaults, with where they come from; *tuned values*, those that a",
        "benchmark and setting have otherwise, are in `conf/tuned/` and apply by themselves (`tuned=off`: not). A",
        "bound is given what others are not: all data at once, or the task of each sample.",
    ]
    for path in sorted(METHODS.glob("[!_]*.yaml")):
        lines += ["", *section(path)]
    return "\n".join([*lines, ""])


def section(path: Path) -> list[str]:
    """One method: what it is, its docstring, its needs, its values."""
    node = composed(path)
    first = path.read_text().splitlines()[0].removeprefix("# ").split("   python run.py")[0]
    lines = [f"## {node['name']}", "", first]
    said = docstring(str(node["_target_"]))
    if said:
        lines += ["", "```text", said, "```"]
    needs = ", ".join(node.get("needs") or []) or "nothing"
    facts = [f"Needs {needs}."]
    if node.get("uses"):
        facts.append(f"Uses, where it is told, {', '.join(node['uses'])}.")
    if node.get("oracle"):
        facts.append("A bound.")
    lines += ["", " ".join(facts)]
    values = {key: value for key, value in node.items() if key not in NOT_VALUES}
    if values:
        lines += ["", "Values: " + ", ".join(f"`{key}: {shown(value)}`" for key, value in values.items()) + "."]
        lines += [f"From: {said}" for said in [origin(path)] if said]
    elsewhere = tuned(path.stem)
    for source, places in elsewhere.items():
        lines += ["", f"Tuned values, {source}: {', '.join(places)}."]
    if values and not elsewhere:
        lines += ["", "No tuned values: the same on every benchmark."]
    if node.get("search"):
        lines += ["", "`tune=...` tries " + ", ".join(f"`{k}: {shown(v)}`" for k, v in node["search"].items()) + "."]
    return lines


def composed(path: Path) -> dict[str, object]:
    """A method's keys over those of the methods that it begins with."""
    own = yaml.safe_load(path.read_text())
    found: dict[str, object] = {}
    for default in own.get("defaults") or []:
        if isinstance(default, str) and default != "_self_":
            found |= composed(METHODS / f"{default}.yaml")
    return found | {key: value for key, value in own.items() if key != "defaults"}


def origin(path: Path) -> str | None:
    """Where a method's defaults come from: its line ``# Values:``, or that of the method that it begins with."""
    for line in path.read_text().splitlines():
        if line.startswith("# Values: "):
            return line.removeprefix("# Values: ")
    for default in yaml.safe_load(path.read_text()).get("defaults") or []:
        if isinstance(default, str) and not default.startswith("_") and (found := origin(METHODS / f"{default}.yaml")):
            return found
    return None


def tuned(method: str) -> dict[str, list[str]]:
    """Where its tuned values come from -> the benchmarks and settings that have them."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted((TUNED / method).glob("*/*.yaml")):
        source = path.read_text().splitlines()[1].removeprefix("# ").split("   python run.py")[0].rstrip(".")
        found.setdefault(source, {}).setdefault(path.parent.name, []).append(path.stem)
    return {
        source: [f"{benchmark} ({', '.join(settings)})" for benchmark, settings in places.items()]
        for source, places in found.items()
    }


def docstring(target: str) -> str | None:
    """Of the class that a dotted name means, read without importing it."""
    module, _, name = target.rpartition(".")
    path = ROOT / "src" / (module.replace(".", "/") + ".py")
    if not path.is_file():
        return None
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return ast.get_docstring(node)
    return None


def shown(value: object) -> str:
    return re.sub(r"'", "", str(value)).replace("None", "null").replace("True", "true").replace("False", "false")


if __name__ == "__main__":
    FILE.write_text(text())
