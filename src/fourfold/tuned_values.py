"""Which file of conf/tuned/ a cell's words ask for, where tuned values are for one value of the setting.

Hydra finds ``tuned/METHOD/BENCHMARK/SETTING.yaml`` by the names of members alone. Some tuned values are for one value
of a key of the setting, which their file states (``setting: {alpha: 0.98}``); files beside it whose names go on after
the setting's (``osaka_0.90.yaml``) have those for others. A setting that is another under a second name has its values.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from fourfold.errors import Refused

SAME = {"incremental": "class_incremental"}  # Sequoia's name -> the field's
KEY = "alpha"  # of a setting: what its tuned values may be for
NAMED = re.compile(r"tuned=(\w+)_(\d+(?:\.\d+)?)")  # tuned=osaka_omniglot_0.98


def with_tuned(words: Iterable[str], conf: Path) -> list[str]:
    """The words of one cell, and with them the one for its tuned values where these go by more than its members.

    ``setting.alpha=0.9`` gets the values that were tuned for 0.9, or ``tuned=off`` where there are only those for
    others. ``tuned=BENCHMARK_VALUE`` becomes the file of this method; any other ``tuned=`` is left alone.
    Raises Refused if the method has no such file.
    """
    found = list(words)
    chosen = {key: value for key, _, value in (word.partition("=") for word in found)}
    if "method" not in chosen or "setting" not in chosen:
        return found  # the usual ones have no such values
    method, setting = chosen["method"], chosen["setting"]
    for place, word in enumerate(found):
        if asked := NAMED.fullmatch(word):
            found[place] = f"tuned={_named(conf, method, setting, *asked.groups())}"
    if any(re.match(r"[+~]*tuned\b(?!/)", word) for word in found):
        return found
    benchmark = chosen.get("benchmark", "")
    if setting in SAME and (conf / "tuned" / method / benchmark / f"{SAME[setting]}.yaml").is_file():
        return [*found, f"tuned={method}/{benchmark}/{SAME[setting]}"]
    if f"setting.{KEY}" not in chosen:
        return found
    value = _number(chosen[f"setting.{KEY}"])
    files = stated(conf, method, benchmark, setting)
    if files and value is not None and files.get(value) != setting:
        found.append(f"tuned={method}/{benchmark}/{files[value]}" if value in files else "tuned=off")
    return found


@lru_cache(maxsize=4096)
def stated(conf: Path, method: str, benchmark: str, setting: str) -> dict[float, str]:
    """What there are tuned values for: the value of the setting's key -> the name of the file."""
    folder, found = conf / "tuned" / method / benchmark, dict[float, str]()
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if re.fullmatch(rf"{re.escape(setting)}(_[\d.]+)?", file.stem):
            content: dict[str, Any] = yaml.safe_load(file.read_text()) or {}
            value = (content.get("setting") or {}).get(KEY)
            if value is not None:
                found[float(value)] = file.stem
    return found


def _named(conf: Path, method: str, setting: str, benchmark: str, value: str) -> str:
    """METHOD/BENCHMARK/FILE of ``tuned=BENCHMARK_VALUE``."""
    files = stated(conf, method, benchmark, setting)
    if float(value) in files:
        return f"{method}/{benchmark}/{files[float(value)]}"
    known = [
        f"{folder.name}_{one:.2f}"
        for folder in sorted((conf / "tuned" / method).glob("*"))
        for one in sorted(stated(conf, method, folder.name, setting))
    ]
    raise Refused(
        f"tuned={benchmark}_{value}: no such tuned values; method {method} in setting {setting} has "
        f"{', '.join(known) or 'none'}"
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
