"""Whether there is room for a cell: a suite's row that the hardware cannot hold is neither a pass nor a failure."""

import os
from collections.abc import Mapping
from typing import Any


def lacking(cell: Mapping[str, Any], here: bool) -> str | None:
    """Why the hardware cannot hold the cell, in one line; None if it can, or if that is not known.

    ``here``: the cell would run on this machine, which is one node, and whose devices can be counted. Without, a
    scheduler knows; only what ``hardware.capacity`` states is known before (and is checked when a cell is composed).
    Absent hardware is another matter: such a cell ends as unavailable. A projection needs none.
    """
    if not here or cell["mode"] == "projected":
        return None
    hardware = cell["hardware"]
    name, devices, nodes = hardware["name"], hardware["devices"], hardware["nodes"]
    if nodes > 1:
        return f"hardware.nodes={nodes}: this machine is one node"
    there, what = _devices_here(hardware)
    if there and devices > there:
        return f"hardware.devices={devices}: hardware {name} is {there} {what} here"
    return None


def _devices_here(hardware: Mapping[str, Any]) -> tuple[int, str]:
    """(how many ranks find a place of their own on this machine, what that place is called)."""
    if hardware["backend"] != "cpu" and not hardware["stand_in"]:
        from fourfold.launch.slots import visible_devices

        found = len(visible_devices())
        if found or hardware["backend"] != "auto":
            return found, "devices"
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, "cores"
