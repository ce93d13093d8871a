"""What the partitions of a cluster offer, and what of a request none of them does."""

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

COLUMNS = ("partition", "longest", "gres", "features", "cores", "memory", "nodes")
SINFO = ["sinfo", "--noheader", "--exact", "--format=%R|%l|%G|%f|%c|%m|%D"]


@dataclass(frozen=True)
class Kind:
    """Nodes of one kind in a partition, and what each has. ``longest``: minutes that a job may take there, or None.

    gres: how many of each, by name and by name:type; memory: MiB.
    """

    partition: str
    longest: float | None = None
    gres: Mapping[str, int] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    cores: int = 1
    memory: int = 0
    nodes: int = 1

    def __str__(self) -> str:
        gres = [f"gres={','.join(f'{name}:{count}' for name, count in self.gres.items())}"] if self.gres else []
        features = [f"constraint={','.join(sorted(self.features))}"] if self.features else []
        return f"{self.nodes} x ({', '.join([*gres, *features, f'{self.cores} cores', f'{self.memory} MiB'])})"


def kinds() -> list[Kind]:
    """What there is; empty where Slurm does not tell."""
    try:
        answer = subprocess.run(SINFO, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.strip().split("|") for line in answer.stdout.splitlines()]
    return [_kind(dict(zip(COLUMNS, row, strict=True))) for row in rows if len(row) == len(COLUMNS)]


def _kind(row: Mapping[str, str]) -> Kind:
    return Kind(
        row["partition"],
        minutes(row["longest"]),
        counts(row["gres"]),
        frozenset(word for word in row["features"].split(",") if word not in ("", "(null)")),
        *(_first_number(row[key]) for key in ("cores", "memory", "nodes")),
    )


def _first_number(words: str) -> int:
    found = re.match(r"\d+", words)
    return int(found[0]) if found else 0


def minutes(words: str) -> float | None:
    """Slurm's days-hours:minutes:seconds, of which the front may be left out, in minutes; None for no limit."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", words)
    if found is None:
        return None
    days, hours, whole, seconds = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + whole + seconds / 60


def counts(gres: str) -> dict[str, int]:
    """gpu:a100:2(S:0-1),nic:1 as {gpu: 2, gpu:a100: 2, nic: 1}."""
    found: dict[str, int] = {}
    for word in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *rest = word.split(":")
        if not name:  # "(null)"
            continue
        count = int(rest[-1]) if rest and rest[-1].isdigit() else 1
        kind = [part for part in rest if not part.isdigit()]
        for key in dict.fromkeys([name, ":".join([name, *kind])]):
            found[key] = found.get(key, 0) + count
    return found


def offered(there: Sequence[Kind]) -> str:
    """One line: each partition with its kinds of nodes."""
    found: dict[str, list[str]] = {}
    for kind in there:
        found.setdefault(kind.partition, []).append(str(kind))
    return "; ".join(f"partition={name}: {', '.join(dict.fromkeys(nodes))}" for name, nodes in found.items())


def longest(asked: Mapping[str, Any], there: Sequence[Kind]) -> float | None:
    """Minutes that the partitions which could take the request (``lacking``) allow at most; None for no limit."""
    limits = [kind.longest for kind in _suitable(asked, there)]
    return None if not limits or None in limits else max(limit for limit in limits if limit is not None)


def lacking(asked: Mapping[str, Any], there: Sequence[Kind], names: Mapping[str, str]) -> str | None:
    """Why no partition takes this request: key, value and what is offered, in one line; None if one does.

    ``asked`` holds some of the keys of ``OFFERED``, and tasks_per_node; ``names``: what a user calls them. None, too,
    where nothing is known of what there is: then it is for Slurm to say.
    """
    if not there or _suitable(asked, there):
        return None
    keys = [key for key in OFFERED if asked.get(key) is not None]
    for key in keys:
        if not any(_offers(key, asked, kind) for kind in there):
            return f"{names[key]}={asked[key]}: no partition offers that; there is {_choices(key, there)}"
    words = ", ".join(f"{names[key]}={asked[key]}" for key in keys)
    return f"{words}: no partition offers these together; there is {offered(there)}"


def _suitable(asked: Mapping[str, Any], there: Sequence[Kind]) -> list[Kind]:
    keys = [key for key in OFFERED if asked.get(key) is not None]
    return [kind for kind in there if all(_offers(key, asked, kind) for key in keys)]


def _offers(key: str, asked: Mapping[str, Any], kind: Kind) -> bool:
    value, there = asked[key], OFFERED[key](kind)
    if key == "partition":
        return kind.partition in str(value).split(",")
    if key == "gres":
        return all(kind.gres.get(name, 0) >= count for name, count in _wanted(str(value)))
    if key == "constraint":
        return _has_features(str(value), kind)
    return bool(value * (asked.get("tasks_per_node", 1) if key == "cpus_per_task" else 1) <= there)


# What a kind of nodes offers of each key: words, or the most that may be asked for.
OFFERED: dict[str, Callable[[Kind], Any]] = {
    "partition": lambda kind: [kind.partition],
    "gres": lambda kind: [f"{name}:{count}" for name, count in kind.gres.items()],
    "constraint": lambda kind: sorted(kind.features),
    "cpus_per_task": lambda kind: kind.cores,
    "mem_gb": lambda kind: kind.memory / 1024,
    "nodes": lambda kind: kind.nodes,
    "timeout_min": lambda kind: float("inf") if kind.longest is None else kind.longest,
}


def _choices(key: str, there: Sequence[Kind]) -> str:
    """What is offered of one key."""
    values = [OFFERED[key](kind) for kind in there]
    if isinstance(values[0], list):
        return ", ".join(dict.fromkeys(word for words in values for word in words)) or "none"
    return f"{max(values):.4g} at most" + (" on a node" if key in ("cpus_per_task", "mem_gb") else "")


def _wanted(gres: str) -> list[tuple[str, int]]:
    """(name or name:type, how many) of each word."""
    found = []
    for word in gres.removeprefix("gres/").split(","):
        name, _, last = word.rpartition(":")
        found.append((name, int(last)) if name and last.isdigit() else (word, 1))
    return found


def _has_features(asked: str, kind: Kind) -> bool:
    """a&b, a|b; what Slurm knows besides (counts, parentheses, brackets) is left to it."""
    if not re.fullmatch(r"[\w.:/-]+([&|,][\w.:/-]+)*", asked):
        return True
    return any(set(re.split("[&,]", part)) <= kind.features for part in asked.split("|"))
