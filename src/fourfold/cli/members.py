"""`list`: the members of each axis, a line each. `tree`: the settings, derived from what they grant."""

from collections.abc import Iterable, Iterator

from fourfold import compatibility, composition
from fourfold.cli.sources import description, hydra
from fourfold.compatibility import Member
from fourfold.errors import Refused, nearest

RULE = "method/rule"
# Groups besides the axes that a user chooses from.
OTHER_GROUPS = ("scale", "until", "optimizer", "tracking", "suite", "benchmark/model", "benchmark/data")


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


def tree_text() -> str:
    """Every setting below those that grant less: what it adds, and the methods that apply there."""
    with hydra():
        catalogue = composition.catalogue()
    parents = compatibility.parents(catalogue["setting"])
    grants = {_label(setting, catalogue): setting.gives for setting in catalogue["setting"]}
    roots = [node for node, above in parents.items() if not above]
    common = frozenset.intersection(*grants.values()) if grants else frozenset()
    lines = ["settings, each below those that tell the learner less (+ what it grants besides)"]
    if len(roots) > 1:
        lines.append(f"all grant: {_facts(common)}")
    shown: set[str] = set()
    for root in _ordered(roots, grants):
        added = grants[root] - (common if len(roots) > 1 else frozenset())
        lines += ["", *_node_lines(root, added, "", parents, grants, catalogue, shown)]
    return "\n".join(lines)


def _node_lines(
    node: str,
    added: frozenset[str],
    indent: str,
    parents: dict[str, list[str]],
    grants: dict[str, frozenset[str]],
    catalogue: dict[str, list[Member]],
    shown: set[str],
) -> Iterator[str]:
    yield f"{indent}{node}"
    if node in shown:
        yield f"{indent}  (as above)"
        return
    shown.add(node)
    yield f"{indent}  + {_facts(added)}"
    yield f"{indent}  methods: {', '.join(applicable(grants[node], catalogue)) or 'none'}"
    below = [child for child, above in parents.items() if node in above]
    for child in _ordered(below, grants):
        yield from _node_lines(child, grants[child] - grants[node], indent + "    ", parents, grants, catalogue, shown)


def applicable(grants: frozenset[str], catalogue: dict[str, list[Member]]) -> list[str]:
    """The methods whose needs are met under these grants on some benchmark, hardware and rule."""
    elsewhere = frozenset().union(
        *(member.gives for axis in ("benchmark", "hardware", RULE) for member in catalogue[axis])
    )
    found = []
    for method in catalogue["method"]:
        given = grants | elsewhere | method.gives | (frozenset({"all_data"}) if method.oracle else frozenset())
        if method.needs <= given:
            found.append(method.name)
    return found


def _label(setting: Member, catalogue: dict[str, list[Member]]) -> str:
    """The node of the tree that a setting is in: all that grant the same."""
    return " = ".join(sorted(other.name for other in catalogue["setting"] if other.gives == setting.gives))


def _ordered(nodes: Iterable[str], grants: dict[str, frozenset[str]]) -> list[str]:
    return sorted(nodes, key=lambda node: (len(grants[node]), node))


def _facts(facts: Iterable[str]) -> str:
    return ", ".join(sorted(facts)) or "nothing"
