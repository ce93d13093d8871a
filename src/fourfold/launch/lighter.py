"""Hydra with less work for the same configurations, while one command line runs (docs/decisions/0006)."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from omegaconf import _utils as omegaconf_utils


@contextmanager
def lighter_hydra(words: Sequence[str]) -> Iterator[None]:
    """Spares Hydra work that comes to nothing here, a third of the time of --help and of a refusal.

    - It composes once more only to see whether hydra.mode is set, which our configuration leaves to -m.
    - For --help it lists all groups twice, and those that --help does not show: its own, and a folder for every
      tuned combination.
    - It reads every file again for every composition, with the slower of PyYAML's parsers.

    And no list of choices (--help, completion, globs) shows the parts that members share, as _device.
    """
    changes: list[tuple[Any, str, Callable[[Any], Any]]] = [
        (ConfigLoaderImpl, "get_group_options", _choices),
        (Hydra, "list_all_config_groups", _listed_once("--hydra-help" in words)),
        (ConfigRepository, "load_config", _read_once),
        (omegaconf_utils, "get_yaml_loader", _with_c_parser),
    ]
    if not any("hydra.mode" in word or word.startswith("--config") for word in words):
        changes.append((Hydra, "get_mode", lambda _: lambda *_, **__: None))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for (owner, name, change), (*_, was) in zip(changes, before, strict=True):
        setattr(owner, name, change(was))
    try:
        yield
    finally:
        for owner, name, was in before:
            setattr(owner, name, was)


def _choices(get_options: Callable[..., list[str]]) -> Callable[..., list[str]]:
    def choices(*arguments: Any, **named: Any) -> list[str]:
        return [name for name in get_options(*arguments, **named) if not name.startswith("_")]

    return choices


def _listed_once(hydra_too: bool) -> Callable[..., Any]:
    listed: dict[str, Sequence[str]] = {} if hydra_too else {"hydra": [], "tuned": []}

    def change(list_groups: Callable[..., Sequence[str]]) -> Callable[..., Sequence[str]]:
        def list_once(self: Hydra, parent: str = "") -> Sequence[str]:
            if parent not in listed:
                listed[parent] = list_groups(self, parent)
            return listed[parent]

        return list_once

    return change


def _read_once(load_config: Callable[..., Any]) -> Callable[..., Any]:
    """Hydra's own cache holds for one composition; this one for all that search the same places.

    Pickled, since composing changes what was loaded.
    """
    known: dict[tuple[tuple[str, ...], str], bytes] = {}

    def load_once(self: ConfigRepository, config_path: str) -> Any:
        key = (tuple(str(source.path) for source in self.sources), config_path)
        if key in known:
            return pickle.loads(known[key])
        found = load_config(self, config_path)
        known[key] = pickle.dumps(found)
        return found

    return load_once


def _with_c_parser(get_loader: Callable[[], type]) -> Callable[[], type]:
    """OmegaConf's own rules (duplicate keys, numbers, no dates) on libyaml's parser, where PyYAML was built with it."""
    if not yaml.__with_libyaml__:
        return get_loader
    from yaml.cyaml import CParser

    class Loader(CParser, get_loader()):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            CParser.__init__(self, stream)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return lambda: Loader
