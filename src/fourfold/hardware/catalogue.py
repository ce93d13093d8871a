"""The catalogue of devices, conf/hardware, as plain facts, and what a device calls itself; without torch."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "fp8")


@lru_cache(maxsize=4)
def catalogue(folder: Path) -> dict[str, dict[str, Any]]:
    """Every target of a folder by name, a site's own under ``local/`` included; interpolations stay as written."""
    files = sorted(path for path in folder.rglob("*.yaml") if not path.name.startswith("_"))
    return {str(path.relative_to(folder).with_suffix("")): _facts(path, folder) for path in files}


def _facts(path: Path, folder: Path) -> dict[str, Any]:
    own = yaml.safe_load(path.read_text().replace("???", "null")) or {}
    facts: dict[str, Any] = {}
    for default in own.pop("defaults", ["_self_"]):
        if default == "_self_":
            facts = _over(facts, own)
        elif isinstance(default, str):
            name = default.partition("@")[0]
            base = folder / name.removeprefix("/hardware/") if name.startswith("/") else path.parent / name
            facts = _over(facts, _facts(base.with_suffix(".yaml"), folder))
    return facts


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return {key: _number(value) for key, value in merged.items()}


def _number(value: Any) -> Any:
    """YAML 1.1 takes 80e9 for a word."""
    if isinstance(value, str) and re.fullmatch(r"[0-9.]+e[0-9]+", value):
        return float(value)
    return value


def recognises(match: Iterable[str], name: str) -> bool:
    """Whether a device's own name holds one of the strings as whole words: H200 is not in GH200."""
    return any(re.search(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", name, re.IGNORECASE) for word in match)


def targets_of(name: str, folder: Path) -> list[str]:
    """The targets of the catalogue that a device of this name is."""
    return [target for target, facts in catalogue(folder).items() if recognises(facts["match"], name)]
