"""Writes runs to an open store, each exactly once. The caller holds the writers' lock."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fourfold.errors import FourfoldError
from fourfold.record import RECORD_FILE, Record, read, read_series
from fourfold.report.angles import angle_curves
from fourfold.report.crosstab import pivot_text, pivots
from fourfold.report.curves import adaptation_picture, adaptation_text, panels
from fourfold.report.heat import heat_map
from fourfold.report.read import read_sweep
from fourfold.tracking.locks import TrackingError
from fourfold.tracking.runs import Run, cell_run, seconds_of, sweep_run
from fourfold.tracking.store import Store, guarded

log = logging.getLogger(__name__)

# What MLflow takes in one call.
METRICS_A_CALL, PARAMS_A_CALL = 1000, 100
LOG_FILE, MANIFEST_FILE, CONFIG_FILE = "cell.log", "sweep.json", "config.yaml"
PATCH_FILE = "uncommitted.patch"
HEAT_FILE, ANGLES_FILE, PIVOT_FILE = "accuracy_matrix.png", "angles.png", "method_x_setting.txt"
ADAPTATION_FILE, ADAPTATION_TEXT_FILE = "adaptation.png", "adaptation.txt"
PIVOT_WIDTH = 160
# Only the end of a longer log goes along: that is where the reason is.
LOG_BYTES = 2_000_000
PARENT_TAG = "mlflow.parentRunId"
# The digest of the record that a run was made from; written last, so a run without it is half a run.
DIGEST_TAG = "record_digest"
# All sweeps that hold the cell of a run with that record.
SWEEPS_TAG = "sweeps"


def write_sweep(store: Store, output_dir: Path, sweep: Mapping[str, Any], cells: Iterable[Path]) -> dict[str, int]:
    """A parent run, a child for each cell with a record; returns how many were written and how many were there.

    Raises TrackingError if the store fails.
    """
    records = dict(_records(cells, finished_only=sweep.get("ended") is None))
    counts = {"written": 0, "kept": 0}
    with _translating(output_dir):
        known = _existing(store, f"tags.sweep = '{_quoted(sweep['id'])}'")
        parent = _write_parent(store, output_dir, sweep, list(records.values()), known.pop("", []))
        others = _others(store, [record for record in records.values() if record.cell not in known])
        for folder, record in records.items():
            changed = _write_cell(store, folder, record, sweep, parent, known.get(record.cell, []), others)
            counts["written" if changed else "kept"] += 1
        _remove_attempts(store, records.values())
    return counts


def write_everything(store: Store, output_dir: Path) -> dict[str, int]:
    """All sweeps on disk, then the cells that belong to none."""
    counts = {"sweeps": 0, "written": 0, "kept": 0}
    swept: set[Path] = set()
    for manifest in sorted((output_dir / "sweeps").glob(f"*/{MANIFEST_FILE}")):
        sweep = _manifest(manifest)
        if sweep is None:
            continue
        cells = [output_dir / cell["folder"] for cell in sweep["cells"]]
        for key, value in write_sweep(store, output_dir, sweep, cells).items():
            counts[key] += value
        counts["sweeps"] += 1
        swept.update(cell.resolve() for cell in cells)
    alone = [folder for folder in sorted((output_dir / "cells").glob("*")) if folder.resolve() not in swept]
    for key, value in write_single(store, output_dir, alone).items():
        counts[key] += value
    return counts


def write_single(store: Store, output_dir: Path, cells: Iterable[Path]) -> dict[str, int]:
    """Cells that were run by themselves: runs without a parent."""
    counts = {"written": 0, "kept": 0}
    with _translating(output_dir):
        for folder, record in _records(cells, finished_only=True):
            known = _existing(store, f"tags.cell = '{_quoted(record.cell)}'")
            alone = [run for run in known.get(record.cell, []) if "sweep" not in run.data.tags]
            changed = _write_cell(store, folder, record, None, None, alone)
            counts["written" if changed else "kept"] += 1
    return counts


# -------------------------------------------------------------------------------------------- one run


def _write_parent(
    store: Store, output_dir: Path, sweep: Mapping[str, Any], records: list[Record], known: list[Any]
) -> str:
    """The sweep's own run, brought up to date in place: its id must stay, the children point to it."""
    run = sweep_run(sweep, records)
    client = store.client
    if known:
        run_id = known[0].info.run_id
        changed = {key: value for key, value in run.tags.items() if known[0].data.tags.get(key) != value}
        if not changed and known[0].info.status == run.status:
            return run_id
        _log(store, run_id, tags=changed)
    else:
        created = client.create_run(store.experiment_id, _milliseconds(run.started), run.tags, run.name)
        run_id = created.info.run_id
    folder = output_dir / "sweeps" / str(sweep["id"])
    for name in (MANIFEST_FILE, PATCH_FILE):
        if (folder / name).is_file():
            client.log_artifact(run_id, str(folder / name))
    if (folder / MANIFEST_FILE).is_file():
        _log_pivot(store, run_id, output_dir, str(sweep["id"]))
        _log_adaptation(store, run_id, output_dir, str(sweep["id"]))
    if run.ended is not None:
        client.set_terminated(run_id, run.status, _milliseconds(run.ended))
    return run_id


def _log_pivot(store: Store, run_id: str, output_dir: Path, sweep: str) -> None:
    """The table of methods and settings, where the sweep has accuracies of several of either."""
    try:
        found = read_sweep(output_dir, sweep)
        tables = pivots(found, ("method", "setting"), "average_accuracy")
    except FourfoldError:  # no accuracies: nothing to show
        return
    if any(len(table.rows) + len(table.columns) > 2 for table in tables):
        text = pivot_text(found, ("method", "setting"), "average_accuracy", PIVOT_WIDTH)
        store.client.log_text(run_id, text + "\n", PIVOT_FILE)


def _log_adaptation(store: Store, run_id: str, output_dir: Path, sweep: str) -> None:
    """The curves of adaptation with their figures, where contexts switched in the sweep's streams."""
    try:
        found = panels(read_sweep(output_dir, sweep).cells)
    except FourfoldError:  # no such stream
        return
    with tempfile.TemporaryDirectory() as temporary:
        picture = Path(temporary) / ADAPTATION_FILE
        adaptation_picture(found, picture)
        store.client.log_artifact(run_id, str(picture))
    store.client.log_text(run_id, adaptation_text(found, PIVOT_WIDTH) + "\n", ADAPTATION_TEXT_FILE)


def _others(store: Store, records: Sequence[Record]) -> dict[str, Any]:
    """The whole runs that other sweeps may have written of these records, by digest."""
    if not records:
        return {}
    since = _milliseconds(min(record.started for record in records)) - 1
    found = _existing(store, f"tags.kind = 'cell' and attributes.start_time >= {since}")
    runs = [run for cell in {record.cell for record in records} for run in found.get(cell, [])]
    return {run.data.tags[DIGEST_TAG]: run for run in runs if DIGEST_TAG in run.data.tags}


def _remove_attempts(store: Store, records: Iterable[Record]) -> None:
    """An attempt that did not get done gives way (to MLflow's trash) to the run of the record that replaced it."""
    unfinished = _existing(store, "tags.kind = 'cell' and tags.state != 'done'")
    for record in records:
        for run in unfinished.get(record.cell, []):
            if run.info.start_time < _milliseconds(record.started):
                store.client.delete_run(run.info.run_id)


def _adopt(store: Store, run: Any, sweep: Mapping[str, Any], parent: str | None) -> None:
    """One record has one run. Of several sweeps that hold its cell, the latest has it as a child."""
    if parent is not None and run.data.tags.get("sweep", "") < str(sweep["id"]):  # ids begin with the time
        earlier = run.data.tags.get(SWEEPS_TAG) or run.data.tags.get("sweep")
        held = ", ".join(filter(None, (earlier, str(sweep["id"]))))
        tags = {"sweep": str(sweep["id"]), PARENT_TAG: parent, SWEEPS_TAG: held}
        _log(store, run.info.run_id, tags=tags)


def _write_cell(
    store: Store,
    folder: Path,
    record: Record,
    sweep: Mapping[str, Any] | None,
    parent: str | None,
    known: list[Any],
    others: Mapping[str, Any] | None = None,
) -> bool:
    """Whether a run was written: not if one of this very record is there, or of an earlier one of this sweep."""
    digest = hashlib.sha256((folder / RECORD_FILE).read_bytes()).hexdigest()[:16]
    whole = [run for run in known if DIGEST_TAG in run.data.tags]
    same = next((run for run in whole if run.data.tags[DIGEST_TAG] == digest), None)
    if same is None and whole and sweep is not None and _ran_later(record, sweep):
        same = whole[0]  # the cell was run again by a later sweep, which has its own run of it
    if same is None and sweep is not None and (other := (others or {}).get(digest)) is not None:
        same = other
        _adopt(store, other, sweep, parent)
    if same is None:
        run = cell_run(record, _series(folder), None if sweep is None else sweep["id"])
        _create(store, run, folder, record, parent, digest)
    for old in known:
        if same is None or old.info.run_id != same.info.run_id:
            store.client.delete_run(old.info.run_id)
    return same is None


def _create(store: Store, run: Run, folder: Path, record: Record, parent: str | None, digest: str) -> None:
    tags = {**run.tags, **({PARENT_TAG: parent} if parent else {})}
    created = store.client.create_run(store.experiment_id, _milliseconds(run.started), tags, run.name)
    run_id = created.info.run_id
    _log(store, run_id, run)
    try:
        _log_artifacts(store, run_id, folder, record)
    except Exception as error:  # a server whose artifacts are elsewhere: the numbers still count
        log.warning("MLflow: artifacts of %s were not stored (%s)", record.cell, guarded(error, "artifacts"))
    store.client.set_terminated(run_id, run.status, _milliseconds(run.ended if run.ended is not None else run.started))
    store.client.set_tag(run_id, DIGEST_TAG, digest)


def _log(store: Store, run_id: str, run: Run | None = None, tags: Mapping[str, str] | None = None) -> None:
    """Metrics, params and tags in as few calls as MLflow takes them in."""
    from mlflow.entities import Metric, Param, RunTag

    params = [Param(key, value) for key, value in (run.params if run else {}).items()]
    metrics = [Metric(p.key, p.value, _milliseconds(p.time), p.step) for p in (run.points if run else [])]
    runtags = [RunTag(key, value) for key, value in (tags or {}).items()]
    while params or metrics or runtags:
        now, params = params[:PARAMS_A_CALL], params[PARAMS_A_CALL:]
        tagged, runtags = runtags[:PARAMS_A_CALL], runtags[PARAMS_A_CALL:]
        room = METRICS_A_CALL - len(now) - len(tagged)  # the three together must not exceed the limit
        measured, metrics = metrics[:room], metrics[room:]
        store.client.log_batch(run_id, metrics=measured, params=now, tags=tagged)


def _log_artifacts(store: Store, run_id: str, folder: Path, record: Record) -> None:
    from omegaconf import OmegaConf

    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        (staged / RECORD_FILE).write_bytes((folder / RECORD_FILE).read_bytes())
        (staged / CONFIG_FILE).write_text(OmegaConf.to_yaml(OmegaConf.create(record.config)))
        heat_map(record, staged / HEAT_FILE)
        angle_curves(record, _series(folder), staged / ANGLES_FILE)
        if (folder / LOG_FILE).is_file():
            (staged / LOG_FILE).write_bytes((folder / LOG_FILE).read_bytes()[-LOG_BYTES:])
        store.client.log_artifacts(run_id, str(staged))


# ------------------------------------------------------------------------------------------- reading


def _records(cells: Iterable[Path], finished_only: bool) -> Iterator[tuple[Path, Record]]:
    """The readable records, each once. ``finished_only``: without cells that may be running at this moment."""
    for folder in dict.fromkeys(Path(cell) for cell in cells):
        if not (folder / RECORD_FILE).is_file():
            continue
        try:
            record = read(folder)
        except FourfoldError as error:
            log.warning("MLflow: left out, %s", error)
            continue
        if not (finished_only and record.ended is None):
            yield folder, record


def _series(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_series(folder))
    except FourfoldError as error:
        log.warning("MLflow: without curves, %s", error)
        return {}


def _manifest(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
        return content if {"id", "cells"} <= content.keys() else None
    except (OSError, ValueError, AttributeError) as error:
        log.warning("MLflow: left out, %s: not a readable manifest (%s)", path, type(error).__name__)
        return None


def _existing(store: Store, found_by: str) -> dict[str, list[Any]]:
    """The store's runs of a filter, by cell, oldest first; the parent under an empty name."""
    runs: dict[str, list[Any]] = {}
    token = None
    while True:
        page = store.client.search_runs(
            [store.experiment_id], found_by, order_by=["attributes.start_time ASC"], page_token=token
        )
        for run in page:
            runs.setdefault(run.data.tags.get("cell", ""), []).append(run)
        token = page.token
        if not token:
            return runs


def _ran_later(record: Record, sweep: Mapping[str, Any]) -> bool:

    ended = seconds_of(sweep.get("ended"))
    return ended is not None and record.started > ended


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _quoted(text: Any) -> str:
    return str(text).replace("'", "")


@contextmanager
def _translating(output_dir: Path) -> Iterator[None]:
    """Whatever MLflow, SQLAlchemy or the network raise becomes a TrackingError of one line."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        raise guarded(error, f"writing the runs of {output_dir}") from error
