"""Writes docs/benchmarks.md from the configurations: what each workload is, and what Milabench's rows are made of.

    python docs/benchmarks.py                  counts parameters and FLOP anew, which takes many minutes
    python docs/benchmarks.py resnet llama     only of these; the others' counts are taken from the file as it is
    python docs/benchmarks.py --missing        only what has no count of FLOP yet (with names: of these)
    python docs/benchmarks.py --quick          none anew

Nothing is measured: full sizes are built and traced on the meta device.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fourfold.cli.sources import hydra
from fourfold.composition import checked_compose, options, plain
from fourfold.launch import suites
from fourfold.recipe import Recipe, resolve

FILE = Path(__file__).with_name("benchmarks.md")
OFFERS = ["fp32", "tf32", "bf16", "fp16", "fp8", "collectives"]
LITTLE: dict[str, dict[str, Any]] = {"samples": {"samples": 4}, "megabytes": {"megabytes": 0.1}}
Counts = Mapping[str, tuple[str, str]]  # "benchmark size": (parameters, FLOP a unit)

HEAD = """# Benchmarks

Made by `python docs/benchmarks.py` from `conf/`; do not edit. `python -m fourfold explain benchmark=NAME` says
more.

Full size, as it runs on an accelerator; the smoke size of each is the same code with smaller numbers. Parameters are
counted on the meta device; where a workload has several networks (a teacher, an autoencoder) all of them count. FLOP
a unit are those of one step of the benchmark's own method (training with its gradients; writing, where it is run and
not trained), traced on the meta device: products only, a multiplication and an addition are two, and Fourier
transforms are none. –: not counted (data that are not here, kernels, which count their own work). Weights are a seeded initialisation unless `weights=pretrained` is asked for;
text is real, and a token is a byte.

| benchmark | domain | model | parameters | unit | data | batch | precision | FLOP a unit |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
ROWS = """
## Milabench's rows

`python run.py -m suite=milabench hardware=h100` runs its 26 weighted benchmarks, `milabench_optional` the 16 optional
ones, `milabench_all` these and all that it has beside them, `smoke` a small cell for each that a processor can run.
Each row is overrides of the axes:

| row | weight | overrides |
| --- | --- | --- |
"""
DOMAINS = """
## Domains

Milabench chose its workloads from a survey of the papers of one research centre. The fields that its rows stand for,
what Fourfold has besides, and what neither has:

| domain | of Milabench's rows | benchmarks here |
| --- | --- | --- |
"""
# Fields of the survey and of its critics (recommendation, detection, ...) for which there is no workload.
GAPS = [
    ("reinforcement learning", "rows are declared (torchatari, brax, ppo, dqn) and await their workloads"),
    ("detection and segmentation", "no workload"),
    ("speech and audio generation", "no workload"),
    ("preference learning without a reward model (DPO), GRPO", "no workload; `method=rlhf` is PPO"),
    ("tabular and classical learning", "no workload"),
    ("state-space and recurrent models", "`rwkv` only"),
    ("molecule design by flows", "`gflownet` on a hyper-grid stands for it"),
]


def main(words: list[str]) -> int:
    names = [word for word in words if not word.startswith("--")]
    with hydra():
        rows = list(benchmarks())
        counts = counts_in(FILE.read_text()) if FILE.exists() else {}
        for key, cell, recipe in rows:
            known = counts.get(key, ("–", "–"))[1] != "–"
            if "--quick" in words or ("--missing" in words and known):
                continue
            if not names or key.split()[0] in names:
                counts[key] = counted(cell, recipe)
                print(key, *counts[key], sep="  ", flush=True)
                FILE.write_text(page(rows, counts))
        FILE.write_text(page(rows, counts))
    return 0


def page(rows: list[tuple[str, dict[str, Any], Recipe]], counts: Counts) -> str:
    """The whole file, within an initialised Hydra."""
    lines = [benchmark_row(key, cell, recipe, *counts.get(key, ("–", "–"))) for key, cell, recipe in rows]
    everything = suites.read("milabench_all")
    return "".join([HEAD, *lines, ROWS, *map(suite_row, everything), DOMAINS, *domain_rows(rows, everything)])


def benchmarks() -> Iterator[tuple[str, dict[str, Any], Recipe]]:
    """(name and size, configuration, recipe) of every benchmark at full size, and of its other sizes."""
    for name in options("benchmark"):
        cell = cell_of(name)
        default = cell["benchmark"]["default_size"]
        sizes = (cell["benchmark"]["model"] or {}).get("sizes") or {}
        for size in [default, *(size for size in sizes if size != default)]:
            sized = cell if size == default else cell_of(name, f"size={size}")
            yield " ".join(filter(None, (name, size))), sized, resolve(sized, True, OFFERS)


def cell_of(name: str, *words: str) -> dict[str, Any]:
    return plain(checked_compose([f"benchmark={name}", "hardware=auto", "scale=full", *words]))


def benchmark_row(key: str, cell: Mapping[str, Any], recipe: Recipe, parameters: str, flops: str) -> str:
    node, name = cell["benchmark"], key.split()[0]
    size = key.removeprefix(name).strip()
    model = str(recipe.model.get("_target_") or "").rpartition(".")[2] or "–"
    data = str(recipe.data.get("_target_") or "").rpartition(".")[2] or "none"
    shape = ", ".join(f"{k} {v:g}" for k, v in recipe.data.items() if isinstance(v, int | float) and k in SHAPE)
    said = f"{data} ({shape})" if shape else data
    cells = [name, node["domain"], f"{model} {size}".strip(), parameters, node["unit"], said, recipe.batch]
    return "| " + " | ".join(map(str, [*cells, recipe.precision, flops])) + " |\n"


SHAPE = ("image_size", "sequence", "frames", "mels", "tokens", "size", "largest", "rows", "tables")


def suite_row(row: suites.Row) -> str:
    said = f"awaits {row.awaits}" if row.awaits else f"`{' '.join(row.overrides)}`"
    return f"| {row.name} | {row.weight:g} | {said}{f' ({row.about})' if row.about else ''} |\n"


def domain_rows(rows: list[tuple[str, dict[str, Any], Recipe]], suite: list[suites.Row]) -> Iterator[str]:
    domain = {cell["benchmark"]["name"]: cell["benchmark"]["domain"] for _, cell, _ in rows}
    asked = {row.name: word[10:] for row in suite for word in row.overrides if word.startswith("benchmark=")}
    for name in dict.fromkeys(domain.values()):
        theirs = [row for row, benchmark in asked.items() if domain[benchmark] == name]
        ours = [benchmark for benchmark, own in domain.items() if own == name]
        yield f"| {name} | {', '.join(theirs) or '–'} | {', '.join(ours)} |\n"
    for name, why in GAPS:
        yield f"| {name} | {why} | – |\n"


def counted(cell: Mapping[str, Any], recipe: Recipe) -> tuple[str, str]:
    """(parameters, FLOP a unit) of the full size, on the meta device with little data."""
    from fourfold import tracing
    from fourfold.benchmarks import interface
    from fourfold.benchmarks.models import parameter_count
    from fourfold.errors import Unavailable
    from fourfold.settings import stream

    little = {key: value for name, values in LITTLE.items() if name in recipe.data for key, value in values.items()}
    small = replace(recipe, workers=0, batch=min(recipe.batch, 2), data={**recipe.data, **little})
    try:
        benchmark = interface.build(cell, small)
    except Unavailable:  # its data are not here
        return "–", "–"
    if "kernel" in cell["benchmark"]["offers"]:
        return "–", "–"
    parameters = number(parameter_count(benchmark.network(0, "meta")))
    work = tracing.work(cell, small, benchmark, stream.build(cell["setting"], benchmark, cell["seed"]))
    return parameters, "–" if not work["model"] else number(work["model"])


def number(value: float) -> str:
    """Three digits and a letter: 25.6 M, 8.03 G."""
    for power, letter in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {letter}"
    return f"{value:g}"


def counts_in(text: str) -> dict[str, tuple[str, str]]:
    """The counts of a page that was made before."""
    found = {}
    for line in text.partition(ROWS)[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 9 and re.fullmatch(r"[\w.]+", cells[0]) and cells[0] != "benchmark":
            size = cells[2].partition(" ")[2]
            found[" ".join(filter(None, (cells[0], size)))] = (cells[3], cells[8])
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
