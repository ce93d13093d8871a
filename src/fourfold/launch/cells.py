"""From the words of a sweep to its cells: composed and checked once each, the impossible and the repeated left out."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from omegaconf import DictConfig

from fourfold import composition
from fourfold.errors import NotApplicable, Refused
from fourfold.launch.compose import Composed

if TYPE_CHECKING:
    from fourfold.launch.suites import Row

# What the controller itself goes by: one value for the whole sweep.
WHOLE_SWEEP = ("output_dir", "slots", "rerun", "retries", "invalid", "dry_run", "tracking")


@dataclass(frozen=True)
class Combination:
    """One point of a sweep, in the words of a shell; ``row`` is the suite's row that it comes from, if any."""

    overrides: list[str]
    row: "Row | None" = None


@dataclass
class PlannedCell:
    """One cell of a sweep: plain and resolved, and as Hydra composed it; ``folder`` is absolute.

    ``rows``: the labels of all rows of suites that ask for it.
    ``before`` is the signature (see ``ending``) of the record that was there when the sweep was planned.
    """

    index: int
    overrides: list[str]
    composed: Composed
    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    before: tuple[int, int] | None = None

    @property
    def cell(self) -> dict[str, Any]:
        return self.composed.cell

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass
class Plan:
    """What is to run, and what is not.

    refused: (combination, why) of each that makes no sense; not_applicable: likewise, of each row of a suite that
    the hardware cannot hold or that awaits something.
    """

    cells: list[PlannedCell] = field(default_factory=list)
    refused: list[tuple[Combination, str]] = field(default_factory=list)
    not_applicable: list[tuple[Combination, str]] = field(default_factory=list)
    duplicates: int = 0


def combinations(words: Sequence[str], row: "Row | None", loader: ConfigLoader) -> list[Combination]:
    """The product of all that the words give several values; of a suite's row, its words and these."""
    from fourfold.launch.suites import words_of

    parser = OverridesParser.create(config_loader=loader)
    parsed = parser.parse_overrides(list(words) if row is None else words_of(row, words))
    refuse_swept_controls(parsed)
    for word in parsed:
        if not word.is_sweep_override() or list(word.sweep_string_iterator()):
            continue
        if not isinstance(word.value(), Glob):
            raise Refused(f"{word.input_line}: holds no value")
        known = loader.get_group_options(word.key_or_group)
        what = f"{word.key_or_group} has {', '.join(known)}" if known else f"{word.key_or_group} is no group"
        raise Refused(f"{word.input_line}: matches nothing; {what}")
    found = (one for batch in BasicSweeper.split_arguments(parsed, None) for one in batch)
    return [Combination(composition.with_tuned(one), row) for one in found]


def plan(
    combinations: Iterable[Combination],
    compose: Callable[[Sequence[str]], Composed],
    skip: bool,
    lacking: Callable[[dict[str, Any]], str | None] = lambda cell: None,
) -> Plan:
    """Composes and checks every combination. ``lacking`` tells why the hardware cannot hold the cell of a row.

    Raises Refused for a name, a key or a value that is wrong in itself, NotApplicable for the first
    combination that makes no sense if these are not to be skipped.
    """
    found, planned = Plan(), dict[Path, PlannedCell]()
    for one in combinations:
        row = one.row
        if row is not None and row.awaits is not None:
            found.not_applicable.append((one, f"awaits {row.awaits}"))
            continue
        try:
            composed = compose(one.overrides)
        except NotApplicable as error:
            if not skip:
                raise NotApplicable(_in_cell(error, one)) from error
            (found.refused if row is None else found.not_applicable).append((one, str(error)))
            continue
        except Refused as error:
            raise Refused(_in_cell(error, one)) from error
        if row is not None:
            composed.cell["suite"] = row.label()
        why = None if row is None else lacking(composed.cell)
        if why is not None:
            found.not_applicable.append((one, why))
            continue
        folder = Path(os.path.abspath(os.path.join(composed.hydra.sweep.dir, composed.subdir)))
        labels = [] if row is None else [row.label()]
        if folder in planned:
            planned[folder].rows += [label for label in labels if label not in planned[folder].rows]
            found.duplicates += 1
            continue
        planned[folder] = PlannedCell(len(planned), one.overrides, composed, folder, labels)
    found.cells = list(planned.values())
    return found


def _in_cell(error: Refused, one: Combination) -> str:
    if one.row is not None:
        return f"{error}  [in row {one.row.name} of suite {one.row.suite}]"
    return f"{error}  [in {' '.join(one.overrides)}]" if len(one.overrides) > 1 else str(error)


def refuse_swept_controls(words: Iterable[Override]) -> None:
    """Raises Refused if a value that the whole sweep goes by is given several values."""
    for word in words:
        key = word.get_key_element().lstrip("+~")
        if word.is_sweep_override() and key.split(".")[0].split("/")[0] in WHOLE_SWEEP:
            raise Refused(f"{word.input_line}: {key} holds for the whole sweep; give it one value")


def frozen(planned: PlannedCell) -> DictConfig:
    """The configuration of a cell as its job gets it: every value resolved, every path fixed."""
    parser = OverridesParser.create()
    subdir = os.path.relpath(planned.folder, planned.composed.hydra.sweep.dir)
    return planned.composed.frozen(parser.parse_overrides(planned.overrides), subdir)


def refusal_table(found: Plan) -> list[str]:
    """How many were left out and why: a line for each row of a suite, else the most frequent reason first."""
    lines = []
    total = len(found.refused) + len(found.not_applicable) + len(found.cells) + found.duplicates
    if found.not_applicable:
        lines.append(f"not applicable: {len(found.not_applicable)} of {total}")
        names = [one.row.name if one.row else "" for one, _ in found.not_applicable]
        width = max(map(len, names))
        reasons = [why for _, why in found.not_applicable]
        lines += list(dict.fromkeys(f"  {name:<{width}}  {why}" for name, why in zip(names, reasons, strict=True)))
    if found.refused:
        lines.append(f"skipped {len(found.refused)} of {total} combinations, which make no sense:")
        for why, count in Counter(why for _, why in found.refused).most_common():
            lines.append(f"  {count:>4} x  {why}")
    if found.duplicates:
        lines.append(f"left out {found.duplicates} that repeat another cell")
    return lines
