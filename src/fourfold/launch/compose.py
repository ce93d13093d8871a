"""Composing the cells of a sweep: each combination of members once, then the values of each cell.

Hydra applies plain values (``seed=3``) after it has merged all files, so they can be set on a configuration of the
same members. What is not a plain value of a key that is there already (``+a=1``, ``~a``, lists, mappings,
interpolations) is composed in full; a test holds both ways to the same configurations.
"""

import copy
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import AnyNode, Container, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fourfold import composition
from fourfold.errors import NotApplicable, Refused

SCALARS = (str, int, float, bool, type(None))
NAME = "${fourfold_cell:}"


@dataclass(frozen=True)
class Composed:
    """A checked cell: ``cell`` plain and resolved; ``hydra`` Hydra's node, without what is this cell's own."""

    cell: dict[str, Any]
    hydra: DictConfig
    subdir: str
    first: "_First" = field(default_factory=lambda: _First())

    def frozen(self, overrides: Sequence[Override], subdir: str) -> DictConfig:
        """The configuration as a job gets it: every value resolved, every path fixed."""
        config = self.first.another(self.cell, self.hydra)
        with open_dict(config):
            config.hydra.sweep.subdir = subdir
            config.hydra.overrides.task = [override.input_line for override in overrides]
            names = config.hydra.job.config.override_dirname
            config.hydra.job.override_dirname = get_overrides_dirname(
                list(overrides), kv_sep=names.kv_sep, item_sep=names.item_sep, exclude_keys=names.exclude_keys
            )
        return config


class _First:
    """The first frozen cell of some members: the others are copies of it with other values, four times as quick."""

    def __init__(self) -> None:
        self.cell: dict[str, Any] = {}
        self.pickled = b""

    def another(self, cell: dict[str, Any], hydra: DictConfig) -> DictConfig:
        """A cell and Hydra's node in one configuration."""
        try:
            changes = list(_changes(self.cell, cell, ""))
        except _NotShared:
            config = OmegaConf.create(cell)
            with open_dict(config):
                config.hydra = hydra
            if not self.pickled:
                self.cell, self.pickled = copy.deepcopy(cell), pickle.dumps(config)
            return config
        config = pickle.loads(self.pickled)
        for path, value in changes:
            _node(config, path)._set_value(value)
        return config


class Composer:
    """Composes and checks the cells of one sweep."""

    def __init__(self, loader: ConfigLoader, master: DictConfig, share: bool = True) -> None:
        """``share=False`` composes every cell in full."""
        self.loader = loader
        self.master = master
        self.share = share
        self.sweep_dir = os.path.abspath(master.hydra.sweep.dir)
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._values: dict[str, bool] = {}
        self._templates: dict[tuple[str, ...], _Template | None] = {}

    def __call__(self, words: Sequence[str]) -> Composed:
        """Raises Refused with one line for anything wrong; NotApplicable if the choices do not go together."""
        values = [word for word in words if self.share and self._is_plain_value(word)]
        members = tuple(word for word in words if word not in values)
        if not values:
            return self._in_full(words)
        if members not in self._templates:
            self._templates[members] = self._template(members)
        template = self._templates[members]
        found = None if template is None else template.with_values([self.parsed(word) for word in values])
        return self._in_full(words) if found is None else found

    def parsed(self, word: str) -> Override:
        if word not in self._parsed:
            self._parsed[word] = self._parser.parse_override(word)
        return self._parsed[word]

    def _is_plain_value(self, word: str) -> bool:
        """``key=scalar``, where the key is no group: that a leaf is there is for the template to say."""
        override = self.parsed(word)
        if override.type != OverrideType.CHANGE or override.package is not None or override.is_sweep_override():
            return False
        value = override.value()
        if not isinstance(value, SCALARS) or (isinstance(value, str) and ("${" in value or value == "???")):
            return False
        key = override.key_or_group
        if key not in self._values:
            self._values[key] = not self.loader.repository.group_exists(key)  # type: ignore[attr-defined]
        return self._values[key]

    def _in_full(self, words: Sequence[str]) -> Composed:
        config = self._load(words)
        composition.check(config)
        return Composed(composition.plain(config), config.hydra, str(config.hydra.sweep.subdir))

    def _load(self, words: Sequence[str]) -> DictConfig:
        try:
            config = self.loader.load_sweep_config(self.master, list(words))
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
            raise Refused(composition.one_line(error, list(words))) from error
        with open_dict(config.hydra.sweep):
            config.hydra.sweep.dir = self.sweep_dir
        return config

    def _template(self, members: tuple[str, ...]) -> "_Template | None":
        """None where these members cannot be shared; composing in full then says what is wrong, if anything is."""
        try:
            config = self._load(members)
            composition.check_tuned(config)
            base = composition.plain(composition.base_of(config))
            return _Template(config, base)
        except (Refused, _NotShared):
            return None


class _NotShared(Exception):
    """These members hold what only a full composition does justice to."""


class _Template:
    """The configuration of some members, on which plain values are set."""

    def __init__(self, config: DictConfig, base: dict[str, Any]) -> None:
        self.hydra = config.hydra
        self.first = _First()
        self.base = base
        self.config = composition.without_hydra(config)
        self.cell = composition.plain(config)
        raw = OmegaConf.to_container(self.config, resolve=False)
        self.interpolated = list(_interpolated(raw, ""))
        for path in self.interpolated:
            if not isinstance(_at(self.cell, path), SCALARS):
                raise _NotShared(path)
        self.subdir = str(self.hydra.sweep._get_node("subdir")._value())
        if self.subdir.count("${") != self.subdir.count(NAME):
            raise _NotShared("hydra.sweep.subdir")

    def with_values(self, values: Sequence[Override]) -> Composed | None:
        """The checked cell with these values; None where one of the keys is no leaf of the configuration, or a value is
        not of its type, which may be that of a tuned value: composing in full knows."""
        nodes = [_leaf(self.config, value.key_or_group) for value in values]
        if any(node is None for node in nodes):
            return None
        cell = copy.deepcopy(self.cell)
        before = [node._value() for node in nodes]  # type: ignore[union-attr]
        try:
            for node, value in zip(nodes, values, strict=True):
                node._set_value(value.value())  # type: ignore[union-attr]
                _put(cell, value.key_or_group, value.value())
            for path in self.interpolated:
                _put(cell, path, OmegaConf.select(self.config, path))
        except OmegaConfBaseException:
            return None
        finally:
            for node, was in reversed(list(zip(nodes, before, strict=True))):
                node._set_value(was)
        try:
            composition.check_cell(cell, self.base)
        except NotApplicable:
            raise
        except Refused:
            return None
        return Composed(cell, self.hydra, self.subdir.replace(NAME, composition.cell_name(cell)), self.first)


def _leaf(config: DictConfig, key: str) -> AnyNode | None:
    """The untyped scalar at a dotted key, or None: a mapping, a list, nothing there, a key in brackets."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            return None
        node = node._get_node(part)
    return node if type(node) is AnyNode and not isinstance(node, Container) else None


def _interpolated(node: Any, prefix: str) -> Any:
    """The dotted keys whose value refers to others. Raises _NotShared for a reference within a list."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _interpolated(value, f"{prefix}{key}.")
        elif isinstance(value, list) and "${" in repr(value):
            raise _NotShared(f"{prefix}{key}")
        elif isinstance(value, str) and "${" in value:
            yield f"{prefix}{key}"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of the scalars that differ. Raises _NotShared where anything else does."""
    if before.keys() != now.keys():
        raise _NotShared(prefix)
    for key, value in now.items():
        was = before[key]
        if isinstance(value, Mapping) and isinstance(was, Mapping):
            yield from _changes(was, value, f"{prefix}{key}.")
        elif type(value) is not type(was) or value != was:
            if not isinstance(value, SCALARS) or not isinstance(was, SCALARS):
                raise _NotShared(f"{prefix}{key}")
            yield f"{prefix}{key}", value


def _node(config: DictConfig, path: str) -> Any:
    node: Any = config
    for part in path.split("."):
        node = node._get_node(part)
    return node


def _at(node: Any, path: str) -> Any:
    for part in path.split("."):
        node = node[part]
    return node


def _put(cell: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node = cell
    for part in parents:
        node = node[part]
    node[last] = value
