"""Whether the values of a cell have the types, ranges and choices that they must have; plain data only."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from fourfold import schema
from fourfold.errors import Refused, nearest


def check_whole(cell: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Nothing was taken away (~key) that the choices bring, but keys of a search space."""
    there = set(flatten(cell))
    gone = next((key for key in flatten(base) if key not in there and not key.startswith("method.search.")), None)
    if gone is None:
        return
    above = gone.rpartition(".")[0]
    while above:
        if above in there and not isinstance(select(cell, above), Mapping):
            raise Refused(f"{above}={select(cell, above)}: holds several values; name one of them, e.g. {gone}=...")
        above = above.rpartition(".")[0]
    raise Refused(f"{gone}: cannot be left out")


def check_types(cell: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Every value has the type of its schema or of its default, and lies within its range or choices."""
    top = {key: value for key, value in cell.items() if key != "hydra"}
    _merge(schema.Cell, top, "")
    for path, node_type in schema.COMMON.items():
        node = select(cell, path)
        if node is None or path == "hardware":  # which has no keys of its own, and is checked as a part of the cell
            continue
        names = node_type.__dataclass_fields__  # type: ignore[attr-defined]
        _merge(node_type, {key: value for key, value in node.items() if key in names}, path)
    for path in ("benchmark.model", "benchmark.data", "benchmark.augmentation", "setting", "method", "method.rule"):
        if select(cell, path):
            _check_own(select(cell, path), select(base, path) or {}, path)
    for key, choices in schema.CHOICES.items():
        value = select(cell, key)
        if value not in choices:
            raise Refused(f"{key}={value}: choose one of {', '.join(choices)}{nearest(str(value), choices)}")
    for key, (low, high) in schema.RANGES.items():
        value = select(cell, key)
        if value is not None and not low <= value <= high:
            raise Refused(f"{key}={value}: must be between {low:g} and {high:g}")
    if not cell["output_dir"].strip():
        raise Refused("output_dir=: names no folder")
    batch = cell["batch"]
    if batch not in ("default", "auto") and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
        raise Refused(f"batch={batch}: must be default, auto or a whole number above 0")
    workers = cell["workers"]
    if workers != "default" and (not isinstance(workers, int) or isinstance(workers, bool) or not 0 <= workers <= 1024):
        raise Refused(f"workers={workers}: must be default or a whole number from 0 to 1024")


def _merge(node_type: type, values: Mapping[str, Any], path: str) -> None:
    """Raises Refused for a key that the type does not have, or whose value it does not take."""
    told = {key: (node_type, key, json.dumps(value, default=str)) for key, value in values.items()}
    fresh = {key: value for key, value in values.items() if told[key] not in _fitting}
    if fresh:  # most values of a sweep are those of the cell before
        _merge_fresh(node_type, fresh, path)
        _fitting.update(told.values())


_fitting: set[tuple[type, str, str]] = set()


def _merge_fresh(node_type: type, values: Mapping[str, Any], path: str) -> None:
    fields = node_type.__dataclass_fields__  # type: ignore[attr-defined]
    values = {key: value for key, value in values.items() if key not in fields or fields[key].type is not Any}
    try:
        taken: Any = OmegaConf.merge(OmegaConf.structured(node_type), values)
    except OmegaConfBaseException as error:
        key = ".".join(part for part in (path, error.full_key or "") if part)
        reason = str(error).splitlines()[0].rstrip(".")
        if isinstance(error, ConfigKeyError):
            reason = "no such key"
        raise Refused(f"{key}={select({'': values}, '.' + (error.full_key or ''))}: {reason}") from error
    for key, value in values.items():
        if isinstance(value, str) and not isinstance(taken[key], str):  # OmegaConf would read '3' as 3
            raise Refused(f"{'.'.join(filter(None, (path, key)))}='{value}': is text; leave the quotes out")


def _check_own(node: Mapping[str, Any], base: Mapping[str, Any], path: str) -> None:
    """The keys that belong to one member: type from its default, range or choices from its ``limits``."""
    limits = node.get("limits") or {}
    common = getattr(schema.COMMON.get(path), "__dataclass_fields__", {})
    for key, value in node.items():
        if (key in common and key not in limits) or key in ("limits", "sizes", "pretrained", "_target_", "rule"):
            continue
        problem = _type_problem(value, base.get(key), limits.get(key))
        if problem:
            raise Refused(f"{path}.{key}={_shown(value)}: {problem}")


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def _type_problem(value: Any, default: Any, limit: Any) -> str | None:
    if limit == "any":
        return None
    if value is None:
        return None if default is None else f"must be {_type_name(default)}"
    if limit and isinstance(limit[0], list):
        return _list_problem(value, limit[0])
    if limit and all(isinstance(item, str) for item in limit):
        return None if value in limit else f"choose one of {', '.join(limit)}{nearest(str(value), limit)}"
    if limit:
        whole = isinstance(limit[0], int) and not isinstance(default, float)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            return f"must be {'a whole number' if whole else 'a number'}"
        if not limit[0] <= value <= limit[1]:
            return f"must be between {limit[0]:g} and {limit[1]:g}"
        return None
    if default is None:
        return None
    accepted: Any = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, accepted) or (isinstance(value, bool) and not isinstance(default, bool)):
        return f"must be {_type_name(default)}"
    if isinstance(default, list) and default:
        bad = next((item for item in value if _type_problem(item, default[0], None)), None)
        return None if bad is None else f"{bad} must be {_type_name(default[0])}"
    return None


def _list_problem(value: Any, of: list[Any]) -> str | None:
    """Of a list whose items are among some words, or of one or more whole numbers in the range of two."""
    if all(isinstance(word, str) for word in of):
        right = isinstance(value, list) and all(item in of for item in value)
        return None if right else f"must be a list of {', '.join(of)}"
    right = isinstance(value, list) and value != [] and all(_type_problem(item, None, of) is None for item in value)
    return None if right else f"must be a list of whole numbers between {of[0]} and {of[1]}, one or more"


def _type_name(default: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", list: "a list"}
    return names.get(type(default), "a group of values")


def flatten(node: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """The dotted keys of all nodes, mappings included."""
    for key, value in node.items():
        if key != "_target_":
            yield prefix + str(key)
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")


def select(node: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted key; None where there is none."""
    value: Any = node
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value
