"""What a monitor reads, and from whom."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

# Of one look, each absent where the machine does not tell: power (watts), energy (joules since some moment),
# utilisation (0 to 1), memory (bytes in use), clock (hertz), temperature (degrees Celsius), throttled (a sum of
# THROTTLED), disk (bytes of files).
FIELDS = ("power", "energy", "utilisation", "memory", "clock", "temperature", "throttled", "disk")
# Why a clock is lower than it could be; several at once add up.
THROTTLED = {"power": 1, "heat": 2, "hardware": 4}


class Look(dict[str, float]):
    """What was read of FIELDS; ``missed`` says why, of those that were not."""

    def __init__(self, **values: float) -> None:
        super().__init__(values)
        self.missed: dict[str, str] = {}


class Source(Protocol):
    """One device that can be looked at. ``kind`` is device or host: only a device's energy is the cell's."""

    name: str
    kind: str

    def read(self) -> Mapping[str, float]:
        """Some of FIELDS. May raise: a source that fails thrice in a row is left alone from then on."""
        ...

    def close(self) -> None:
        """Gives back what was opened."""
        ...


def guarded(look: Look, field: str, read: object, scale: float = 1.0) -> None:
    """Adds ``field`` if this device tells it: what is not supported is absent, and no reason to fail."""
    try:
        look[field] = float(read()) * scale  # type: ignore[operator]
    except Exception as error:
        look.missed[field] = first_line(error)


def first_line(error: Exception) -> str:
    """Of its message; of one without a message, its kind."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def in_use(
    library: str, shown: Sequence[Any], identities: Sequence[str], names: Callable[[Any], Iterable[str]]
) -> list[Any]:
    """The handle of each device of this process among all that a library shows, which on a shared node has others'.

    By one of its ``names`` (UUIDs); in the library's order only where all that it shows are in use, since then no
    neighbour's can be taken. Raises RuntimeError where it is not known which are meant.
    """
    if len(shown) < len(identities):
        raise RuntimeError(f"{library} shows {len(shown)} devices, {len(identities)} are in use")
    named = [(plain(name), handle) for handle in shown for name in set(names(handle))]
    often = Counter(name for name, _ in named)
    known = {name: handle for name, handle in named if name and often[name] == 1}
    found = [plain(identity) for identity in identities]
    if set(found) <= known.keys():
        return [known[name] for name in found]
    if len(shown) == len(identities):
        return list(shown)
    raise RuntimeError(
        f"{library} shows {len(shown)} devices, {len(identities)} in use, and their UUIDs do not tell which"
    )


def plain(identity: str) -> str:
    """A UUID without what is only its spelling."""
    return identity.lower().removeprefix("gpu-").replace("-", "")
