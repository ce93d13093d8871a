"""Where the YAML of a member is, and what its first line says."""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from fourfold import composition


@contextmanager
def hydra() -> Iterator[None]:
    """Hydra on the project's configuration, so that members can be found and composed."""
    composition.register_resolvers()
    with initialize_config_dir(str(composition.config_directory()), version_base="1.3", job_name="fourfold"):
        yield


def member_file(path: str) -> Path | None:
    """The file of a config, e.g. "method/ewc", wherever on Hydra's search path it is; None if in none."""
    for entry in GlobalHydra.instance().config_loader().get_search_path().get_path():
        folder = _folder(str(entry.path))
        if folder is not None and (folder / f"{path}.yaml").is_file():
            return folder / f"{path}.yaml"
    return None


def description(path: str) -> str:
    """The first comment line of a member's YAML, without the command behind it; empty if it has none."""
    file = member_file(path)
    if file is None:
        return ""
    comments = (line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#"))
    line = next((comment for comment in comments if comment and not comment.startswith("@package")), "")
    return line.split("   ")[0].strip()


def shown_path(file: Path) -> str:
    """A file of conf/ as conf/…, any other as it is."""
    folder = composition.config_directory()
    return str(Path(folder.name) / file.relative_to(folder)) if file.is_relative_to(folder) else str(file)


def content(file: Path) -> Mapping[str, Any]:
    """The values in a file, as written."""
    return yaml.safe_load(file.read_text()) or {}


def _folder(path: str) -> Path | None:
    """Of an entry of the search path: FOLDER, file://FOLDER or pkg://PACKAGE."""
    if "://" not in path or path.startswith("file://"):
        return Path(path.removeprefix("file://"))
    if not path.startswith("pkg://"):
        return None
    try:
        found = importlib.util.find_spec(path.removeprefix("pkg://").replace("/", "."))
    except ImportError:
        return None
    places = list(found.submodule_search_locations or []) if found else []
    return Path(places[0]) if places else None
