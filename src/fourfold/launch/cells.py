"""From the words of a sweep to its cells: composed and checked once each, the impossible and the repeated left out."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fourfold import composition
from fourfold.errors import NotApplicable, Refused

# What the controller itself goes by: one value for the whole sweep.
WHOLE_SWEEP = ("output_dir", "slots", "rerun", "invalid", "dry_run", "tracking")


@dataclass
class PlannedCell:
    """One cell of a sweep. ``config`` has Hydra's node, ``cell`` is the plain rest; ``folder`` is absolute."""

    index: int
    overrides: list[str]
    config: DictConfig
    cell: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass
class Plan:
    """``refused`` is (overrides, why) of each combination that makes no sense."""

    cells: list[PlannedCell] = field(default_factory=list)
    refused: list[tuple[list[str], str]] = field(default_factory=list)
    duplicates: int = 0


def plan(combinations: Iterable[Sequence[str]], compose: Callable[[list[str]], DictConfig], skip: bool) -> Plan:
    """Composes and checks every combination.

    Raises Refused for a name, a key or a value that is wrong in itself, NotApplicable for the first
    combination that makes no sense if these are not to be skipped.
    """
    found, folders = Plan(), set[Path]()
    for words in combinations:
        overrides = list(words)
        try:
            config = compose(overrides)
        except NotApplicable as error:
            if not skip:
                raise NotApplicable(_in_cell(error, overrides)) from error
            found.refused.append((overrides, str(error)))
            continue
        except Refused as error:
            raise Refused(_in_cell(error, overrides)) from error
        folder = Path(os.path.abspath(os.path.join(config.hydra.sweep.dir, config.hydra.sweep.subdir)))
        if folder in folders:
            found.duplicates += 1
            continue
        folders.add(folder)
        found.cells.append(PlannedCell(len(found.cells), overrides, config, composition.plain(config), folder))
    return found


def _in_cell(error: Refused, overrides: Sequence[str]) -> str:
    return f"{error}  [in {' '.join(overrides)}]" if len(overrides) > 1 else str(error)


def refuse_swept_controls(words: Iterable[Override]) -> None:
    """Raises Refused if a value that the whole sweep goes by is given several values."""
    for word in words:
        key = word.get_key_element().lstrip("+~")
        if word.is_sweep_override() and key.split(".")[0].split("/")[0] in WHOLE_SWEEP:
            raise Refused(f"{word.input_line}: {key} holds for the whole sweep; give it one value")


def composer(loader: ConfigLoader, master: DictConfig) -> Callable[[list[str]], DictConfig]:
    """How a cell of this sweep is composed: once, checked, with the sweep's own folder already fixed."""
    sweep_dir = os.path.abspath(master.hydra.sweep.dir)

    def compose(overrides: list[str]) -> DictConfig:
        try:
            config = loader.load_sweep_config(master, overrides)
        except (HydraException, OmegaConfBaseException, YAMLError) as error:
            raise Refused(composition.one_line(error, overrides)) from error
        with open_dict(config.hydra.sweep):
            config.hydra.sweep.dir = sweep_dir
        composition.check(config)
        return config

    return compose


def frozen(planned: PlannedCell) -> DictConfig:
    """The configuration of a cell as its job gets it: every value resolved, every path fixed."""
    config = OmegaConf.create(planned.cell)
    with open_dict(config):
        config.hydra = planned.config.hydra
        config.hydra.sweep.subdir = os.path.relpath(planned.folder, planned.config.hydra.sweep.dir)
    return config


def refusal_table(found: Plan) -> list[str]:
    """How many combinations were left out and why, the most frequent reason first."""
    lines = []
    if found.refused:
        total = len(found.refused) + len(found.cells) + found.duplicates
        lines.append(f"skipped {len(found.refused)} of {total} combinations, which make no sense:")
        for why, count in Counter(why for _, why in found.refused).most_common():
            lines.append(f"  {count:>4} x  {why}")
    if found.duplicates:
        lines.append(f"left out {found.duplicates} that repeat another cell")
    return lines
