"""`list`: the members of each axis, a line each. `tree`: the settings, derived from what they grant."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fourfold import compatibility, composition
from fourfold.cli.sources import description, hydra
from fourfold.cli.tree_svg import tree_svg
from fourfold.compatibility import Member
from fourfold.errors import Refused, nearest

RULE = "method/rule"
# Groups besides the axes that a user chooses from.
OTHER_GROUPS = (
    "scale",
    "until",
    "optimizer",
    "tracking",
    "suite",
    "benchmark/model",
    "benchmark/data",
    "benchmark/augmentation",
)


def list_text(axis: str | None) -> str:
    """The members of an axis (without one: of the four axes and the rule), each with what its YAML says first.

    Raises Refused if there is no such axis.
    """
    with hydra():
        if axis is None:
            groups = [*compatibility.AXES, RULE]
        else:
            groups = [_group(axis)]
        return "\n\n".join(_group_text(group) for group in groups)


def _group(axis: str) -> str:
    axis = {"rule": RULE, "model": "benchmark/model", "data": "benchmark/data"}.get(axis, axis)
    known = [*compatibility.AXES, RULE, *(group for group in OTHER_GROUPS if composition.options(group))]
    if axis not in known:
        raise Refused(f"{axis}: no such axis; choose one of {', '.join(known)}{nearest(axis, known)}")
    return axis


def _group_text(group: str) -> str:
    names = composition.options(group)
    width = max(map(len, names), default=0)
    lines = [f"  {name:{width}}  {description(f'{group}/{name}')}".rstrip() for name in names]
    return "\n".join([f"{group}=", *lines])


@dataclass
class _Tree:
    """The derived tree: of each node its parents, what it grants, the methods that apply; which were shown."""

    parents: dict[str, list[str]]
    grants: dict[str, frozenset[str]]
    methods: dict[str, list[str]]
    shown: set[str]


def tree_picture() -> str:
    """The same as ``tree_text``, as SVG."""
    tree = _derived()
    return tree_svg(tree.parents, tree.grants, tree.methods)


def _derived() -> _Tree:
    with hydra():
        catalogue = composition.catalogue()
        grants = {_label(setting, catalogue["setting"]): setting.gives for setting in catalogue["setting"]}
        methods = {
            node: applicable([one for one in catalogue["setting"] if one.gives == facts], catalogue)
            for node, facts in grants.items()
        }
    return _Tree(compatibility.parents(catalogue["setting"]), grants, methods, set())


def tree_text() -> str:
    """Every setting below those that grant less: what it adds, and the methods that apply there."""
    tree = _derived()
    lines = ["settings, each below those that tell the learner less: + what it grants, + methods that apply besides"]
    for root in _ordered((node for node, above in tree.parents.items() if not above), tree):
        lines += ["", *_node_lines(root, None, "", tree)]
    return "\n".join(lines)


def _node_lines(node: str, above: str | None, indent: str, tree: _Tree) -> Iterator[str]:
    yield f"{indent}{node}"
    known_facts, known_methods = (tree.grants[above], tree.methods[above]) if above else (frozenset(), [])
    added = tree.grants[node] - known_facts
    yield f"{indent}  + {', '.join(sorted(added)) or 'nothing'}"
    new = [method for method in tree.methods[node] if method not in known_methods]
    if new:
        yield f"{indent}  + methods: {', '.join(new)}"
    lost = [method for method in known_methods if method not in tree.methods[node]]
    if lost:  # no benchmark that the setting can use is one for them
        yield f"{indent}  - methods: {', '.join(lost)}"
    if node in tree.shown:
        return  # it has several parents; what is below it was shown below the first
    tree.shown.add(node)
    for child in _ordered((child for child, parents in tree.parents.items() if node in parents), tree):
        yield from _node_lines(child, node, indent + "    ", tree)


def applicable(settings: list[Member], catalogue: Mapping[str, list[Member]]) -> list[str]:
    """The methods that make a cell in one of these settings, on some benchmark, hardware and rule together.

    Such a cell is asked what every cell is: whether all needs are met, and whether its values go together.
    """
    beside = _Beside(list(itertools.product(_kinds(catalogue["hardware"]), _kinds(catalogue[RULE]))))
    places = list(itertools.product(settings, catalogue["benchmark"]))
    return [
        method.name
        for method in catalogue["method"]
        if any(_makes_a_cell(setting, method, benchmark, beside) for setting, benchmark in places)
    ]


class _Beside:
    """The pairs of hardware and rule that a cell may have."""

    def __init__(self, pairs: list[tuple[Member, Member]]) -> None:
        self.pairs = pairs
        self.together = Member("", "", gives=compatibility.given(itertools.chain(*pairs)))

    def complete(self, members: list[Member]) -> bool:
        """Whether these members and one of the pairs have all that each of them needs."""
        return not compatibility.unmet([*members, self.together]) and any(
            not compatibility.unmet([*members, *pair]) for pair in self.pairs
        )


def _makes_a_cell(setting: Member, method: Member, benchmark: Member, beside: _Beside) -> bool:
    """Whether the three go together beside some hardware and rule, with a model that the benchmark can have."""
    if not beside.complete([setting, method, benchmark]):
        return False
    cell = dict(_usual_cell(benchmark.name))
    cell |= {member.axis: composition.own_values(f"{member.axis}/{member.name}") for member in (setting, method)}
    return any(_makes_sense({**cell, "benchmark": one}) for one in _with_each_model(cell["benchmark"]))


def _makes_sense(cell: Mapping[str, Any]) -> bool:
    try:
        composition.check_numbers(cell)
    except Refused:
        return False
    return True


@lru_cache(maxsize=256)
def _usual_cell(benchmark: str) -> dict[str, Any]:
    """The cell that only a benchmark is chosen of."""
    return composition.plain(composition.base_configuration((f"benchmark={benchmark}",)))


def _with_each_model(benchmark: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A benchmark as it is, then with each model that another benchmark of its kind has."""
    yield benchmark
    for other in composition.options("benchmark"):
        model = _model(f"benchmark/{other}")
        if model and composition.own_values(f"benchmark/{other}")["_target_"] == benchmark["_target_"]:
            yield {**benchmark, "model": composition.own_values(f"benchmark/model/{model}")}


def _model(path: str) -> str | None:
    """What the defaults list of a benchmark, or of one that it builds on, names as its model."""
    found = None
    for default in composition.raw(path).get("defaults") or ():
        if isinstance(default, Mapping):
            found = default.get("model", default.get("override model", found))
        elif default != "_self_":
            found = _model(f"benchmark/{default}") or found
    return found


def _kinds(members: Iterable[Member]) -> list[Member]:
    """One of all those with the same facts."""
    return list({(member.gives, member.needs): member for member in members}.values())


def _label(setting: Member, settings: Iterable[Member]) -> str:
    """The node of the tree that a setting is in: all that grant the same."""
    return " = ".join(sorted(other.name for other in settings if other.gives == setting.gives))


def _ordered(nodes: Iterable[str], tree: _Tree) -> list[str]:
    return sorted(nodes, key=lambda node: (len(tree.grants[node]), node))
