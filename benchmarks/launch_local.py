"""Short cells a minute on this machine: ours beside stock hydra-submitit-launcher, in one run.

    OMP_NUM_THREADS=1 python benchmarks/launch_local.py [--cells 100] [--stock-cells 100] [--rounds 1] [--keep FILE]

A cell is `benchmark=digits`, 20 steps, in a process of its own. Both launch the same program with the same
configuration, two cells at a time: ours by ``slots=2``; stock ``submitit_local`` starts all jobs of a batch at once, so
it gets batches of two (``hydra.sweeper.max_batch_size=2``, Hydra's basic sweeper). MLflow is off for both. Rounds
alternate which goes first. Wall time and processor time are those of the whole command, with all its processes.
``--keep`` adds each sweep's figures to a file and tells of all in it, so that a long comparison can be run in parts.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CELL = ["benchmark=digits", "hardware=cpu", "until.steps=20", "tracking=off"]
STOCK = [
    "hydra.launcher._target_=hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "~hydra.launcher.warm",
    "hydra.sweeper._target_=hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra.sweeper.max_batch_size=2",
]
KINDS = {"ours": ["slots=2"], "stock": STOCK, "cold": ["slots=2", "hydra.launcher.warm=false"]}


def launch(kind: str, cells: int) -> dict[str, Any]:
    """One sweep of so many cells in a folder of its own: wall and processor seconds, and processes seen."""
    folder = Path(tempfile.mkdtemp(prefix="fourfold-launch-"))
    words = ["-m", f"seed=range({cells})", *CELL, *KINDS[kind], f"output_dir={folder}"]
    begun = time.perf_counter()
    with (folder / "printed").open("wb") as printed:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, str(ROOT / "run.py"), *words],
            {**os.environ, "OMP_NUM_THREADS": "1"},
            file_actions=[(os.POSIX_SPAWN_DUP2, printed.fileno(), 1), (os.POSIX_SPAWN_DUP2, printed.fileno(), 2)],
        )
        _, status, used = os.wait4(pid, 0)
    wall = time.perf_counter() - begun
    done = [json.loads(path.read_text()) for path in folder.glob("cells/*/record.json")]
    if status or len(done) != cells or any(record["state"] != "done" for record in done):
        raise SystemExit((folder / "printed").read_text()[-3000:])
    found = {str(record["axes"]["seed"]): record["evaluations"][-1]["value"] for record in done}
    shutil.rmtree(folder)
    cpu = used.ru_utime + used.ru_stime
    return {"cells": cells, "wall": wall, "cpu": cpu, "load": os.getloadavg()[0], "accuracies": found}


def main() -> None:
    """Prints cells a minute of each, the ratio, and processor seconds a cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100)
    parser.add_argument("--stock-cells", type=int, help="default: as many; with fewer, stock pays more of its start")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kinds", default="ours,stock")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    results: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    if options.keep and options.keep.exists():
        results |= json.loads(options.keep.read_text())
    for _ in range(options.rounds):
        for kind in kinds if len(results[kinds[0]]) % 2 == 0 else kinds[::-1]:
            many = options.cells if kind == "ours" else options.stock_cells or options.cells
            found = launch(kind, many)
            results[kind].append(found)
            if options.keep:
                options.keep.write_text(json.dumps(results, indent=1))
            print(
                f"{kind:>6}: {many} cells in {found['wall']:.1f} s = {60 * many / found['wall']:.1f} a minute; "
                f"{found['cpu'] / many:.2f} CPU-s a cell; load {found['load']:.1f}",
                flush=True,
            )
    tell(results, kinds)


def tell(results: dict[str, list[dict[str, Any]]], kinds: list[str]) -> None:
    """The ratios over all sweeps."""
    cells = {kind: sum(one["cells"] for one in results[kind]) for kind in kinds}
    rates = {kind: 60 * cells[kind] / sum(one["wall"] for one in results[kind]) for kind in kinds}
    costs = {kind: sum(one["cpu"] for one in results[kind]) / cells[kind] for kind in kinds}
    for kind in kinds:
        print(f"{kind:>6}: {cells[kind]} cells, {rates[kind]:.1f} a minute, {costs[kind]:.2f} CPU-s a cell")
    for kind in kinds[1:]:
        print(
            f"ours : {kind} = {rates['ours'] / rates[kind]:.1f} in cells a minute, "
            f"{costs[kind] / costs['ours']:.1f} in processor time a cell"
        )
        pairs = [(one["accuracies"], other["accuracies"]) for one in results["ours"] for other in results[kind]]
        same = [ours[seed] == value for ours, theirs in pairs for seed, value in theirs.items()]
        print(f"the same accuracy, to the last bit, in {sum(same)} of {len(same)} cells that both ran")


if __name__ == "__main__":
    main()
