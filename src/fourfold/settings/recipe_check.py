"""Whether the recipe of a supervised stream is what its setting grants; nothing here imports torch.

What a setting grants decides where methods apply and where it stands in the tree, so that a value which makes another
stream of it has to be refused: a method would be told boundaries that are not there.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fourfold.errors import Refused

APART = ("classes", "permutation", "rotation")  # ways to split by which contexts have outputs of their own
ALIKE = ("none", "samples")  # those by which every context has the same distribution, mixed or not


class Claim(NamedTuple):
    """A fact that the values of one key make true or false, and the value that would agree with the grants."""

    key: str
    fact: str
    holds: bool
    other: Any


def check(cell: Mapping[str, Any]) -> None:
    """Raises Refused where a value contradicts a grant of the setting, with the key, the value and what would do."""
    setting = cell["setting"]
    if setting["mixed"] and setting["phases"] == "contexts" and setting["contexts"] > 1:
        raise Refused(
            "setting.mixed=true: contexts that come one after another cannot be mixed; setting.mixed=false, or "
            "setting=traditional or multi_task, which learn them at once"
        )
    for key, fact, holds, other in claims(setting, cell["benchmark"]["offers"]):
        if holds != (fact in setting["grants"]):
            grants = "does not grant" if holds else "grants"
            raise Refused(
                f"setting.{key}={_written(setting[key])}: setting {setting['name']} {grants} {fact}, which "
                f"{'holds' if holds else 'does not hold'} then; choose setting.{key}={_written(other)}, or a setting "
                f"that {'grants' if holds else 'does not grant'} it (python -m fourfold tree)"
            )


def claims(setting: Mapping[str, Any], offers: list[str]) -> Iterator[Claim]:
    """What the recipe says about each fact that it decides; nothing where it does not matter."""
    split = setting["split"]
    if split == "auto":
        split = "domains" if "domains" in offers else "classes"
    at_once = setting["phases"] == "one"
    several = setting["contexts"] > 1 and split != "none"
    if several and split not in ALIKE:
        yield Claim("mixed", "stationary", setting["mixed"], not setting["mixed"])
    if several and not setting["mixed"]:
        yield Claim("phases", "boundaries_train", not at_once, "one" if not at_once else "contexts")
    if several and split in APART:
        shared = setting["outputs"] == "shared"
        yield Claim("outputs", "shared_outputs", shared, "all" if shared else "shared")
    yield Claim("single_pass", "multiple_epochs", not setting["single_pass"], not setting["single_pass"])
    if setting["drift"] and "abrupt_contexts" in setting["grants"] and not setting["mixed"]:
        yield Claim("drift", "abrupt_contexts", False, 0.0)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
