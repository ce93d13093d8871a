"""What words cannot tell of an episodic cell; nothing here imports torch."""

from collections.abc import Mapping
from math import isclose
from typing import Any

from fourfold.errors import Refused


def check(cell: Mapping[str, Any]) -> None:
    """Raises Refused, with the key, the value and what would do."""
    setting, benchmark = cell["setting"], cell["benchmark"]
    data = benchmark["data"] or {}
    modes = data.get("modes") or {}
    check_modes(modes, data)
    ways = setting["ways"] or data.get("ways")
    for name, mode in modes.items() or {benchmark["name"]: data}.items():
        classes = mode.get("classes")
        if ways and classes and ways > classes:
            raise Refused(f"setting.ways={ways}: {name} has {classes} classes, a context takes no more than that")
    train = data.get("train_classes")
    if ways and train and ways > train:
        raise Refused(f"setting.ways={ways}: only {train} classes are kept for pre-training")
    if cell["until"]["rule"] == "epochs" or cell["until"]["epochs"] is not None:
        raise Refused(f"until=epochs: setting {setting['name']} draws its stream as it goes; until.steps=N ends it")
    if cell["method"]["oracle"]:
        raise Refused(
            f"method={cell['method']['name']}: it is given all data at once, which setting {setting['name']} "
            "never has: it draws its data as it goes"
        )


def check_modes(modes: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Probabilities sum to 1; pictures are of one shape, or are to be made so."""
    if not modes:
        return
    chances = {name: mode["probability"] for name, mode in modes.items()}
    key = "benchmark.data.modes"
    for name, chance in chances.items():
        if not isinstance(chance, int | float) or isinstance(chance, bool) or not 0 <= chance <= 1:
            raise Refused(f"{key}.{name}.probability={chance}: must be between 0 and 1")
    if not isclose(sum(chances.values()), 1, abs_tol=1e-6):
        listed = " + ".join(f"{name} {chance:g}" for name, chance in chances.items())
        raise Refused(f"{key}: the probabilities {listed} sum to {sum(chances.values()):g}; they must sum to 1")
    shapes = {name: list(mode["shape"]) for name, mode in modes.items() if "shape" in mode}
    first = next(iter(shapes), "")
    other = next((name for name, shape in shapes.items() if shape != shapes[first]), None)
    if other and not data.get("convert"):
        raise Refused(
            f"{key}: {first} has pictures {shapes[first]} and {other} {shapes[other]}; "
            f"benchmark.data.convert={_typed(shapes[first])} makes them alike"
        )


def _typed(shape: list[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
