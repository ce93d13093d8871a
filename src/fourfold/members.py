"""From the YAML of a member to the object that it names."""

from collections.abc import Mapping
from typing import Any

from hydra.utils import get_object

from fourfold import schema
from fourfold.errors import Refused, Unavailable

NOT_PARAMETERS = ("limits", "_target_", "sizes", "check", "pretrained", "branches")


def target(node: Mapping[str, Any]) -> Any:
    """The class or function that a node's ``_target_`` names.

    Raises Unavailable if a library that it needs is not installed, Refused if there is no such object.
    """
    path = node["_target_"]
    try:
        return get_object(path)
    except Exception as error:
        missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__ or error.__context__
        if isinstance(missing, ModuleNotFoundError) and not str(path).startswith(str(missing.name)):
            raise Unavailable(f"{path} needs the package {missing.name}: pip install {missing.name}") from error
        raise Refused(f"_target_={path}: {str(error).splitlines()[0]}") from error


def parameters(node: Mapping[str, Any], axis: str) -> dict[str, Any]:
    """The keys of a member that are its own: arguments of its constructor."""
    common = getattr(schema.COMMON.get(axis), "__dataclass_fields__", {})
    return {key: value for key, value in node.items() if key not in common and key not in NOT_PARAMETERS}
