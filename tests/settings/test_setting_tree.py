"""The tree of settings is derived from what they grant; it must come out as Sequoia published it."""

from fourfold.compatibility import parents
from learning import facts, names

# Normandin et al. 2021, figure 1; supervised branch.
SEQUOIA = {
    "continual": [],
    "discrete": ["continual"],
    "class_incremental = incremental": ["discrete"],
    "task_incremental": ["class_incremental = incremental"],
    "domain_incremental": ["class_incremental = incremental"],
    "traditional": ["class_incremental = incremental"],
    "multi_task": ["task_incremental", "traditional"],
}
NAMES = [name for node in SEQUOIA for name in node.split(" = ")]


def test_the_derived_tree_is_sequoias() -> None:
    assert parents([facts(f"setting/{name}") for name in NAMES]) == SEQUOIA


def test_our_other_settings_fit_in_without_moving_sequoias() -> None:
    tree = parents([facts(f"setting/{name}") for name in names("setting")])
    node_of = {name: node for node in tree for name in node.split(" = ")}

    def above(node: str) -> set[str]:
        return set(tree[node]).union(*(above(other) for other in tree[node]))

    for child, direct in SEQUOIA.items():
        for parent in direct:
            assert node_of[parent.split(" = ")[0]] in above(node_of[child.split(" = ")[0]])
    assert node_of["blurry"] == node_of["continual"]
    assert node_of["imbalanced"] == node_of["class_incremental"]
    assert node_of["permuted"] == node_of["domain_incremental"]
    assert above(node_of["online"]) == {node_of["discrete"], node_of["continual"]}
