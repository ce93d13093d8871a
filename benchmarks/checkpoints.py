"""What checkpoints cost: the seconds and bytes of one, by method, and the check that each step makes for one.

    OMP_NUM_THREADS=1 python benchmarks/checkpoints.py [--benchmark glyphs] [--scale smoke] [--methods finetune,replay]

Each method learns a class-incremental stream with a checkpoint every few steps; seconds are those that the cell itself
spent on them (state, serialisation, fsync, rename), by its own watch. The check is timed alone, a million times.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from fourfold.composition import compose, plain
from fourfold.experiment import run_cell
from fourfold.keeper import FileKeeper, Place
from fourfold.record import Record

METHODS = "finetune,replay,ewc,si,lwf,icarl,dgr"


def learned(method: str, options: argparse.Namespace, folder: Path) -> Record:
    """The record of a cell with a checkpoint every few steps."""
    setting = "task_incremental" if method in ("packnet", "hat", "pnn", "xdg") else "class_incremental"
    words = [f"benchmark={options.benchmark}", f"method={method}", f"setting={setting}", f"scale={options.scale}"]
    words += ["hardware=cpu", "until=steps", f"until.steps={options.steps}", f"checkpoint.steps={options.every}"]
    return run_cell(plain(compose([*words, "checkpoint.seconds=null", "progress=off"])), folder, words)


def check_seconds(count: int = 1_000_000) -> float:
    """The seconds of one look at whether a checkpoint is due."""
    keeper = FileKeeper.__new__(FileKeeper)
    keeper.place, keeper.last, keeper.seconds, keeper.steps = Place(), time.monotonic(), 1e9, 0
    begun = time.process_time()
    for _ in range(count):
        keeper.between_steps()
    return (time.process_time() - begun) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", default="glyphs")
    parser.add_argument("--scale", default="smoke")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"the check of a step: {check_seconds() * 1e6:.2f} microseconds of CPU")
    print(f"{options.benchmark}, scale={options.scale}: one checkpoint, and its share at one a minute")
    for method in options.methods.split(","):
        with tempfile.TemporaryDirectory() as folder:
            found = learned(method, options, Path(folder))
        if found.state != "done":
            print(f"  {method:<12} {found.state}: {found.message}")
            continue
        kept = found.measurements["checkpoints"]
        each = found.measurements["seconds"]["checkpoint"] / kept["count"]
        print(f"  {method:<12} {each * 1e3:8.1f} ms {kept['bytes'] / 1e6:8.2f} MB {each / 60:9.4%}")


if __name__ == "__main__":
    main()
