"""What is here to run on, what each missing thing costs, and how to get it."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.composition import compose, config_directory, plain
from fourfold.errors import FourfoldError, Refused, Unavailable
from fourfold.hardware.catalogue import catalogue
from fourfold.hardware.requests import gres_kinds

if TYPE_CHECKING:
    from fourfold.hardware.device import Device

# Optional libraries: module -> (what is missing without it, what gives it).
OPTIONAL = {
    "transformers": ("most of the language, vision and speech benchmarks", "pip install transformers"),
    "diffusers": ("benchmark=diffusion and flux", "pip install 'fourfold[diffusion]'"),
    "torch_geometric": ("benchmark=pna and dimenet", "pip install 'fourfold[graphs]'"),
    "peft": ("method=lora", "pip install 'fourfold[lora]'"),
    "optuna": ("tune.sampler=tpe", "pip install 'fourfold[tuning]'"),
    "avalanche": ("method=avalanche", "pip install 'fourfold[avalanche]'"),
    "torchvision": ("method=avalanche", "pip install 'fourfold[avalanche]', built for this torch"),
    "h5py": ("benchmark=osaka_synbols", "pip install 'fourfold[synbols]'"),
    "vllm": ("method=serving but with method.server=transformers", "pip install 'fourfold[serving]'"),
    "aiohttp": ("method=serving", "pip install 'fourfold[serving]'"),
    "pynvml": ("power and load of NVIDIA's devices", "pip install 'fourfold[nvidia]'"),
    "amdsmi": ("power and load of AMD's devices", "the amdsmi package of the ROCm installation, or fourfold[amd]"),
    "pyzes": ("power and load of Intel's devices", "pip install 'fourfold[intel]'"),
}


@dataclass(frozen=True)
class Finding:
    """``here`` False: what it costs is said in ``text``. Only ``needed`` findings decide the exit status."""

    what: str
    here: bool
    text: str
    needed: bool = False


def doctor(overrides: Sequence[str]) -> tuple[str, bool]:
    """(what was found, a line each; whether the chosen configuration could run).

    Raises Refused if the configuration makes no sense.
    """
    cell = plain(compose(list(overrides)))
    findings = [*devices(), *scheduler(), *storage(cell), *libraries()]
    if overrides:
        findings += chosen(cell, overrides)
    width = max(len(finding.what) for finding in findings)
    lines = [f"{'ok' if each.here else '--'}  {each.what:<{width}}  {each.text}" for each in findings]
    return "\n".join(lines), all(each.here for each in findings if each.needed)


def devices() -> list[Finding]:
    """The processor, the accelerator that torch finds, its driver, memory and precisions."""
    import torch

    from fourfold.environment import environment
    from fourfold.hardware.device import describe_here, present_backend
    from fourfold.hardware.vendor import vendor

    machine = environment()
    memory = f", {machine['memory'] / 1e9:.0f} GB" if machine["memory"] else ""
    found = [Finding("processor", True, f"{machine['processor']}, {machine['cores']} cores{memory}")]
    backend = present_backend()
    if backend == "cpu":
        text = (
            f"none that torch {torch.__version__} can use: cells run at smoke size here; mode=projected, or a scheduler"
        )
        return [*found, Finding("accelerator", False, text)]
    here = vendor(backend)
    try:
        size = here.memory(0)
        stated = f", {size / 1e9:.0f} GB each" if size else ""
        text = f"{describe_here()}{stated}; {', '.join(here.found_offers())}; {backend} {here.runtime() or ''}"
        return [
            *found,
            Finding("accelerator", True, text),
            Finding("driver", bool(machine["driver"]), _driver(machine)),
        ]
    except (RuntimeError, OSError, AttributeError) as error:
        return [*found, Finding("accelerator", False, f"{backend} is there, but its driver fails: {error}")]


def _driver(machine: dict) -> str:
    return machine["driver"] or "its version is not told: records will not hold it"


def scheduler() -> list[Finding]:
    """Slurm's partitions, and which targets of the catalogue their GRES are."""
    said = _sinfo()
    if isinstance(said, Finding):
        return [said]
    return [Finding("scheduler", True, line) for line in partitions(said)] or [
        Finding("scheduler", False, "Slurm answers, but shows no partition")
    ]


def _sinfo() -> str | Finding:
    """partition|nodes|GRES, a line each; or why it is not told."""
    if shutil.which("sinfo") is None:
        text = "no Slurm client on the PATH: hydra/launcher=submitit_slurm cannot submit from this machine"
        return Finding("scheduler", False, text)
    command = ["sinfo", "--noheader", "--format=%P|%D|%G"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return Finding("scheduler", False, f"sinfo fails: {reason[0] if reason else 'no message'}")


def _rows(said: str) -> list[tuple[str, str, str]]:
    """(partition, nodes, GRES) of each line that sinfo says."""
    lines = [line.split("|") for line in dict.fromkeys(said.split("\n")) if line.count("|") == 2]
    return [(partition.rstrip("*"), nodes, gres) for partition, nodes, gres in lines]


def partitions(said: str) -> list[str]:
    """A line for each partition that sinfo tells of, with the targets that ask for its GRES."""
    targets = catalogue(config_directory() / "hardware")
    asked = {name: gres_kinds(facts["launcher"].get("gres") or "") for name, facts in targets.items()}
    lines = []
    for partition, nodes, gres in _rows(said):
        kinds = set(gres_kinds(_bare(gres)))
        known = sorted(name for name, words in asked.items() if kinds & set(words))
        meant = f": hardware={','.join(known)}" if known else ""
        if kinds and not known:
            meant = ": no target of the catalogue asks for it; conf/hardware/local/ is the place for one"
        lines.append(f"partition {partition}, {nodes} nodes, {gres}{meant}")
    return lines


def _bare(gres: str) -> str:
    """Without the sockets in brackets."""
    return re.sub(r"\(.*?\)", "", gres)


def storage(cell: dict) -> list[Finding]:
    """Where data sets lie, where results go, and the tracking store."""
    from fourfold.tracking import resolve

    data, output = Path(cell["data_dir"]), Path(os.path.abspath(cell["output_dir"]))
    sets = sorted(path.name for path in data.iterdir()) if data.is_dir() else []
    missing = f"{data}: no such folder: real data sets cannot be read; data_dir= or FOURFOLD_DATA names one, "
    missing += "python -m fourfold prepare benchmark=NAME fills it"
    found = [Finding("data sets", bool(sets), f"{data}: {', '.join(sets)}" if sets else missing)]
    parent = next(path for path in (output, *output.parents) if path.exists())
    writable = parent.is_dir() and os.access(parent, os.W_OK)
    text = str(output) if writable else f"{output}: cannot be written; output_dir= or FOURFOLD_OUTPUT names another"
    found.append(Finding("results", writable, text, needed=True))
    try:
        where = resolve(cell["tracking"], output)
        found.append(Finding("tracking", True, where.uri if where else "off: records only"))
    except FourfoldError as error:
        found.append(Finding("tracking", False, str(error), needed=True))
    return found


def libraries() -> list[Finding]:
    """The optional libraries."""
    found = []
    for module, (cost, remedy) in OPTIONAL.items():
        here = importlib.util.find_spec(module) is not None
        found.append(Finding(module, here, "" if here else f"absent: without it no {cost}; {remedy}"))
    return found


def chosen(cell: dict, overrides: Sequence[str]) -> list[Finding]:
    """Whether what a configuration asks for is here: its device, or a scheduler that would have it; its data and
    libraries; room for its network. A projection needs no device."""
    what, scheduled = " ".join(overrides), any("launcher=submitit_slurm" in word for word in overrides)
    device = None
    if cell["mode"] == "projected":
        found = Finding("chosen", True, f"{what}: projected, needs no device", needed=True)
    elif scheduled:
        found = _scheduled(cell)
    else:
        found, device = _device(cell, what)
    return [found, _workload(cell, device)]


def _device(cell: dict, what: str) -> tuple[Finding, "Device | None"]:
    from fourfold.hardware.device import acquire

    try:
        device = acquire(cell["hardware"])
    except (Unavailable, Refused) as error:
        return Finding("chosen", False, str(error), needed=True), None
    return Finding("chosen", True, f"{what}: on {device.count} x {device.name}", needed=True), device


def _scheduled(cell: dict) -> Finding:
    """Whether a partition has the kind of device that the cell asks for. How many are free only the scheduler knows."""
    name, gres = cell["hardware"]["name"], cell["hardware"]["launcher"]["gres"]
    said = _sinfo()
    if isinstance(said, Finding):
        return Finding("chosen", False, f"hardware={name}: {said.text}", needed=True)
    wanted = set(gres_kinds(gres or ""))
    where = [partition for partition, _, offered in _rows(said) if wanted <= set(gres_kinds(_bare(offered)))]
    if not where:
        text = f"hardware={name}: no partition has gres={gres}; hardware.launcher.gres= takes a site's own word"
        return Finding("chosen", False, text, needed=True)
    return Finding("chosen", True, f"hardware={name}: partition {', '.join(where)}", needed=True)


def _workload(cell: dict, device: "Device | None") -> Finding:
    """Whether data and libraries of benchmark, method and tuning are here, and room for the network, which is built
    without memory; ``device``: None for one that is elsewhere, or absent."""
    from dataclasses import replace

    from fourfold import room, tuning
    from fourfold.benchmarks import interface
    from fourfold.methods.interface import build
    from fourfold.projection.cell import enough_data
    from fourfold.recipe import resolve, will_be_accelerator

    try:
        if device is None:
            recipe = resolve(cell, cell["mode"] == "projected" or bool(will_be_accelerator(cell)))
        else:
            recipe = resolve(cell, device.accelerator, list(device.offers))
        benchmark = interface.build(cell, replace(recipe, data=enough_data(recipe)))
        if "kernel" not in benchmark.facts:
            benchmark.network(cell["seed"], "meta")
        if cell["mode"] != "projected":
            room.check(cell, recipe, benchmark, device)
        build(cell["method"]).require()
        tuning.require(cell)
    except (Unavailable, Refused) as error:
        return Finding("workload", False, str(error), needed=True)
    words = f"benchmark {cell['benchmark']['name']}, method {cell['method']['name']}"
    return Finding("workload", True, f"{words}: data and libraries are here", needed=True)
