"""Libraries that only some workloads need: imported when a network is built, and missed in one line."""

import importlib
from typing import Any

from fourfold.errors import Unavailable


def library(name: str, extra: str) -> Any:
    """The module of that name.

    Raises Unavailable, with the command that installs it, if it is not here; ``extra`` is its group in pyproject.toml.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        absent = (error.name or name).partition(".")[0]
        raise Unavailable(f"the package {absent} is not installed: pip install 'fourfold[{extra}]'") from error
