"""What this machine has for cells that run side by side: cores, accelerators, memory."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold.errors import DONE
from fourfold.launch.ending import readable

GROUP_MEMORY = Path("/sys/fs/cgroup")
FAMILY_RECORDS = 20  # of the latest cells alike, whose peaks are looked at
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SPINNING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # how long a thread of OpenMP waits awake, of GNU and of the standard
TURNS = "3000"  # not GNU's 300,000 (docs/decisions/0023)


@dataclass(frozen=True)
class Slot:
    """A place for one cell at a time. ``cores`` is empty where a cell may have all of them."""

    number: int
    cores: tuple[int, ...] = ()

    def environment(self) -> dict[str, str]:
        """As many threads as cores, where the user has not said how many."""
        if not self.cores or any(name in os.environ for name in THREADS):
            return {}
        return dict.fromkeys(THREADS, str(len(self.cores)))


def spin_briefly() -> None:
    """Lets threads of OpenMP that wait for each other sleep soon, unless the user says when; before torch is loaded.

    Else a step on all cores of a machine waits for whatever else runs there, a time slice of the scheduler at each
    matrix product.
    """
    if not any(name in os.environ for name in SPINNING):
        os.environ[SPINNING[0]] = TURNS


def make_slots(count: int) -> list[Slot]:
    """``count`` slots, the cores of this process shared out among them; with fewer cores than slots they share them."""
    if count == 1 or not hasattr(os, "sched_getaffinity"):
        return [Slot(number) for number in range(count)]
    cores = sorted(os.sched_getaffinity(0))
    if count >= len(cores):
        return [Slot(number, (cores[number % len(cores)],)) for number in range(count)]
    edges = [number * len(cores) // count for number in range(count + 1)]
    return [Slot(number, tuple(cores[edges[number] : edges[number + 1]])) for number in range(count)]


def visible_devices() -> list[str]:
    """The accelerators of this machine that this process may use, without importing torch; empty if none are found."""
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        if name in os.environ:
            return [word.strip() for word in os.environ[name].split(",") if word.strip()]
    nvidia = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    if nvidia:
        return sorted((name for name in nvidia if name.isdigit()), key=device_order)
    nodes = Path("/sys/class/kfd/kfd/topology/nodes").glob("*/properties")
    amd = [path for path in nodes if "simd_count 0\n" not in path.read_text()]
    return [str(index) for index in range(len(amd))]


def device_order(name: str) -> tuple[int, str]:
    return (int(name), name) if name.isdigit() else (1 << 30, name)


def free_memory() -> int:
    """Bytes that processes may still take: of the machine, and of the control group that we are in."""
    import psutil

    free = psutil.virtual_memory().available
    try:
        limit = (GROUP_MEMORY / "memory.max").read_text().strip()
        used = int((GROUP_MEMORY / "memory.current").read_text())
        cache = next(
            int(line.split()[1])
            for line in (GROUP_MEMORY / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
    except (OSError, ValueError, StopIteration):
        return free
    return free if limit == "max" else min(free, int(limit) - used + cache)


def held(pid: int) -> int:
    """Bytes that a process holds now; 0 if it is gone."""
    import psutil

    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


def memory_of_family(folder: Path, cell: Mapping[str, Any]) -> int | None:
    """Bytes that cells like this one (of whatever seed) have needed at most; None where no record tells.

    ``folder`` is the cell's own. Alike: the same benchmark, recipe and method, on the same hardware.
    """
    name, _, _ = folder.name.rpartition(f"-seed{cell['seed']}-")
    if not name or not folder.parent.is_dir():
        return None
    alike = [path for path in folder.parent.iterdir() if path.name.startswith(f"{name}-seed")]
    peaks = []
    for path in sorted(alike, key=lambda path: path.stat().st_mtime, reverse=True)[:FAMILY_RECORDS]:
        found = readable(path)
        if found is None or found.state != DONE or _family(found.config) != _family(cell):
            continue
        peak = (found.measurements.get("memory") or {}).get("host_peak")
        if peak:
            peaks.append(int(peak) * int(cell["hardware"]["devices"]))
    return max(peaks, default=None)


def _family(cell: Mapping[str, Any]) -> list[Any]:
    return [cell.get(key) for key in ("benchmark", "size", "batch", "precision", "scale", "method", "setting")]


def short_of_memory(need: int | None, running: Sequence[tuple[int | None, int]]) -> str | None:
    """Why a cell must wait for memory; None if it may start.

    ``need``: bytes that it will take, None if unknown; ``running``: (need, bytes held now) of each cell that runs. What
    these will still grow by is not free. With none running a cell starts whatever it needs: waiting would not help.
    """
    if need is None or not running:
        return None
    free = free_memory() - sum(max(0, (expected or 0) - now) for expected, now in running)
    return (
        None if free >= need else f"needs {need / 1e9:.1f} GB, as cells like it did; {max(free, 0) / 1e9:.1f} are free"
    )
