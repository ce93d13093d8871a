"""`status`, `logs`, `cancel`: sweeps from any shell, while they run or later."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fourfold.errors import Refused, nearest
from fourfold.launch import cancelling, leases, scheduler, view
from fourfold.launch.ending import read_log
from fourfold.launch.manifest import close_dead
from fourfold.launch.snapshot import is_packed, of_sweep, slurm_job
from fourfold.report.read import find_manifest, load_manifest, sweeps

POLL = 0.5
PATIENCE = 60.0  # seconds that what was asked to end has; a second request ends it at once
LOG_BYTES = 200_000
WIDTH = 100


def status(output_dir: Path, name: str | None, follow: bool) -> int:
    """Prints how far a sweep is; with ``follow`` until it has ended."""
    found = of_sweep(output_dir, name)
    width = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    if follow and found.ended is None:
        with view.live(lambda: of_sweep(output_dir, found.id), "auto"):
            while found.ended is None and found.launcher is not None:
                time.sleep(POLL)
                found = of_sweep(output_dir, found.id)
    print(f"sweep {found.id}  {found.command}".rstrip())
    print(view.text(found, width, color=sys.stdout.isatty()))
    return 0


def logs(output_dir: Path, cell: str, follow: bool) -> int:
    """Prints what a cell logged and printed; with ``follow`` what comes until it ends."""
    folder, entry, sweep = _find_cell(output_dir, cell)
    shown = False
    for path in _log_files(folder, entry, sweep):
        said = read_log(path, limit=LOG_BYTES)
        if said:
            print(f"==> {path} <==\n{said.rstrip()}")
            shown = True
    if not shown:
        print(f"{folder.name}: no log yet")
    if follow:
        _follow(folder, lambda: _log_files(folder, entry, sweep))
    return 0


def cancel(output_dir: Path, target: str) -> int:
    """Asks a sweep or a cell to end, and waits until it has; asked a second time, it ends at once."""
    names = [path.parent.name for path in sweeps(output_dir)]
    if any(name.startswith(target) for name in names):
        return _cancel_sweep(output_dir, find_manifest(output_dir, target).parent)
    folder, entry, sweep = _find_cell(output_dir, target)
    return _cancel_cell(folder, entry, sweep)


# --------------------------------------------------------------------------------------------- cancelling


def _cancel_sweep(output_dir: Path, folder: Path) -> int:
    content = load_manifest(folder)
    launcher = leases.holder(folder)
    open_ones = [entry for entry in content["cells"] if entry.get("state") is None]
    if launcher is not None and launcher.host == socket.gethostname():
        print(f"asking the launcher of {folder.name} (process {launcher.pid}) to end its {len(open_ones)} open cells")
        os.kill(launcher.pid, signal.SIGINT)  # the lock says that it is alive, and that it is this process
        return _wait(lambda: leases.holder(folder) is None, f"cancel {folder.name}")
    if launcher is not None:
        raise Refused(f"sweep {folder.name}: its launcher runs on {launcher.host}; cancel it there")
    held = [entry for entry in open_ones if leases.holder(output_dir / entry["folder"]) or slurm_job(entry)]
    if not held:
        print(f"sweep {folder.name}: nothing of it is running")
        return 0
    for entry in sorted(held, key=lambda entry: leases.holder(output_dir / entry["folder"]) is not None):
        _ask(output_dir / entry["folder"], entry, folder)  # what waits first, else it starts where a running one ends
    running = {slurm_job(entry) for entry in held if leases.holder(output_dir / entry["folder"])}
    scheduler.withdraw(sorted({str(slurm_job(entry)) for entry in held if is_packed(entry)} - running))
    status = _wait(lambda: not any(leases.holder(output_dir / entry["folder"]) for entry in held), folder.name)
    close_dead(output_dir)
    return status


def _cancel_cell(folder: Path, entry: dict[str, Any], sweep: Path) -> int:
    if leases.holder(folder) is None and not (slurm_job(entry) and entry.get("state") is None):
        what = entry.get("state") or "not started yet; cancel its sweep, or wait until it runs"
        raise Refused(f"{folder.name}: not running ({what})")
    _ask(folder, entry, sweep)
    return _wait(lambda: leases.holder(folder) is None, f"cancel {folder.name}")


def _ask(folder: Path, entry: dict[str, Any], sweep: Path) -> None:
    """Asks the process or the Slurm job of one cell, and no other, to end."""
    cancelling.mark(sweep, folder.name)
    if is_packed(entry):  # its job belongs to others, too, and looks at the marks
        print(f"asking Slurm job {slurm_job(entry)} to end {folder.name}")
        return
    holder = leases.holder(folder)
    if holder is not None and holder.host == socket.gethostname():
        print(f"asking {folder.name} (process {holder.pid}) to end")
        with suppress(ProcessLookupError):
            os.kill(holder.pid, signal.SIGINT)
        return
    job = slurm_job(entry) or (holder.job if holder else None)
    if job is None or not shutil.which("scancel"):
        where = f"on {holder.host}" if holder else "as a Slurm job"
        raise Refused(f"{folder.name}: runs {where}, which cannot be reached from here; cancel it there")
    print(f"asking Slurm to end {folder.name} (job {job})")
    nicely = ["--signal=INT"] if holder is not None else []
    subprocess.run(["scancel", *nicely, job], capture_output=True, check=False, timeout=60)


def _wait(over: Callable[[], bool], again: str) -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if over():
            print("ended")
            return 0
        time.sleep(POLL)
    print(f"still ending; python -m fourfold {again} once more ends it at once")
    return 1


# ------------------------------------------------------------------------------------------------- finding


def _find_cell(output_dir: Path, name: str) -> tuple[Path, dict[str, Any], Path]:
    """(folder, entry of the manifest, folder of the sweep) of a cell, from the latest sweep that has it.

    Raises Refused if no cell, or more than one, is called like that.
    """
    known: dict[str, tuple[Path, dict[str, Any], Path]] = {}
    for path in reversed(sweeps(output_dir)):
        with suppress(Refused):
            for entry in load_manifest(path.parent)["cells"]:
                known.setdefault(str(entry["cell"]), (output_dir / entry["folder"], entry, path.parent))
    found = [one for one in known if one == name] or [one for one in known if name in one]
    if len(found) > 1:
        shown = ", ".join(found[:3])
        raise Refused(f"{name}: {len(found)} cells are called like that: {shown}{', ...' if len(found) > 3 else ''}")
    if not found:
        raise Refused(f"{name}: no such cell or sweep in {output_dir}{nearest(name, known)}")
    return known[found[0]]


def _log_files(folder: Path, entry: dict[str, Any], sweep: Path) -> list[Path]:
    """The cell's own log, then what its processes printed, as far as it is known which they are."""
    holder = leases.holder(folder)
    jobs = {str(job) for job in (entry.get("job"), holder.job if holder else None) if job}
    printed = [path for job in sorted(jobs) for path in _printed(sweep / ".submitit", job)]
    return [folder / "cell.log", *printed]


def _printed(submitit: Path, job: str) -> Iterable[Path]:
    places = (submitit / job, submitit / job.split("_")[0])
    return [path for place in dict.fromkeys(places) for path in sorted(place.glob(f"{job}_*_log.*"))]


def _follow(folder: Path, files: Callable[[], list[Path]]) -> None:
    seen = {path: path.stat().st_size for path in files() if path.is_file()}
    while True:
        alive = leases.holder(folder) is not None
        for path in files():
            if path.is_file() and path.stat().st_size > seen.get(path, 0):
                with path.open("rb") as file:
                    file.seek(seen.get(path, 0))
                    sys.stdout.write(file.read().decode(errors="replace"))
                    seen[path] = file.tell()
        sys.stdout.flush()
        if not alive:
            return
        time.sleep(POLL)
