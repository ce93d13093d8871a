"""The command line: Hydra composes, the launcher runs; every error is one line and an exit status."""

import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fourfold import composition
from fourfold.errors import FourfoldError, Refused, debugging, exit_code
from fourfold.launch import progress, suites
from fourfold.launch.cells import WHOLE_SWEEP
from fourfold.launch.lighter import lighter_hydra
from fourfold.launch.slots import spin_briefly
from fourfold.launch.task import CellTask, RunCell, run_cell

FULL_ERROR = "HYDRA_FULL_ERROR"


def main(run: RunCell = run_cell) -> NoReturn:
    """Runs the command line of this process and exits. ``run`` is the experiment; tests give another."""
    sys.exit(run_command_line(sys.argv[1:], run))


def run_command_line(words: Sequence[str], run: RunCell = run_cell) -> int:
    """Runs one command line; returns its exit status (see errors.exit_code)."""
    asked_for_everything = os.environ.get(FULL_ERROR) == "1"
    spin_briefly()
    task = CellTask(run, [sys.argv[0], *words])
    composition.register_resolvers(_check_tracking)
    try:
        _through_hydra(list(words), task)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except BrokenPipeError:  # the reader of --help went away
        progress.stop_printing()
        return 141
    except FourfoldError as error:
        return _complain(str(error), exit_code([error.state]))
    except Exception as error:
        if asked_for_everything:
            raise
        return _complain(*_translated(error, list(words)))
    return exit_code(record.state for record in task.records) if task.ran else 0


def _through_hydra(words: list[str], task: CellTask) -> None:
    """Hands the words to Hydra as they are, but for what ``one_value_sweeps`` says."""
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    parsed = parser.parse_intermixed_args(words)
    overrides = list(parsed.overrides)
    flags = list(words)
    for word in overrides:
        flags.remove(word)
    task.suite, overrides = suites.take_out(overrides)
    if task.suite:
        if parsed.cfg or parsed.info:
            raise Refused(
                f"{task.suite[0]}: a suite is many cells; python -m fourfold explain {task.suite[0]} shows them"
            )
        if not parsed.multirun:
            flags.append("--multirun")  # a suite is a sweep
    if task.suite or parsed.multirun:
        overrides = one_value_sweeps(overrides, all_members=bool(task.suite))
    else:
        overrides = composition.with_tuned(overrides)
    words = [*flags, *overrides]  # Hydra's own parser does not take them in another order
    kept, before = sys.argv, os.environ.get(FULL_ERROR)
    sys.argv, os.environ[FULL_ERROR] = [kept[0], *words], "1"  # so that errors come here, not to sys.exit(1)
    try:
        with lighter_hydra(words), warnings.catch_warnings():
            warnings.filterwarnings("error", message="provider=hydra.searchpath")
            folder, name = str(composition.config_directory()), composition.CONFIG_NAME
            hydra.main(version_base="1.3", config_path=folder, config_name=name)(task)()
    finally:
        sys.argv = kept
        if before is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = before
    if task.refusal is not None:
        raise task.refusal


def one_value_sweeps(overrides: Sequence[str], all_members: bool = False) -> list[str]:
    """``method.strength=3`` beside ``method=ewc,other`` as ``method.strength=choice(3)``.

    Hydra composes a sweep's controller with the default choices, where such a key may not exist; it leaves
    what is swept to the cells. ``all_members``: a suite's rows may choose members of any group.
    """
    keys = [word.partition("=")[0] for word in overrides]
    groups = {key.replace("/", ".") for key, word in zip(keys, overrides, strict=True) if _is_swept(word)}
    found = []
    for key, word in zip(keys, overrides, strict=True):
        head = key.partition(".")[0]
        chosen = "." in key and all_members and head not in (*WHOLE_SWEEP, "hydra")
        inside = (chosen or any(key.startswith(f"{group}.") for group in groups)) and re.match(r"[\w.]+=.", word)
        found.append(f"{key}=choice({word.partition('=')[2]})" if inside and not _is_swept(word) else word)
    return found


def _is_swept(word: str) -> bool:
    """Whether a word gives several values: a,b or choice(...), range(...), glob(...); quotes and brackets hold one."""
    value = word.partition("=")[2]
    if re.match(r"(choice|range|interval|glob|shuffle|sort)\(", value):
        return True
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", value)
    while (inner := re.sub(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}", "", bare)) != bare:
        bare = inner
    return "," in bare


def _check_tracking(config: DictConfig) -> None:
    """Raises Refused if tracking names no store."""
    from fourfold.tracking import resolve

    cell = composition.plain(config)
    resolve(cell["tracking"], Path(cell["output_dir"]))


def _refuse(message: str) -> NoReturn:
    raise Refused(f"{message}; --help lists what there is")


def _complain(message: str, status: int) -> int:
    """One line on stderr; the traceback before it if FOURFOLD_DEBUG=1 asks for it."""
    if debugging() and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _translated(error: Exception, words: list[str]) -> tuple[str, int]:
    """(one line, exit status) for an error that is not one of ours, or wraps one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FourfoldError):
            return str(cause), exit_code([cause.state])
        cause = cause.__cause__ or cause.__context__  # OmegaConf hides what a resolver raised
    refused = exit_code([Refused.state])
    if isinstance(error, HydraException | OmegaConfBaseException | YAMLError) or "Config group override" in str(error):
        return _one_line(error, words), refused
    if isinstance(error, UserWarning):
        return f"hydra.searchpath: {str(error).rpartition('path=')[2]}", refused
    if isinstance(error, OSError):
        return f"{error.filename or _output_folder(words)}: cannot be used: {error.strerror or error}", refused
    if isinstance(error, ValueError) and _raised_by_hydra(error):
        return str(error), refused
    return f"{type(error).__name__}: {error} (an error of Fourfold's own; FOURFOLD_DEBUG=1 shows where)", 1


def _output_folder(words: list[str]) -> str:
    """For an error of the system that names no file, as that of a full disk."""
    given = [word.removeprefix("output_dir=") for word in words if word.startswith("output_dir=")]
    return f"output_dir={(given or [os.environ.get('FOURFOLD_OUTPUT', 'outputs')])[-1]}"


def _raised_by_hydra(error: Exception) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(os.path.dirname(hydra.__file__))


def _one_line(error: Exception, words: list[str]) -> str:
    """Hydra has gone by the time its error comes here; the nearest names need it once more."""
    GlobalHydra.instance().clear()
    overrides = [word for word in words if "=" in word or word.startswith("~")]
    try:
        with hydra.initialize_config_dir(str(composition.config_directory()), version_base="1.3"):
            return composition.one_line(error, overrides)
    except Exception:
        return composition.one_line(error, overrides)
