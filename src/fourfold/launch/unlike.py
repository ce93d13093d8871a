"""Whether the rules that a sweep compares learn by unlike recipes, since published values are in force for some."""

from collections.abc import Iterable, Mapping
from typing import Any

Values = frozenset[tuple[str, Any]]  # (key, value) of what a cell learns by


def unlike_rules(cells: Iterable[Mapping[str, Any]]) -> str | None:
    """One line where cells that differ in their rule differ in batch or optimizer too, else None.

    cells: composed configurations. Those of a suite are left out: its rows say what they want.
    """
    by_rule: dict[tuple[str, ...], dict[str, set[Values]]] = {}
    for cell in cells:
        rule = (cell["method"].get("rule") or {}).get("name")
        if rule and not cell["suite"]["name"]:
            place = (str(cell["benchmark"]), cell["setting"]["name"], cell["method"]["_target_"])
            by_rule.setdefault(place, {}).setdefault(rule, set()).add(learned_by(cell))
    for rules in by_rule.values():
        if len(set(map(frozenset, rules.values()))) > 1:
            every = [values for own in rules.values() for values in own]
            keys = sorted({key for values in every for key, _ in values.difference(frozenset.intersection(*every))})
            return (
                f"rules {', '.join(rules)} differ in {', '.join(keys)}, by the published values of conf/tuned/rule; "
                "tuned/rule=off leaves these out"
            )
    return None


def learned_by(cell: Mapping[str, Any]) -> Values:
    """The batch and the optimizer's values."""
    optimizer = {f"optimizer.{key}": value for key, value in cell["optimizer"].items()}
    return frozenset({"batch": cell["batch"], **optimizer}.items())
