"""python -m fourfold: compare, import, list, explain, tree, prepare, report, ui, sync, run."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from fourfold.errors import FourfoldError, Refused, debugging, exit_code

EPILOG = """examples:
  python -m fourfold list method
  python -m fourfold explain benchmark=digits setting=class_incremental method=ewc
  python -m fourfold report --csv
  python -m fourfold ui --port 5000

FOURFOLD_DEBUG=1 shows tracebacks."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status; errors are one line on stderr."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["run"]:
        return _guarded(lambda: _run(words[1:]))
    options = _parser().parse_args(words)
    return _guarded(lambda: options.command(options))


def _guarded(command: Any) -> int:
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except FourfoldError as error:
        if debugging():
            raise
        print(f"error: {error}", file=sys.stderr)
        return exit_code([error.state])
    except Exception as error:
        if debugging():
            raise
        first = (str(error).strip().splitlines() or ["no message"])[0]
        print(f"error: {type(error).__name__}: {first} (FOURFOLD_DEBUG=1 shows where)", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fourfold",
        description="What there is, what would run, and what came out. Runs are started by run.py.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    listing = commands.add_parser("list", help="the members of each axis, a line each")
    listing.add_argument(
        "axis", nargs="?", metavar="AXIS", help="benchmark | hardware | setting | method | rule | another group"
    )
    listing.set_defaults(command=_list)

    explain = commands.add_parser("explain", help="is a cell valid, why, and what would it run")
    explain.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for run.py, e.g. method=ewc")
    explain.set_defaults(command=_explain)

    tree = commands.add_parser("tree", help="the settings by what they grant, with the methods that apply")
    tree.add_argument("--svg", action="store_true", help="as a picture")
    tree.set_defaults(command=_tree)

    prepare = commands.add_parser("prepare", help="find, download where absent, and verify a benchmark's data")
    prepare.add_argument("overrides", nargs="+", metavar="OVERRIDE", help="as for run.py, e.g. benchmark=kmnist")
    prepare.set_defaults(command=_prepare)

    report = commands.add_parser("report", help="the comparison table of a sweep, from its records")
    report.add_argument(
        "sweep", nargs="?", metavar="SWEEP", help="a sweep's id, or the beginning of it (default: the latest)"
    )
    report.add_argument("--all", action="store_true", help="all cells on disk instead of one sweep")
    report.add_argument("--pivot", metavar="ROWS,COLUMNS", help="one figure over two axes (default: method,setting)")
    report.add_argument("--metric", metavar="NAME", help="the figure for the pivot (default: average_accuracy)")
    report.add_argument(
        "--scaling", action="store_true", help="how rates grow with the devices, weak and strong (suite=scaling)"
    )
    report.add_argument(
        "--adaptation",
        metavar="FILE.png",
        type=Path,
        help="draw how soon learners adapt when the context switches (setting=osaka), and show its figures",
    )
    form = report.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", help="everything, for programs")
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="a line a row")
    report.add_argument(
        "--score",
        choices=("ratio", "milabench", "milabench+1"),
        help="row by row with scores: beside --reference, or by Milabench's formula (+1: that of since November 2024)",
    )
    report.add_argument(
        "--with-projected", action="store_true", help="let --score count projected rows where none was measured"
    )
    report.add_argument("--reference", metavar="CELLS", help="what --score ratio compares with, as for compare")
    _output_option(report)
    report.set_defaults(command=_report, form="text")

    comparing = commands.add_parser("compare", help="two sets of cells row by row: ratio, interval, verdict")
    for name in ("one", "other"):
        comparing.add_argument(
            name, metavar="CELLS", help="a sweep, a folder of records, or KEY=VALUE (hardware=a100, commit=c0ffee)"
        )
    comparing.add_argument("--json", dest="form", action="store_const", const="json", help="everything, for programs")
    comparing.add_argument(
        "--fail-below",
        type=float,
        metavar="RATIO",
        help="exit 1 if a row is gone or slower than that, beyond chance or with no interval to tell by",
    )
    _output_option(comparing)
    comparing.set_defaults(command=_compare, form="text")

    importing = commands.add_parser("import", help="records from what other programs left behind")
    importing.add_argument("program", choices=("milabench",))
    importing.add_argument("folder", type=Path, metavar="DIR", help="one run, with a .data file for each process")
    _output_option(importing)
    importing.set_defaults(command=_import)

    status = commands.add_parser("status", help="how far a sweep is: counts, running cells, failures")
    status.add_argument("sweep", nargs="?", metavar="SWEEP", help="an id, or the beginning of it (default: the latest)")
    status.add_argument("--follow", action="store_true", help="until it has ended")
    _output_option(status)
    status.set_defaults(command=_status)

    logs = commands.add_parser("logs", help="what a cell logged and printed")
    logs.add_argument("cell", metavar="CELL", help="its name, or a part of it that no other has")
    logs.add_argument("--follow", action="store_true", help="and what comes, until it ends")
    _output_option(logs)
    logs.set_defaults(command=_logs)

    cancel = commands.add_parser("cancel", help="ask a sweep or a cell to end; a second time, end it at once")
    cancel.add_argument("target", metavar="SWEEP|CELL", help="as for status and logs")
    _output_option(cancel)
    cancel.set_defaults(command=_cancel)

    ui = commands.add_parser("ui", help="MLflow's page on the runs, on this machine only")
    ui.add_argument("--port", type=int, default=5000, help="default: 5000")
    _tracking_options(ui)
    ui.set_defaults(command=_ui)

    sync = commands.add_parser("sync", help="bring MLflow up to date with every record on disk")
    _tracking_options(sync)
    sync.set_defaults(command=_sync)

    doctor = commands.add_parser("doctor", help="what is here, what is missing, and what that costs")
    doctor.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="a configuration that is to run here")
    doctor.set_defaults(command=_doctor)

    calibrate = commands.add_parser("calibrate", help="fit what projections assume to rates that are known")
    calibrate.add_argument("--figures", type=Path, metavar="CSV", help="a table of known rates (default: the records)")
    calibrate.add_argument("--name", default="ours", help="of the fit: calibration=NAME (default: ours)")
    calibrate.add_argument("--write", type=Path, metavar="YAML", help="where the fit goes (default: only shown)")
    _output_option(calibrate)
    calibrate.set_defaults(command=_calibrate)

    commands.add_parser("run", help="the same as run.py: run OVERRIDE..., or run -m OVERRIDE...", add_help=False)
    return parser


def _output_option(parser: argparse.ArgumentParser) -> None:
    folder = os.environ.get("FOURFOLD_OUTPUT", "outputs")
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(folder),
        metavar="DIR",
        help="where runs left their records (FOURFOLD_OUTPUT; default: outputs)",
    )


def _tracking_options(parser: argparse.ArgumentParser) -> None:
    _output_option(parser)
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="e.g. tracking=server tracking.uri=http://localhost:5000"
    )


def _list(options: argparse.Namespace) -> int:
    from fourfold.cli.members import list_text

    print(list_text(options.axis))
    return 0


def _explain(options: argparse.Namespace) -> int:
    from fourfold.cli.explain import explain_text

    text, valid = explain_text(options.overrides)
    print(text)
    return 0 if valid else 2


def _tree(options: argparse.Namespace) -> int:
    from fourfold.cli.members import tree_picture, tree_text

    print(tree_picture() if options.svg else tree_text())
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from fourfold.cli.prepare import prepare_text

    print(prepare_text(options.overrides))
    return 0


def _report(options: argparse.Namespace) -> int:
    from fourfold.report import adaptation, pivot, report, scaling_report

    if options.all and options.sweep:
        raise Refused(f"report {options.sweep} --all: a sweep or all cells, not both")
    other = next((f"--{name}" for name in ("score", "pivot", "metric") if getattr(options, name)), None)
    if options.scaling and other:
        raise Refused(f"--scaling {other}: two different tables; choose one")
    if options.adaptation is not None:
        if options.scaling or other:
            raise Refused(f"--adaptation {options.adaptation}: not together with {other or '--scaling'}")
        print(adaptation(options.output_dir, options.adaptation, options.sweep, options.form, options.all))
        return 0
    if options.score is not None:
        return _score(options)
    if options.with_projected:
        raise Refused("--with-projected: only a --score mixes evidence; tables show it beside the hardware")
    if options.reference:
        raise Refused(f"--reference {options.reference}: --score ratio is missing")
    if options.scaling:
        print(scaling_report(options.output_dir, options.sweep, options.form, options.all))
        return 0
    if options.pivot is None and options.metric is None:
        print(report(options.output_dir, options.sweep, options.form, options.all))
        return 0
    axes = tuple((options.pivot or "method,setting").split(","))
    if len(axes) != 2:
        raise Refused(f"--pivot {options.pivot}: two axes with a comma between, e.g. method,setting")
    metric = options.metric or "average_accuracy"
    print(pivot(options.output_dir, axes, metric, options.sweep, options.form, options.all))
    return 0


def _score(options: argparse.Namespace) -> int:
    from fourfold.report.read import read_all, read_sweep
    from fourfold.report.scores import score_json, score_text
    from fourfold.report.select import Selection, select

    if options.form == "csv":
        raise Refused(f"--csv --score {options.score}: scores are text or --json")
    if options.score == "ratio" and not options.reference:
        raise Refused("--score ratio: ratios to what? --reference names a sweep, a folder or e.g. hardware=a100")
    found = read_all(options.output_dir) if options.all else None
    if found is None and options.sweep and ("=" in options.sweep or Path(options.sweep).is_dir()):
        chosen = select(options.sweep, options.output_dir)
    else:
        found = found or read_sweep(options.output_dir, options.sweep)
        chosen = Selection(found.id, found.cells)
    reference = select(options.reference, options.output_dir) if options.reference else None
    if options.form == "json":
        print(score_json(chosen, reference, options.with_projected))
    else:
        print(score_text(chosen, reference, options.score, options.with_projected))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from fourfold.report.compare import compare, compare_json, compare_text, failures
    from fourfold.report.select import select

    if options.fail_below is not None and not 0 < options.fail_below < 10:
        raise Refused(f"--fail-below {options.fail_below:g}: a ratio, e.g. 0.95")
    one, other = (select(word, options.output_dir) for word in (options.one, options.other))
    rows = compare(one, other)
    print((compare_json if options.form == "json" else compare_text)(one, other, rows))
    wrong = failures(rows, options.fail_below) if options.fail_below is not None else []
    for line in wrong:
        print(f"gate: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _import(options: argparse.Namespace) -> int:
    from fourfold.cli.milabench import import_run

    if not options.folder.is_dir():
        raise Refused(f"{options.folder}: no such folder")
    sweep, records = import_run(options.folder, options.output_dir)
    print(f"sweep {sweep}: {len(records)} records of {len({r.axes['benchmark'] for r in records})} benchmarks")
    return 0


def _status(options: argparse.Namespace) -> int:
    from fourfold.cli.sweeps import status

    return status(options.output_dir, options.sweep, options.follow)


def _logs(options: argparse.Namespace) -> int:
    from fourfold.cli.sweeps import logs

    return logs(options.output_dir, options.cell, options.follow)


def _cancel(options: argparse.Namespace) -> int:
    from fourfold.cli.sweeps import cancel

    return cancel(options.output_dir, options.target)


def _ui(options: argparse.Namespace) -> int:
    from fourfold.cli.ui import serve

    return serve(_tracking(options.overrides), options.output_dir, options.port)


def _sync(options: argparse.Namespace) -> int:
    from fourfold.launch.manifest import close_dead
    from fourfold.tracking import sync

    if not options.output_dir.is_dir():
        raise Refused(f"{options.output_dir}: no such folder; runs leave one, or --output-dir names it")
    close_dead(options.output_dir)
    done = sync(_tracking(options.overrides), options.output_dir)
    print(f"sweeps: {done['sweeps']}; runs written: {done['written']}; up to date before: {done['kept']}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from fourfold.cli.doctor import doctor

    text, runs = doctor(options.overrides)
    print(text)
    return 0 if runs else 1


def _calibrate(options: argparse.Namespace) -> int:
    from fourfold.projection.calibrate import calibrate

    print(calibrate(options.figures, options.output_dir, options.name, options.write))
    return 0


def _tracking(overrides: list[str]) -> dict[str, Any]:
    """The configuration of tracking under these overrides."""
    from fourfold.composition import compose, plain

    stray = next((word for word in overrides if not word.lstrip("+").startswith(("tracking=", "tracking."))), None)
    if stray is not None:
        raise Refused(f"{stray}: only tracking=... and tracking.KEY=... count here")
    return plain(compose(overrides))["tracking"]


def _run(overrides: list[str]) -> int:
    from fourfold.launch.main import run_command_line

    return run_command_line(overrides)


if __name__ == "__main__":
    sys.exit(main())
