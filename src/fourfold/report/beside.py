"""Each row's rate beside that of the same row on the first hardware of the table."""

from collections.abc import Sequence

from fourfold.metrics.comparison import ratio
from fourfold.report.compare import rate_estimate, unlike_work
from fourfold.report.groups import AXES, Group
from fourfold.report.labels import projected_mark


def first_hardware(rows: Sequence[Group]) -> str | None:
    """The name to compare with: the hardware of the first row; None where there is no other."""
    names = dict.fromkeys(row.hardware for row in rows if row.hardware)
    return next(iter(names)) if len(names) > 1 else None


def ratio_texts(rows: Sequence[Group], first: str) -> tuple[list[str], list[str]]:
    """(a text a row, notes): the row's rate over that of its twin on hardware ``first``, marked as its rate is.

    Empty for rows of that hardware, and where one of both was measured and the other was not.
    """
    twins = {_name(row): row for row in rows if row.hardware == first}
    texts, notes = [], []
    for row in rows:
        twin = twins.get(_name(row))
        found = None if twin is None or twin is row else _ratio(row, twin)
        texts.append("" if found is None else f"{_mark(row, twin)}{found:.3g}")
        if found is not None and twin is not None:
            notes += [f"{row.benchmark}, {row.hardware}: {note}" for note in unlike_work(twin, row)]
    return texts, list(dict.fromkeys(notes))


def _ratio(row: Group, twin: Group) -> float | None:
    own, theirs = rate_estimate(row), rate_estimate(twin)
    if own is None or theirs is None or row.evidence != twin.evidence or row.unit != twin.unit:
        return None
    return ratio(theirs, own).value


def _name(row: Group) -> tuple[object, ...]:
    """What both have but the hardware; cells of one row each are told apart by their seed."""
    own = [word for word in row.variant.split() if not word.lstrip("+").startswith("hardware.")]
    return (row.row, *(getattr(row, axis) for axis in AXES if axis != "hardware"), *own, *row.seeds)


def _mark(*rows: Group | None) -> str:
    """Of two upper bounds no bound of their ratio follows: it is marked as projected."""
    return projected_mark(None) if any(row is not None and row.evidence == "projected" for row in rows) else ""
