"""Which cells make sense: a setting grants, benchmark, hardware, method and rule offer, each may need.

This is the one mechanism behind refusals, pruning, the applicability table and the tree of settings.
Nothing here imports torch: facts are plain words in the YAML of each member.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

AXES = ("benchmark", "hardware", "setting", "method")
# Where a refusal looks for who gives what is needed, in this order.
GIVERS = ("setting", "benchmark", "hardware", "method/rule", "method")

# What each fact means, for `explain`, `tree` and the documentation. A member from outside may use others.
FACTS: dict[str, str] = {
    "owns_loop": "the method may drive its own training loop",
    "abrupt_contexts": "contexts change at a point, not gradually",
    "boundaries_train": "the learner is told, while it learns, when a context ends",
    "boundaries_test": "the learner is told, while it is tested, when a context ends",
    "task_labels_train": "the context of each training sample is given",
    "task_labels_test": "the context of each test sample is given",
    "multiple_epochs": "the data of a context may be seen more than once",
    "shared_outputs": "all contexts use the same outputs",
    "stationary": "the distribution of the data does not change",
    "recurrence": "contexts come back",
    "pretraining": "there is a phase of training before the stream",
    "support_sets": "labelled samples of the running context are shown before it is judged",
    "meta_training": "classes are kept apart for training before the stream",
    "regression": "targets are numbers",
    "all_data": "the data of all contexts at once; granted to bounds (oracle methods) only",
    "true_tasks": "the context of each sample, in training and at test, told or not; granted to bounds only",
    "as_it_comes": "the method learns from what comes when it comes; of all methods but bounds",
    "supervised": "samples come with targets",
    "classification": "targets are classes",
    "domains": "the data comes from several domains, told apart",
    "differentiable": "the model has gradients",
    "layered": "the model is a plain sequence of layers",
    "generates": "the model writes its output token by token",
    "splits": "the model says how its layers are split over devices",
    "fp8_products": "8-bit products are made by the work itself, as no autocast makes them",
    "kernel": "one operation to run, without model or data",
    "evaluation": "there is held-out data to judge by",
    "gradients": "a rule that fills the gradients",
    "exact_gradients": "a rule that is the derivative of the loss itself, which can be differentiated again",
    "end_to_end_gradients": "a rule whose errors reach every layer from any loss, those on hidden features, too",
    "plain_forward": "a rule that trains and predicts by the network's own pass over a batch as it is",
    "trained_by_gradients": "a method that learns from gradients",
    "collectives": "devices can exchange tensors",
    "fp32": "32-bit floating point",
    "tf32": "32-bit floating point with 10-bit mantissa products",
    "bf16": "bfloat16 mixed precision",
    "fp16": "float16 mixed precision with loss scaling",
    "fp8": "8-bit floating point products",
}


TO_BOUNDS = frozenset({"all_data", "true_tasks"})


@dataclass(frozen=True)
class Member:
    """The facts of one chosen member: ``axis`` is its group, e.g. "method/rule"."""

    axis: str
    name: str
    gives: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()
    oracle: bool = False

    @classmethod
    def read(cls, axis: str, node: Mapping[str, Any]) -> "Member":
        """From the member's configuration; a setting's grants and the others' offers are what it gives.

        Every method but a bound gives ``as_it_comes``, which settings that draw their data as they go need.
        """
        oracle = bool(node.get("oracle", False))
        own = {"as_it_comes"} if axis == "method" and not oracle else set()
        return cls(
            axis=axis,
            name=str(node["name"]),
            gives=frozenset(node.get("grants") or node.get("offers") or ()) | own,
            needs=frozenset(node.get("needs") or ()),
            uses=frozenset(node.get("uses") or ()),
            oracle=oracle,
        )


@dataclass(frozen=True)
class Unmet:
    """A need of one member that no member of the cell gives."""

    member: Member
    need: str


def members_of(cell: Mapping[str, Any]) -> list[Member]:
    """The members of a composed cell: the four axes and the rule."""
    members = [Member.read(axis, cell[axis]) for axis in AXES]
    rule = cell["method"].get("rule")
    if rule:
        members.append(Member.read("method/rule", rule))
    return members


def given(members: Iterable[Member]) -> frozenset[str]:
    """All facts that hold in a cell of these members."""
    members = list(members)
    facts = frozenset().union(*(member.gives for member in members))
    return facts | TO_BOUNDS if any(member.oracle for member in members) else facts


def unmet(members: Iterable[Member]) -> list[Unmet]:
    """The needs that are not met; empty if and only if the cell is valid."""
    members = list(members)
    facts = given(members)
    return [Unmet(member, need) for member in members for need in sorted(member.needs) if not met(need, facts)]


def met(need: str, facts: Collection[str]) -> bool:
    """Whether a need is among the facts; of one with alternatives, "a|b", whether any is."""
    return any(alternative in facts for alternative in need.split("|"))


def meaning(need: str) -> str | None:
    """What a need means, for people; None for a fact that is not the project's."""
    known = [FACTS[alternative] for alternative in need.split("|") if alternative in FACTS]
    return ", or ".join(known) or None


def explain_unmet(
    problems: Sequence[Unmet], members: Iterable[Member], catalogue: Mapping[str, Iterable[Member]]
) -> str:
    """One line: what the first of these needs, and what else that member lacks of the same axis; who does not give it,
    and which other choices would: those with which the cell is valid, if there are any.

    ``catalogue`` maps each axis to all of its members. Settings come nearest first: the fewest facts granted otherwise.
    """
    members, first = list(members), problems[0]
    axis = next((axis for axis in GIVERS if _able(catalogue.get(axis, ()), [first.need])), None)
    if axis is None:
        return f"{first.member.axis} {first.member.name} needs {_told(first.need)}, which no member gives"
    needs = [first.need]
    for other in problems[1:]:
        if other.member == first.member and _able(catalogue[axis], [*needs, other.need]):
            needs.append(other.need)
    ours = next((member for member in members if member.axis == axis), None)
    beside = [member for member in members if member.axis != axis]
    able = _able(catalogue[axis], needs)
    working = [other for other in able if not unmet([*beside, other])] or able
    granted = ours.gives if ours and axis == "setting" else None
    apart = {other.name: 0 if granted is None else len(other.gives ^ granted) for other in working}
    near = sorted(apart, key=lambda name: (apart[name], name))
    who = f"{first.member.axis} {first.member.name} needs {' and '.join(map(_told, needs))}"
    against = f", which {axis} {ours.name} does not {'grant' if axis == 'setting' else 'offer'}" if ours else ""
    order = ", nearest first" if granted is not None and len(near) > 1 else ""
    return f"{who}{against}; these do{order}: {axis}={','.join(near)}"


def _able(members: Iterable[Member], needs: Sequence[str]) -> list[Member]:
    """Those that give all of the needs by themselves."""
    return [member for member in members if all(met(need, member.gives) for need in needs)]


def _told(need: str) -> str:
    """A need in words, with what it means."""
    words = need.replace("|", " or ")
    return f"{words} ({meaning(need)})" if meaning(need) else words


def parents(settings: Iterable[Member]) -> dict[str, list[str]]:
    """The derived tree: for each node (settings of equal grants are one node), its direct parents.

    A is below B when it grants strictly more. Node names are the settings' names joined by " = ".
    """
    nodes: dict[frozenset[str], list[str]] = {}
    for setting in settings:
        nodes.setdefault(setting.gives, []).append(setting.name)
    label = {grants: " = ".join(sorted(names)) for grants, names in nodes.items()}
    tree = {}
    for grants in nodes:
        above = [other for other in nodes if other < grants]
        direct = [other for other in above if not any(other < between for between in above)]
        tree[label[grants]] = sorted(label[other] for other in direct)
    return tree
