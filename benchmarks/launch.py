"""What it costs to plan a sweep, to be refused, and to hand a sweep to Slurm.

    OMP_NUM_THREADS=1 python benchmarks/launch.py expand    # 2,000 cells: 20 combinations of choices x 100 seeds
    OMP_NUM_THREADS=1 python benchmarks/launch.py refuse    # --help, --cfg job, a refusal; CPU seconds, median of 5
    OMP_NUM_THREADS=1 python benchmarks/launch.py submit    # 200 cells over two kinds of nodes; needs a Slurm

expand and refuse are CPU seconds; submit is wall seconds from the composed sweep to the last accepted job (its jobs
are cancelled afterwards, and never run anything). What cells cost that run is in launch_local.py.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from fourfold import composition
from fourfold.cli.sources import hydra
from fourfold.launch import main, slurm, through
from fourfold.launch.arrays import grouped, slurm_parameters
from fourfold.launch.cells import combinations, plan
from fourfold.launch.compose import Composer

CHOICES = ["benchmark=digits,fashion_mnist,mnist,llama,resnet", "method=finetune,random", "hardware=cpu,a100"]
ROOT = Path(__file__).resolve().parent.parent


def expand(share: bool, seeds: int) -> tuple[int, int, float]:
    """(cells, groups, CPU seconds) of expanding, composing, checking and grouping."""
    with hydra():
        loader: Any = GlobalHydra.instance().config_loader()
        master = loader.load_configuration(composition.CONFIG_NAME, [], run_mode=RunMode.MULTIRUN)
        begun = time.process_time()
        points = combinations([*CHOICES, f"seed=range(0,{seeds})"], None, loader)
        found = plan(points, Composer(loader, master, share), skip=True)
        groups = grouped(found.cells, lambda cell: slurm_parameters(cell.cell["hardware"]["launcher"], {}))  # type: ignore
        return len(found.cells), len(groups), time.process_time() - begun


def refuse(repeats: int) -> None:
    for words in (["--help"], ["--cfg", "job"], ["method=ewcc"], ["-m", "method=execute", "seed=0,1"]):
        seconds = [_cpu_seconds(words) for _ in range(repeats)]
        bounds = f"from {min(seconds):.2f} to {max(seconds):.2f}"
        print(f"  {' '.join(words):32} {statistics.median(seconds):.2f} CPU s ({bounds})")


def _cpu_seconds(words: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, str(ROOT / "run.py"), *words], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def submit(words: list[str]) -> float:
    """Wall seconds from the composed sweep to the last job that Slurm has accepted."""
    clock: dict[str, float] = {}

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            clock[name] = time.monotonic()
            return function(*arguments)

        return run

    through.launch_through = noted("composed", through.launch_through)
    slurm._watch = noted("submitted", lambda *_: None)
    with tempfile.TemporaryDirectory(dir=Path.home()) as output:
        os.environ["FOURFOLD_OUTPUT"] = output
        main.run_command_line(["-m", "hydra/launcher=submitit_slurm", "tracking=off", *words])
    return clock["submitted"] - clock["composed"]


def benchmark() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("expand", "refuse", "submit"))
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("overrides", nargs="*", help="further words for submit, e.g. hardware.launcher.mem_gb=1")
    options = parser.parse_args()
    if options.what == "expand":
        cells, groups, seconds = expand(True, options.seeds)
        print(f"{cells} cells in {groups} groups: {seconds:.1f} CPU s, {seconds / cells * 1000:.1f} ms a cell")
        few = max(1, options.seeds // 50)
        cells, _, seconds = expand(False, few)
        print(f"each composed in full ({cells} of them): {seconds / cells * 1000:.1f} ms a cell")
    elif options.what == "refuse":
        refuse(5)
    else:
        words = ["benchmark=digits", "hardware=a100,mi300", "hardware.stand_in=true", f"seed=range(0,{options.seeds})"]
        print(f"{2 * options.seeds} cells submitted in {submit([*words, *options.overrides]):.1f} s")


if __name__ == "__main__":
    benchmark()
