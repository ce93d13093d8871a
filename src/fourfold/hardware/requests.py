"""What a cell asks of a scheduler: it must be what its hardware says, and follows from the workload where it says
nothing. Nothing here imports torch.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fourfold.errors import Refused
from fourfold.recipe import resolve, will_be_accelerator

# gpu, gpu:2, gpu:a100:2 among the words of a gres: kind and count.
GPUS = re.compile(r"(?:^|,)gpu(?::([A-Za-z_][\w.-]*))?(?::(\d+|\$\{[^}]*\}))?(?=,|\(|$)")


def gres_kinds(gres: str) -> list[str]:
    """The kinds of GPU that a gres names."""
    return [kind for kind, _ in GPUS.findall(gres) if kind]


def check_request(hardware: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises Refused where ``hardware.launcher`` contradicts ``hardware``; ``names`` are those of the catalogue."""
    request = hardware["launcher"]
    for key, own in (("nodes", "nodes"), ("tasks_per_node", "devices")):
        if request[key] != hardware[own]:
            raise Refused(
                f"hardware.launcher.{key}={request[key]}: contradicts hardware.{own}={hardware[own]}, "
                "since each device has a task of its own; set the latter alone"
            )
    for kind, count in GPUS.findall(request["gres"] or ""):
        if int(count or 1) != hardware["devices"]:
            raise Refused(
                f"hardware.launcher.gres={request['gres']}: asks for {count or 1} a node, "
                f"but hardware.devices={hardware['devices']}"
            )
        if kind in names and not _same(kind, [hardware["name"], *hardware["match"]]):
            raise Refused(
                f"hardware.launcher.gres={request['gres']}: asks for another device than {hardware['name']}; choose "
                f"hardware={kind}, or leave the kind out: gpu:{hardware['devices']}"
            )


def request_of(cell: Mapping[str, Any]) -> dict[str, Any]:
    """``hardware.launcher``; where it leaves them null, with the cores of a task and the memory of a node (1e9 bytes)
    that the workload needs.

    Every process builds the whole network in its node's memory before a device has it; with strategy=fsdp only the
    first one does, on a node that is not known before. A projection builds none.
    """
    hardware, host = cell["hardware"], cell["hardware"]["host"]
    request = dict(hardware["launcher"])
    recipe = resolve(cell, will_be_accelerator(cell) is not False)
    workers = recipe.workers + int(recipe.model.get("workers") or 0)  # data_loading's are its own
    if request["cpus_per_task"] is None:
        request["cpus_per_task"] = host["cores"] + workers
    if request["mem_gb"] is None:
        size = recipe.size or ("default" if recipe.scale == "full" else None)
        parameters = cell["benchmark"]["parameters"].get(size, 0.0)
        processes = hardware["devices"] * (host["memory"] + workers * host["worker"])
        request["mem_gb"] = math.ceil((processes + _built_whole(cell) * parameters * host["parameter"]) / 1e9)
    return request


def _built_whole(cell: Mapping[str, Any]) -> int:
    """How many times a node has the whole network in its memory."""
    server = cell["method"].get("server")
    if cell["mode"] == "projected" or server == "vllm":  # which makes the weights on the devices
        return 0
    return 1 if server or cell["strategy"] == "fsdp" else int(cell["hardware"]["devices"])


def check_projection(hardware: Mapping[str, Any], batch: Any) -> None:
    """Raises Refused where a device states no rates to project from, and for a batch size that only trials find."""
    if batch == "auto":
        raise Refused(
            "batch=auto mode=projected: its trials need the device; give a number (a projection says the largest that "
            "fits: largest_batch in report --json)"
        )
    said = f"hardware={hardware['name']} mode=projected"
    if hardware["stand_in"]:
        raise Refused(f"{said} hardware.stand_in=true: a projection needs nothing to stand in")
    if not hardware["bandwidth"] or not any(hardware["peak"].values()):
        raise Refused(f"{said}: states no peak rates and bandwidth to project from; a device of the catalogue does")


def _same(kind: str, words: Iterable[str]) -> bool:
    def bare(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    return any(bare(kind) in bare(word) for word in words)
