"""How far the first losses of a cell move when its work stays the same, and when it does not.

    OMP_NUM_THREADS=1 python benchmarks/fingerprints.py measure FILE [--benchmarks resnet,bert] [--seconds 1200]
    python benchmarks/fingerprints.py table FILE

``measure`` trains each workload's smoke size for a few steps again and again: as it is (twice), with other threads and
kernels, in other precisions, and then with a mistake in it: another seed, a learning rate 1 % off, a layer left out,
the batches moved by one. FILE (CSV) gets a line a run, and what is in it is not run again. ``table`` says how
far each run's losses are from those of the same work, and what metrics/verification.py says of it.

Precisions that a processor lacks are imitated where they differ: operands of products (tf32), and their results
too (fp16), are rounded to ten bits of significand; operands to three (fp8, e4m3 without its narrow range).
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from fourfold.benchmarks.interface import Benchmark
from fourfold.composition import compose, plain
from fourfold.experience import Experience
from fourfold.experiment import run_cell
from fourfold.hardware.sharding import blocks
from fourfold.measure.flops import KINDS
from fourfold.metrics.verification import GROWTH, LENGTH, TOLERANCE, agreement
from fourfold.record import read_series

WORKLOADS = [
    "digits", "resnet", "resnet152", "convnext", "regnet", "focalnet", "bert", "t5", "reformer", "llama", "opt", "rwkv",
    "mistral", "llama4", "pythia", "llama method=lora", "pythia method=rlhf", "whisper", "dinov2", "vjepa", "diffusion",
    "whisper_transcribe method=finetune", "flux method=finetune", "llava", "pna", "dimenet", "dlrm", "fno", "gflownet",
]  # fmt: skip


class Rounded(TorchDispatchMode):
    """Products of operands, and to results, of fewer bits of significand: rounded to nearest, half away from zero."""

    def __init__(self, bits: int, results: bool) -> None:
        super().__init__()
        self.bits, self.results = bits, results

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket not in KINDS:
            return func(*args, **(kwargs or {}))
        out = func(*tree_map(self.rounded, args), **(kwargs or {}))
        return tree_map(self.rounded, out) if self.results else out

    def rounded(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        dropped = 23 - self.bits
        whole = (value.contiguous().view(torch.int32) + (1 << (dropped - 1))) & -(1 << dropped)
        return whole.view(torch.float32)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@contextmanager
def without_a_layer() -> Iterator[None]:
    """The last repeated block of the network passes its input on, where that has the shape of its output."""
    build, dropped = Benchmark.network, []

    def left_out(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        first = next((each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)), None)
        own = output[0] if isinstance(output, tuple) else output
        if first is None or not isinstance(own, Tensor) or first.shape != own.shape:
            return output
        dropped.append(module)
        return (first, *output[1:]) if isinstance(output, tuple) else first

    def network(self: Benchmark, *args: Any, **kwargs: Any) -> nn.Module:
        made = build(self, *args, **kwargs)
        candidates = blocks(made) or [each for each in made.modules() if isinstance(each, nn.Sequential)]
        if candidates:
            candidates[-1].register_forward_hook(left_out, with_kwargs=True)
        return made

    with mock.patch.object(Benchmark, "network", network):
        yield
    if not dropped:
        raise NotImplementedError("no block whose output is like its input")


@contextmanager
def batches_moved() -> Iterator[None]:
    own = Experience._batches
    with mock.patch.object(Experience, "_batches", lambda self, first: own(self, first + 1)):
        yield


SAME: dict[str, tuple[list[str], Callable[[], AbstractContextManager[Any]]]] = {
    "fp32": ([], nullcontext),
    "fp32 again": ([], nullcontext),
    "fp32, two threads": ([], lambda: threads(2)),
    "fp32, no oneDNN": ([], lambda: torch.backends.mkldnn.flags(enabled=False)),
    "fp32, plain attention": ([], lambda: sdpa_kernel([SDPBackend.MATH])),
    "tf32 (imitated)": ([], lambda: Rounded(10, results=False)),
    "fp16 (imitated)": ([], lambda: Rounded(10, results=True)),
    "bf16": (["precision=bf16"], nullcontext),
    "bf16, two threads": (["precision=bf16"], lambda: threads(2)),
    "bf16, no oneDNN": (["precision=bf16"], lambda: torch.backends.mkldnn.flags(enabled=False)),
    "bf16 (imitated)": ([], lambda: Rounded(7, results=True)),
    "fp8 (imitated)": ([], lambda: Rounded(3, results=False)),
}
# The same mistakes in two precisions.
MISTAKES: dict[str, tuple[list[str], Callable[[], AbstractContextManager[Any]]]] = {
    "another seed": (["seed=1"], nullcontext),
    "learning rate x 1.01": (["RATE"], nullcontext),
    "a layer left out": ([], without_a_layer),
    "batches moved by one": ([], batches_moved),
}
OTHER = {f"{precision}, {name}": ([*([f"precision={precision}"] if precision != "fp32" else []), *words], how)
         for precision in ("fp32", "bf16") for name, (words, how) in MISTAKES.items()}  # fmt: skip


def losses(workload: str, words: list[str], how: Callable[[], AbstractContextManager[Any]]) -> list[float]:
    """The first losses of a smoke cell."""
    asked = [f"benchmark={workload.split()[0]}", *workload.split()[1:], "hardware=cpu", "scale=smoke"]
    asked += [f"until.steps={LENGTH}", "tracking=off", "progress=off", "measure.period=null", "measure.idle=0"]
    if "RATE" in words:
        cell = plain(compose(asked))
        rate = cell["optimizer"]["learning_rate"] or cell["benchmark"]["recipe"]["smoke"]["optimizer"]["learning_rate"]
        words = [*(word for word in words if word != "RATE"), f"optimizer.learning_rate={1.01 * rate!r}"]
    with tempfile.TemporaryDirectory() as folder, how():
        record = run_cell(plain(compose([*asked, *words])), Path(folder), [])
        if record.state != "done":
            raise RuntimeError(record.message)
        return [float(value) for value in read_series(Path(folder))["loss"][:LENGTH]]


def measure(file: Path, workloads: list[str], seconds: float) -> None:
    """Runs what is not yet in the file, until the time is up."""
    torch.set_num_threads(1)
    begun = time.monotonic()
    there = {(line["workload"], line["run"]) for line in read(file)}
    if not there:
        file.write_text(",".join(HEAD) + "\n")
    for workload in workloads:
        for name, (words, how) in (SAME | OTHER).items():
            if (workload, name) in there:
                continue
            if time.monotonic() - begun > seconds:
                return
            try:
                found: list[str] = [f"{value:.9g}" for value in losses(workload, words, how)]
            except Exception as error:
                print(f"{workload}, {name}: {type(error).__name__}: {error}", flush=True)
                found = [""] * LENGTH
            with file.open("a", newline="") as lines:
                csv.writer(lines, lineterminator="\n").writerow([workload, name, *found])


HEAD = ["workload", "run", *(f"loss{step}" for step in range(LENGTH))]


def read(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []


def losses_of(file: Path) -> dict[str, dict[str, list[float]]]:
    """{workload: {run: its losses}} of the runs that there are."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in read(file):
        if line["loss0"]:
            found.setdefault(line["workload"], {})[line["run"]] = [float(line[name]) for name in HEAD[2:]]
    return found


def distances(one: list[float], other: list[float]) -> np.ndarray:
    """Of each step, as a share of the first loss."""
    a, b = np.asarray(one), np.asarray(other)
    return np.abs(a - b) / max(abs(a[0]), abs(b[0]))


def precision_of(run: str) -> str:
    return run.split(",")[0].split()[0]


def compared(run: str) -> list[str]:
    """The runs that this one is to be like: the plain one in fp32, and in its own precision where that was run."""
    own = precision_of(run)
    against = ["fp32", own] if run in SAME and own == "bf16" else [own if own in SAME else "fp32"]
    return [name for name in against if name != run]


def rounding(workload: str) -> tuple[float, float]:
    """(growth, rounding) that the benchmark and the method say of themselves, the larger of both."""
    cell = plain(compose([f"benchmark={workload.split()[0]}", *workload.split()[1:]]))
    growth, first = (
        max(cell[axis][key] for axis in ("benchmark", "method")) for key in ("rounding_growth", "rounding")
    )
    return float(growth), float(first)


def table(file: Path) -> None:
    """A line a run over all workloads: distances at the first step and over those that are compared, and verdicts."""
    found = losses_of(file)
    says = {workload: rounding(workload) for workload in found}
    print("| run | beside | workloads | first step: median, largest | ten steps: median, largest | the same |")
    print("| --- | --- | ---: | --- | --- | ---: |")
    for run in SAME | OTHER:
        for against in compared(run):
            pairs = {name: (runs[against], runs[run]) for name, runs in found.items() if {run, against} <= set(runs)}
            if not pairs:
                continue
            precisions = precision_of(against), precision_of(run)
            verdicts = {name: agreement(*pair, precisions, *says[name]).same for name, pair in pairs.items()}
            same = [name for name, verdict in verdicts.items() if verdict]
            every = {name: distances(*pair) for name, pair in pairs.items()}
            first = [float(own[0]) for own in every.values()]
            largest = {name: float(own.max()) for name, own in every.items()}
            worst = max(largest, key=lambda name: largest[name])
            print(
                f"| {run} | {against} | {len(pairs)} | {np.median(first):.0e}, {max(first):.0e} "
                f"| {np.median(list(largest.values())):.0e}, {largest[worst]:.0e} ({worst}) | {len(same)} |"
            )
            for verdict, said in (
                (None, "not compared"),
                (run in OTHER, "not caught" if run in OTHER else "different"),
            ):
                odd = [name for name, found_same in verdicts.items() if found_same is verdict]
                if 0 < len(odd) < len(pairs):
                    print(f"  {said}: {', '.join(odd)}")
    print(f"\ntolerances of the first step: {TOLERANCE}; (growth, rounding), where they are not the usual: ", end="")
    print(", ".join(f"{name} {value}" for name, value in says.items() if value != (GROWTH, 1.0)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("measure", "table"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--benchmarks", default=None)
    parser.add_argument("--seconds", type=float, default=1200)
    options = parser.parse_args()
    if options.command == "table":
        table(options.file)
    else:
        measure(options.file, options.benchmarks.split(",") if options.benchmarks else WORKLOADS, options.seconds)
