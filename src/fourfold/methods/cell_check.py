"""What a method asks of the values of a cell (``check`` in its YAML); nothing here imports torch."""

from collections.abc import Mapping
from typing import Any

from fourfold.errors import Refused

SEQUENCES = "benchmark/model=mlp, conv, conv4, lenet or simple_vgg"  # and whatever else is no more than that


def inputs_from_0_to_1(cell: Mapping[str, Any]) -> None:
    """Raises Refused where values of the data take its inputs out of [0, 1], in which the method draws them."""
    data, method = cell["benchmark"]["data"] or {}, cell["method"]["name"]
    for key, usual in (("normalise", None), ("published_scale", False)):
        if data.get(key, usual) != usual:
            shown = str(data[key]).replace(" ", "")
            raise Refused(
                f"benchmark.data.{key}={shown}: method {method} draws inputs in [0, 1], and so must the data be; "
                f"leave {key}={str(usual).lower().replace('none', 'null')}"
            )


def samples_as_they_are(cell: Mapping[str, Any]) -> None:
    """Raises Refused where samples change as they are drawn, and the method knows those that it holds out by them."""
    augmentation, held_out = cell["benchmark"].get("augmentation") or {}, cell["method"]["held_out"]
    if held_out and augmentation.get("_target_"):
        name = str(augmentation["_target_"]).rpartition(".")[2]
        raise Refused(
            f"benchmark/augmentation={name}: method {cell['method']['name']} tells samples held out by their pixels, "
            f"which it changes; choose benchmark/augmentation=none or method.held_out=0 (now {held_out})"
        )


def outputs_of_their_own(cell: Mapping[str, Any]) -> None:
    """Raises Refused where contexts share their outputs, and the method learns what is new by outputs that are new."""
    setting, method = cell["setting"], cell["method"]["name"]
    if "shared_outputs" in setting["grants"]:
        raise Refused(
            f"method {method} keeps each output as it was once its class is past, and in setting {setting['name']} all "
            "contexts share theirs; choose a setting with new classes: class_incremental, task_incremental"
        )


def plain_sequence(cell: Mapping[str, Any]) -> None:
    """Raises Refused where the model tells of connections around its layers, or that none of them is hidden."""
    model, method = cell["benchmark"]["model"] or {}, cell["method"]["name"]
    if model.get("branches"):
        name = str(model["_target_"]).rpartition(".")[2]
        raise Refused(
            f"method {method} needs a plain sequence of layers, and {name} has other connections: choose {SEQUENCES}"
        )
    if model.get("hidden") == []:
        raise Refused(
            f"benchmark.model.hidden=[]: method {method} works on hidden layers; name the units of one, [400] say"
        )
