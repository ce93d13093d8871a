"""Suites: named sweeps. Each row of conf/suite/NAME.yaml is overrides with a name and a weight.

A file holds ``rows: {NAME: {overrides: [...], weight: 1.0, about: ..., awaits: ...}}``, ``overrides`` common to all of
them, in ``defaults`` the suites whose rows it has besides, and in ``adapt`` words that are laid over those as the
shell's would be; ``~KEY`` takes away what such a row says of a key. ``score`` is the one that its report ends with.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob

from fourfold import composition
from fourfold.errors import Refused, nearest
from fourfold.launch.cells import WHOLE_SWEEP

GROUP = "suite"
FILE_KEYS = {"defaults", "adapt", "overrides", "rows", "score"}
SCORES = ("milabench", "milabench+1")  # those that need no reference
ROW_KEYS = {"overrides", "weight", "awaits", "about"}


@dataclass(frozen=True)
class Row:
    """One row of a suite. ``awaits``: why it cannot be run yet, if it cannot; ``score``: its suite's, if any."""

    suite: str
    name: str
    overrides: tuple[str, ...]
    weight: float = 1.0
    awaits: str | None = None
    about: str = ""
    score: str | None = None

    def label(self) -> dict[str, Any]:
        """What a cell's configuration, and so its record, says of the row that asked for it."""
        own = {"name": self.suite, "row": self.name, "weight": self.weight}
        return own if self.score is None else own | {"score": self.score}


def take_out(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the words that choose suites and rows, the others)."""
    ours = [word for word in words if re.match(r"\+{0,2}(suite|row)=", word)]
    return [word.lstrip("+") for word in ours], [word for word in words if word not in ours]


def chosen_rows(words: Sequence[str], loader: ConfigLoader) -> list[Row]:
    """The rows that ``suite=a,b row=c,d`` name, within an initialised Hydra; without ``row`` all of the suites.

    Raises Refused for a suite or a row that does not exist, and for a file that is not as it must be.
    """
    asked = {key: [word for word in words if word.startswith(f"{key}=")] for key in ("suite", "row")}
    for key, same in asked.items():
        if len(same) > 1:
            raise Refused(f"{' '.join(same)}: {key} is given twice; separate several by commas")
    if not asked["suite"]:
        raise Refused(f"{asked['row'][0]}: selects rows of a suite; suite=NAME is missing")
    known = composition.options(GROUP)
    rows: dict[tuple[str, str], Row] = {}
    for suite in _values(asked["suite"][0], loader, known):
        if suite not in known:
            raise Refused(f"suite={suite}: no such suite; choose one of {', '.join(known)}{nearest(suite, known)}")
        rows |= {(suite, row.name): row for row in read(suite)}
    if not asked["row"]:
        return list(rows.values())
    names = list(dict.fromkeys(row.name for row in rows.values()))
    wanted = _values(asked["row"][0], loader, names)
    for name in wanted:
        if name not in names:
            raise Refused(f"row={name}: no such row; choose of {', '.join(names)}{nearest(name, names)}")
    return [row for row in rows.values() if row.name in wanted]


def read(suite: str) -> list[Row]:
    """The rows of a suite, in the file's order, those of its ``defaults`` first. Raises Refused if it is malformed."""
    return list(_rows(suite).values())


def words_of(row: Row, shell: Iterable[str]) -> list[str]:
    """The row's words, then the shell's. Where both name the same key the shell's holds.

    A member that the shell chooses in place of the row's takes the values that the row gave its own with it
    (``method=ewc`` those of the row's ``method=replay method.memory=5``), but not what the row asks of whichever
    member there is (``hardware=a100`` leaves ``hardware.devices=8``).
    """
    shell = list(shell)
    theirs = {_key(word) for word in shell}
    replaced = {_key(word) for word in row.overrides} & theirs
    kept = [
        word
        for word in row.overrides
        if _key(word) not in theirs and not any(_key(word).startswith((f"{one}.", f"{one}/")) for one in replaced)
    ]
    return [*kept, *shell]


# ------------------------------------------------------------------------------------------------ files


def _rows(suite: str) -> dict[str, Row]:
    """The rows by name, those of the suites in ``defaults`` first and adapted."""
    content = composition.raw(f"{GROUP}/{suite}")
    stray = next((key for key in content if key not in FILE_KEYS), None)
    if stray is not None:
        raise Refused(f"suite {suite}: {stray}: no such key{nearest(str(stray), FILE_KEYS)}")
    rows, common = content.get("rows") or {}, content.get("overrides") or []
    if not isinstance(rows, Mapping):
        raise Refused(f"suite {suite}: rows: must be a mapping from the name of each row to what it is")
    adapt = content.get("adapt") or []
    _check_words(f"suite {suite}", "adapt", [word for word in adapt if not str(word).startswith("~")])
    score = content.get("score")
    if score is not None and score not in SCORES:
        raise Refused(f"suite {suite}: score={score}: choose one of {', '.join(SCORES)}")
    found: dict[str, Row] = {}
    for other in content.get("defaults") or ():
        if other != "_self_":
            found |= {name: adapted(row, suite, adapt) for name, row in _rows(str(other)).items()}
    own = {str(name): _row(suite, str(name), common, node) for name, node in rows.items()}
    return found | {name: replace(row, score=score) for name, row in own.items()}


def adapted(row: Row, suite: str, words: Sequence[str]) -> Row:
    """The row as another suite has it: without the keys of ``~KEY``, with the other words laid over its own."""
    gone = {_key(word) for word in words if word.startswith("~")}
    left = replace(row, overrides=tuple(word for word in row.overrides if _key(word) not in gone))
    laid = words_of(left, [word for word in words if not word.startswith("~")])
    return replace(row, suite=suite, overrides=tuple(laid))


def _row(suite: str, name: str, common: Any, node: Any) -> Row:
    where = f"suite {suite}, row {name}"
    node = node if node is not None else {}
    if not isinstance(node, Mapping):
        raise Refused(f"{where}: must be a mapping with overrides")
    stray = next((key for key in node if key not in ROW_KEYS), None)
    if stray is not None:
        raise Refused(f"{where}: {stray}: no such key{nearest(str(stray), ROW_KEYS)}")
    own = node.get("overrides") or []
    for words in (common, own):
        _check_words(where, "overrides", words)
    weight = node.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
        raise Refused(f"{where}: weight={weight}: must be a number, 0 or more")
    everyone = Row(suite, name, tuple(common))
    awaits = node.get("awaits")
    return Row(
        suite,
        name,
        tuple(words_of(everyone, own)),
        float(weight),
        None if awaits is None else str(awaits),
        str(node.get("about") or ""),
    )


def _check_words(where: str, key: str, words: Any) -> None:
    if not isinstance(words, list) or not all(isinstance(word, str) and "=" in word for word in words):
        raise Refused(f"{where}: {key}: must be a list of KEY=VALUE")
    for word in words:
        if _key(word).split(".")[0] in (*WHOLE_SWEEP, "hydra", GROUP):
            raise Refused(f"{where}: {word}: holds for the whole sweep; give it in the shell")


def _values(word: str, loader: ConfigLoader, known: Sequence[str]) -> list[str]:
    """The values that a word gives one after the other; globs choose from the known ones."""
    override = OverridesParser.create(config_loader=loader).parse_override(word)
    value = override.value()
    if isinstance(value, Glob):
        return list(value.filter(list(known)))
    if override.is_sweep_override():
        return list(dict.fromkeys(override.sweep_string_iterator()))
    return [override.get_value_element_as_str()]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~").partition("@")[0]
