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
    every = modes or {benchmark["name"]: data}
    first = next(iter(every))
    for name in [first] if setting["modes"] == "first" else every:
        classes = every[name].get("classes")
        if ways and classes and ways > classes:
            raise Refused(f"setting.ways={ways}: {name} has {classes} classes, a context takes no more than that")
    fresh = setting["classes"] == "new" and (setting["modes"] == "first" or every[first].get("probability") != 0)
    check_kept(data, first, ways or 1 if fresh else 0, f"setting.classes=new setting.ways={ways}")
    train, validation = data.get("train_classes"), data.get("validation_classes")
    if ways and train and ways > train:
        raise Refused(f"setting.ways={ways}: only {train} classes are kept for pre-training")
    if ways and validation and ways > validation and cell["method"].get("pretraining"):
        raise Refused(
            f"benchmark.data.validation_classes={validation}: a task that judges pre-training takes "
            f"setting.ways={ways} classes; choose {ways} or more, or 0 to judge by none"
        )
    if cell["until"]["rule"] == "epochs" or cell["until"]["epochs"] is not None:
        raise Refused(f"until=epochs: setting {setting['name']} draws its stream as it goes; until.steps=N ends it")


def check_sequence(cell: Mapping[str, Any]) -> None:
    """The same of a sequence of classes: raises Refused where there are too few for it, or for pre-training."""
    contexts, data = cell["setting"]["contexts"], cell["benchmark"]["data"] or {}
    modes = data.get("modes") or {}
    check_modes(modes, data)
    check_kept(data, next(iter(modes), ""), contexts, f"setting.contexts={contexts}")
    train = data.get("train_classes")
    if train and contexts > train:
        raise Refused(f"setting.contexts={contexts}: only {train} classes are kept for pre-training; {train} at most")


def check_kept(data: Mapping[str, Any], first: str, needed: int, asked: str) -> None:
    """The ``first`` mode has the classes kept for pre-training, and ``needed`` others, which ``asked`` asks for."""
    classes = (data.get("modes") or {}).get(first, {}).get("classes")
    if classes is None:
        return
    train, validation = data.get("train_classes") or 0, data.get("validation_classes") or 0
    kept = f"benchmark.data.train_classes={train} benchmark.data.validation_classes={validation}"
    left = classes - train - validation
    if left < 0:
        raise Refused(f"{kept}: {first} has {classes} classes, no more than that together")
    if left < needed:
        raise Refused(
            f"{asked}: {first} has {left} classes beside those of pre-training ({kept}); "
            f"{needed} are left where these two are {max(classes - needed, 0)} together at most"
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
    convert = data.get("convert")
    if convert is not None and not is_shape(convert):
        raise Refused(
            f"benchmark.data.convert={_typed(convert) if isinstance(convert, list) else convert}: must be "
            "[channels,height,width], each 1 or more, [1,28,28] say, or null"
        )
    shapes = {name: list(mode["shape"]) for name, mode in modes.items() if "shape" in mode}
    first = next(iter(shapes), "")
    other = next((name for name, shape in shapes.items() if shape != shapes[first]), None)
    if other and convert is None:
        raise Refused(
            f"{key}: {first} has pictures {shapes[first]} and {other} {shapes[other]}; "
            f"benchmark.data.convert={_typed(shapes[first])} makes them alike"
        )


def is_shape(value: Any) -> bool:
    """Whether it is the shape [channels, height, width] of a picture."""
    whole = isinstance(value, list) and all(isinstance(side, int) and not isinstance(side, bool) for side in value)
    return whole and len(value) == 3 and min(value) >= 1


def _typed(shape: list[Any]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
