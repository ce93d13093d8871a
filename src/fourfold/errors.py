"""What can go wrong, by the state it leaves a cell in. Every message is one line for a person to read."""

import difflib
import os
from collections.abc import Iterable

DONE, FAILED, UNAVAILABLE, REFUSED = "done", "failed", "unavailable", "refused"
NOT_APPLICABLE, INTERRUPTED = "not applicable", "interrupted"
STATES = (DONE, FAILED, UNAVAILABLE, REFUSED, NOT_APPLICABLE, INTERRUPTED)


class FourfoldError(Exception):
    """An error with a message of one line and the state of the cell that it ends."""

    state = FAILED
    reason = "error"


class Refused(FourfoldError):
    """The configuration makes no sense; nothing was started."""

    state = REFUSED
    reason = "refused"


class BatchTooLarge(Refused):
    """The data have fewer samples than one batch is to hold."""


class NotApplicable(Refused):
    """Every name and value is right, but together they make no sense: a sweep leaves such a cell out."""


class Unavailable(FourfoldError):
    """A device, data set or library that was asked for is not here."""

    state = UNAVAILABLE
    reason = "unavailable"


class Failed(FourfoldError):
    """The cell ran and broke; ``reason`` is its class: out of memory, nan, timeout, lost node, bug."""

    def __init__(self, message: str, reason: str = "bug") -> None:
        super().__init__(message)
        self.reason = reason


def exit_code(states: Iterable[str]) -> int:
    """The exit status of a run with these states.

    130 if any was interrupted, 1 if any failed or was unavailable, 2 if nothing was left to run
    but refusals (or nothing at all), else 0.
    """
    found = list(states)
    if INTERRUPTED in found:
        return 130
    if FAILED in found or UNAVAILABLE in found:
        return 1
    if DONE not in found and NOT_APPLICABLE not in found:
        return 2
    return 0


# keys of a member that say what it is, which nobody sets from a shell
FIXED = {"name", "needs", "grants", "offers", "uses", "limits", "check", "match", "oracle", "rule", "search"}


def nearest(word: str, choices: Iterable[str]) -> str:
    """'; did you mean X?' if one of the choices is close to the word, else an empty string."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def nearest_key(key: str, keys: Iterable[str]) -> str:
    """Like ``nearest``, among the keys beside this one, which are listed where none is close; else by depth."""
    parent, _, last = key.rpartition(".")
    known = list(keys)
    beside = sorted(other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == parent)
    settable = [name for name in beside if name not in FIXED and not name.startswith("_")]
    if not parent or not settable:
        return nearest(key, [other for other in known if other.count(".") == key.count(".")])
    close = nearest(last, beside).replace("mean ", f"mean {parent}.")
    return close or f"; {parent} has {', '.join(settable)}"


def debugging() -> bool:
    """Whether FOURFOLD_DEBUG=1 asks for tracebacks."""
    return os.environ.get("FOURFOLD_DEBUG", "") not in ("", "0")
