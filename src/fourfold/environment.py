"""Where a cell ran: the machine, the libraries, the state of the code. Taken once, off the hot path."""

import importlib.metadata
import os
import platform
import socket
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "submitit",
    "mlflow",
    "transformers",
    "numpy",
)


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """What ``machine`` says, and what this process was given: threads and how long they spin, scheduler job."""
    return {
        **machine(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "spinning": os.environ.get("GOMP_SPINCOUNT"),
        "job": {
            key: os.environ[key]
            for key in ("SLURM_JOB_ID", "SLURMD_NODENAME", "SLURM_JOB_PARTITION")
            if key in os.environ
        },
    }


@lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """Host, processor, operating system, driver, library versions, git commit and dirtiness.

    It costs a tenth of a second, so cells that are forked find it done; the code they run was loaded then, too.
    """
    return {
        "host": socket.gethostname(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory": _memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "driver": _driver(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "git": _git(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory() -> int | None:
    import psutil

    return psutil.virtual_memory().total


def _driver() -> str | None:
    """The accelerator driver's own word on its version: NVIDIA's or AMD's kernel module; None without one."""
    nvidia = Path("/proc/driver/nvidia/version")
    amd = Path("/sys/module/amdgpu/version")
    for path in (nvidia, amd):
        if path.is_file():
            return path.read_text().splitlines()[0].strip()
    return None


def _git() -> dict[str, Any] | None:
    root = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def uncommitted(limit: int = 2_000_000) -> str | None:
    """How the code differs from its commit: a patch of ``limit`` bytes at most; None if it does not, or without git."""
    root = str(Path(__file__).resolve().parent)
    command = ["git", "-C", root, "diff", "HEAD", "--no-color", "--no-ext-diff"]
    try:
        patch = subprocess.run(command, capture_output=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return patch[:limit].decode(errors="replace") or None
