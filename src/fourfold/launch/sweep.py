"""Running a planned sweep: what is left to run, the launcher, the manifest, MLflow, the summary."""

import os
import shlex
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn

from fourfold import checkpoint, tuning
from fourfold.errors import DONE, FAILED, INTERRUPTED, NOT_APPLICABLE, FourfoldError, Refused
from fourfold.launch import cancelling, progress
from fourfold.launch.cells import Combination, Plan, PlannedCell, refusal_table
from fourfold.launch.changed import changed_since
from fourfold.launch.ending import Ending, blank_record, readable, settle, signature
from fourfold.launch.manifest import Manifest, close_dead
from fourfold.launch.preview import preview
from fourfold.launch.sharing import Launch, OnEnd, OnStart, launch_in_rounds
from fourfold.launch.unlike import unlike_rules
from fourfold.record import Record

NOT_STARTED = "not started"  # the reason of a cell that was left when its sweep was interrupted


def run_sweep(
    found: Plan, sweep_dir: Path, launch: Launch, command: Sequence[str]
) -> tuple[list[Record], list[JobReturn]]:
    """Runs what is left to run of a plan; returns the records of all its cells and the launcher's returns.

    With ``dry_run`` it shows the plan and starts, writes and returns nothing. Raises Refused, with nothing started,
    where nothing can be run or the output folder cannot be written.
    """
    if not found.cells:
        raise Refused(_nothing_left(found))
    first = found.cells[0].cell
    output_dir = Path(os.path.abspath(first["output_dir"]))
    for planned in found.cells:
        planned.before = signature(planned.folder)
    chosen = [planned for planned in found.cells if is_left(planned.folder, first["rerun"])]
    left = {planned.index for planned in chosen}
    kept = {p.index: record for p in found.cells if p.index not in left and (record := readable(p.folder))}
    if not chosen and not kept:
        raise Refused(f"rerun={first['rerun']}: nothing to run, since none of these cells has a record")
    if unlike := unlike_rules(planned.cell for planned in found.cells):
        progress.say(unlike)
    if idle := tuning.idle_search((planned.overrides, planned.cell) for planned in found.cells):
        progress.say(idle)
    if first["dry_run"]:
        for line in [*refusal_table(found), *preview(found.cells, left, first["slots"])]:
            progress.say(line)
        return [], []
    changed = changed_since(output_dir, [(p.name, p.overrides, p.cell) for p in chosen if first["rerun"] != "all"])
    entries = [entry(p, output_dir, kept.get(p.index)) for p in found.cells]
    manifest = Manifest(output_dir, sweep_dir.name, command, entries, _left_out(found.refused))
    manifest.content["not_applicable"] = _left_out(found.not_applicable)
    start(manifest, first["tracking"], output_dir)
    for line in refusal_table(found):
        progress.say(line)
    if len(chosen) < len(found.cells):
        progress.say(
            f"rerun={first['rerun']}: {len(found.cells) - len(chosen)} of {len(found.cells)} cells are not run again"
        )
    if changed:
        progress.say(changed)
    prepare_tracking(first["tracking"], output_dir)
    if first["rerun"] == "all":
        for planned in chosen:
            anew(planned.folder)
    from fourfold.tracking.following import following

    with (
        following(first["tracking"], output_dir, manifest.content),
        _view(manifest, output_dir, first["progress"]),
    ):
        records, returns = _launch(chosen, launch, manifest)
    everything = [records.get(p.index) or kept.get(p.index) for p in found.cells]
    all_records = [record for record in everything if record is not None]
    shown = [(record, p.folder) for record, p in zip(everything, found.cells, strict=True) if record is not None]
    finish(manifest, first["tracking"], output_dir, [p.folder for p in found.cells])
    if all_records:
        progress.say("")
        progress.say(progress.summary(shown))
        say_how_to_continue(all_records, command)
    return all_records, returns


def _launch(chosen: list[PlannedCell], launch: Launch, manifest: Manifest) -> tuple[dict[int, Record], list[JobReturn]]:
    """Launches the cells; a record for each, whatever became of it."""
    records: dict[int, Record] = {}

    def on_start(planned: PlannedCell, job: str | None) -> None:
        manifest.update(planned.index, job=job, begun=time.time())
        progress.say(progress.began_line(planned.name, job))

    def on_end(planned: PlannedCell, ending: Ending) -> None:
        found = settle(planned.cell, planned.folder, planned.overrides, planned.before, ending)
        records[planned.index] = found
        why = progress.first_line(found.message)
        manifest.update(planned.index, state=found.state, job=ending.job, **({"why": why} if why else {}))
        progress.say(progress.ended_line(found, len(records), len(chosen)))

    def judging(some: list[PlannedCell], on_start: OnStart, on_end: OnEnd) -> list[JobReturn]:
        return launch(some, on_start, lambda p, ending: on_end(p, cancelling.judged(manifest.folder, p.name, ending)))

    returns = launch_in_rounds(chosen, judging, on_start, on_end, chosen[0].cell["retries"]) if chosen else []
    for planned in chosen:  # what the user's Ctrl-C left unstarted: not written, so that an older record stays
        if planned.index not in records:
            record = blank_record(planned.cell, planned.name, planned.overrides)
            record.state, record.reason, record.message = INTERRUPTED, NOT_STARTED, "interrupted before it was started"
            records[planned.index] = record
    return records, returns


def _view(manifest: Manifest, output_dir: Path, asked: str) -> AbstractContextManager[Any]:
    """What a terminal shows of the sweep while the block runs."""
    from fourfold.launch import leases, view
    from fourfold.launch.snapshot import snapshot

    return view.live(lambda: snapshot(manifest.content, output_dir, leases.Holder()), asked)


# ------------------------------------------------------------------------------------------- what is left


def is_left(folder: Path, rerun: str) -> bool:
    """Whether the cell of this folder is to be run.

    all: yes; missing: unless its record says done or not applicable; failed: only if its record says failed.
    """
    if rerun == "all":
        return True
    found = readable(folder)
    if rerun == "failed":
        return found is not None and found.state == FAILED
    return found is None or found.state not in (DONE, NOT_APPLICABLE)


def anew(folder: Path) -> None:
    """Takes away what a cell could go on from. A checkpoint that cannot be removed is said; the cell then uses it."""
    try:
        checkpoint.discard(folder)
    except OSError as error:
        progress.warn(f"{folder}: the checkpoint cannot be removed ({error.strerror}), so the cell goes on from it")


def say_how_to_continue(records: Sequence[Record], command: Sequence[str]) -> None:
    """One line where cells were interrupted: how many are done, had begun and had not, and the command that goes on."""
    open_ones = [record for record in records if record.state == INTERRUPTED]
    if not open_ones:
        return
    waiting = [record for record in open_ones if record.reason == NOT_STARTED]
    begun = [record for record in open_ones if record.reason != NOT_STARTED]
    done = len([record for record in records if record.state in (DONE, NOT_APPLICABLE)])
    kept = f"{done} {'cell is' if done == 1 else 'cells are'} done and kept, " if done else ""
    parts = [_counted(len(some), what) for some, what in ((begun, "interrupted"), (waiting, "not started")) if some]
    checkpoints = any(not (record.measurements.get("checkpoints") or {}).get("none") for record in begun)
    from_there = " from the last checkpoints" if checkpoints else ""
    progress.say(f"{kept}{' and '.join(parts)}; to go on{from_there}: {again(command)}")


def again(command: Sequence[str]) -> str:
    """What to type for the rest of a sweep: the same command with rerun=missing. ``command`` is its sys.argv."""
    program, *words = command
    name = os.path.basename(program)
    if name in ("__main__.py", "fourfold"):
        start = [*(["python", "-m", "fourfold"] if name == "__main__.py" else [program]), "run"]
    else:
        start = ["python", program] if name.endswith(".py") else [program]
    return shlex.join([*start, *(word for word in words if not word.startswith("rerun=")), "rerun=missing"])


def _counted(count: int, what: str) -> str:
    return f"1 cell was {what}" if count == 1 else f"{count} cells were {what}"


def _nothing_left(found: Plan) -> str:
    out = [*found.refused, *found.not_applicable]
    if not out:
        return "nothing to run: the sweep has no cells"
    reasons = list(dict.fromkeys(why for _, why in out))
    others = len(reasons) - 1
    more = f" (and {others} more reason{'s' if others > 1 else ''})" if others else ""
    what = "makes sense" if found.refused else "is applicable"
    return f"nothing left to run, since none of the {len(out)} combinations {what}: {reasons[0]}{more}"


def _left_out(combinations: Sequence[tuple[Combination, str]]) -> list[dict[str, Any]]:
    return [
        {"overrides": one.overrides, "why": why, **({"rows": [one.row.label()]} if one.row else {})}
        for one, why in combinations
    ]


# ---------------------------------------------------------------------------------- manifest and tracking


def entry(planned: PlannedCell, output_dir: Path, kept: Record | None) -> dict[str, Any]:
    """The line of a cell in the manifest; ``kept`` is the record of a cell that is not run again."""
    return {
        "index": planned.index,
        "cell": planned.name,
        "folder": os.path.relpath(planned.folder, output_dir),
        "overrides": planned.overrides,
        "state": kept.state if kept else None,
        **({"rows": planned.rows} if planned.rows else {}),
    }


def start(manifest: Manifest, tracking: dict[str, Any], output_dir: Path) -> None:
    """Writes the manifest. Raises Refused if tracking names no store or the output folder cannot be written."""
    from fourfold.tracking import resolve

    resolve(tracking, output_dir)
    try:
        manifest.begin()
    except OSError as error:
        raise Refused(f"output_dir={output_dir}: cannot be written: {error.strerror}") from error


def prepare_tracking(tracking: dict[str, Any], output_dir: Path) -> None:
    """Makes the store ready, and tells it of sweeps whose launcher was killed.

    Records do not depend on it, so trouble is one line and no more.
    """
    try:
        from fourfold.tracking import log_sweep, prepare

        closed = close_dead(output_dir)
        prepare(tracking, output_dir)
        for dead in closed:
            log_sweep(tracking, output_dir, dead, [output_dir / cell["folder"] for cell in dead["cells"]])
    except Exception as error:
        _tracking_trouble(error)


def finish(manifest: Manifest, tracking: dict[str, Any], output_dir: Path, folders: Sequence[Path]) -> None:
    """Ends the manifest and hands the records to MLflow."""
    manifest.end()
    try:
        from fourfold.tracking import log_sweep

        log_sweep(tracking, output_dir, manifest.content, list(folders))
    except Exception as error:
        _tracking_trouble(error)


def _tracking_trouble(error: Exception) -> None:
    what = str(error) if isinstance(error, FourfoldError) else f"{type(error).__name__}: {error}"
    progress.warn(f"tracking: {what or 'failed'}; the records are kept")
