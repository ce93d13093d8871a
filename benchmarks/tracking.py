"""What MLflow costs: a cell on its own path, and the launcher that writes for all of them; and that nothing is lost.

    OMP_NUM_THREADS=1 python benchmarks/tracking.py [--cells 64] [--points 1000] [--json FILE]

A cell writes its record and its series, and no more: the first figure is the processor time of that beside the whole
time of a cell of so many steps. Then a sweep of so many cells, each with that record, is written to a fresh SQLite
store, as a launcher does it at the end, and every point of every curve is read back and compared.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.composition import cell_name, compose, plain
from fourfold.experiment import run_cell
from fourfold.launch.manifest import Manifest
from fourfold.record import Record, read, read_series
from fourfold.tracking import log_sweep, prepare
from fourfold.tracking.runs import cell_run
from fourfold.tracking.store import open_store, resolve

TRACKING = {"kind": "local", "uri": None, "experiment": "fourfold"}


def one_cell(folder: Path, steps: int) -> tuple[Record, dict[str, Any]]:
    """A real cell; its record, and the processor seconds of all of it and of writing what it leaves."""
    cell = plain(compose(["benchmark=digits", "hardware=cpu", f"until.steps={steps}", "progress=off"]))
    place = folder / "alone" / cell_name(cell)
    run_cell(cell, place, [])  # imports, caches
    begun, begun_wall = time.process_time(), time.perf_counter()
    record = run_cell(cell, place, [])
    whole, whole_wall = time.process_time() - begun, time.perf_counter() - begun_wall
    assert record.state == "done", record.message
    series = read_series(place)
    writes = []
    for _ in range(20):
        begun, begun_wall = time.process_time(), time.perf_counter()
        record.write(place, series)
        writes.append((time.process_time() - begun, time.perf_counter() - begun_wall))
    cpu, wall = (sorted(one)[len(writes) // 2] for one in zip(*writes, strict=True))
    facts = {"cell_cpu": whole, "cell_wall": whole_wall, "write_cpu": cpu, "write_wall": wall}
    return record, {**facts, "share_cpu": cpu / whole, "share_wall": wall / whole_wall}


def sweep_of(record: Record, series: dict[str, Any], folder: Path, cells: int) -> Manifest:
    """A finished sweep of cells with other seeds, on disk."""
    entries = []
    for number in range(cells):
        name = f"{record.cell.rpartition('-seed')[0]}-seed{number}-{number:012x}"
        shifted = {**series, "loss": np.asarray(series["loss"]) + number}
        replace(record, cell=name, axes={**record.axes, "seed": number}).write(folder / "cells" / name, shifted)
        entries.append({"index": number, "cell": name, "folder": f"cells/{name}", "overrides": [], "state": "done"})
    manifest = Manifest(folder, "2026-01-01_00-00-00-000000", ["run.py", "-m"], entries)
    manifest.save()
    manifest.content["ended"] = time.time()
    return manifest


def lost(folder: Path) -> tuple[int, int]:
    """(points expected, points missing or different in the store), of all curves of all cells."""
    where = resolve(TRACKING, folder)
    assert where is not None
    store = open_store(where)
    runs = store.client.search_runs([store.experiment_id], "tags.kind = 'cell'", max_results=5000)
    by_cell = {run.data.tags["cell"]: run for run in runs}
    expected = missing = 0
    for place in sorted((folder / "cells").iterdir()):
        wanted: dict[str, dict[int, float]] = {}
        for point in cell_run(read(place), read_series(place), None).points:
            wanted.setdefault(point.key, {})[point.step] = point.value
        for key, values in wanted.items():
            history = store.client.get_metric_history(by_cell[place.name].info.run_id, key)
            found = {metric.step: metric.value for metric in history}
            expected += len(values)
            missing += sum(1 for step, value in values.items() if found.get(step) != value)
    return expected, missing


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fourfold-tracking-"))
    record, facts = one_cell(folder, options.points)
    print(f"a cell of {options.points} steps: {facts['cell_cpu']:.2f} CPU-s; to write: {facts['write_cpu']:.4f} CPU-s")
    print(f"  = {facts['share_cpu']:.2%} of its processor time, {facts['share_wall']:.2%} of its wall time")
    manifest = sweep_of(record, read_series(folder / "alone" / record.cell), folder, options.cells)
    prepare(TRACKING, folder)
    folders = [folder / "cells" / entry["cell"] for entry in manifest.content["cells"]]
    for name in ("first", "again"):
        begun, begun_wall = time.process_time(), time.perf_counter()
        log_sweep(TRACKING, folder, manifest.content, folders)
        facts[f"{name}_cpu"], facts[f"{name}_wall"] = time.process_time() - begun, time.perf_counter() - begun_wall
    facts["points"], facts["missing"] = lost(folder)
    print(
        f"the launcher, {options.cells} cells: {facts['first_cpu'] / options.cells:.3f} CPU-s a cell "
        f"({facts['first_wall']:.1f} s in all); again, with nothing to write: {facts['again_cpu']:.2f} CPU-s"
    )
    print(f"points of curves and figures: {facts['points']}, of which missing or different: {facts['missing']}")
    shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
