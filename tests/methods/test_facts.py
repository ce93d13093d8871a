"""What a method asks of its setting is what its YAML says that it needs or uses."""

from collections.abc import Iterable, Iterator, Set
from typing import Any

import pytest
from torch import Tensor

from fourfold.settings.stream import Stream, View
from learning import Bench, applies, member, names, same

# By these every method tells which outputs there are; they change nothing that it is told.
FORM = {"stationary", "shared_outputs"}
KINDS = ("task_incremental", "multi_task", "class_incremental", "online", "domain_incremental", "continual")
RUN = {name: setting for name in names("method") for setting in reversed(KINDS) if applies(name, setting)}
SHORT: dict[str, dict[str, Any]] = {"gdumb": {"passes": 2}, "cn_dpm": {"memory": 20, "sleep_steps": 3}}


class Grants(Set[str]):
    """A set that notes what it is asked for."""

    def __init__(self, facts: frozenset[str], asked: set[str]) -> None:
        self.facts, self.asked = facts, asked

    def __contains__(self, fact: object) -> bool:
        self.asked.add(str(fact))
        return fact in self.facts

    def __iter__(self) -> Iterator[str]:
        return iter(self.facts)

    def __len__(self) -> int:
        return len(self.facts)

    @classmethod
    def _from_iterable(cls, facts: Iterable[str]) -> frozenset[str]:
        return frozenset(facts)


class Watched:
    """A view that notes which facts are asked for: of its grants, and by looking at what tasks there are."""

    def __init__(self, view: View, asked: set[str]) -> None:
        self.view, self.asked = view, asked
        self.grants = Grants(view.grants, asked)

    def __getattr__(self, name: str) -> Any:
        if name in ("task_outputs", "tasks"):
            self.asked.add("task_labels_test")
        return getattr(self.view, name)


def declared(method: str) -> set[str]:
    node = member(f"method/{method}")
    told = {"task_labels_test"} if "true_tasks" in node["needs"] else set()
    return {*node["needs"], *node["uses"], *told}


@pytest.mark.parametrize("method", RUN)
def test_a_method_asks_for_no_fact_that_it_does_not_tell_of(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    plain = Stream.view
    monkeypatch.setattr(Stream, "view", lambda stream, device: Watched(plain(stream, device), asked))
    made = Bench(method, RUN[method], steps=6, **SHORT.get(method, {}))
    made.learn_all()
    made.scores(0)
    assert asked - FORM <= declared(method)


def test_what_is_asked_is_noted() -> None:
    asked: set[str] = set()
    grants = Grants(frozenset({"a", "b"}), asked)
    assert ("a" in grants, {"b"} <= grants, {"c"} <= grants, grants & {"d"}) == (True, True, False, frozenset())
    assert asked == {"a", "b", "c", "d"}


def scores(method: str, told: bool) -> Tensor:
    """Of the first context, after two that are announced or not."""
    made = Bench(method, "class_incremental", **SHORT.get(method, {}))
    made.told = told
    for phase in range(2):
        made.learn(phase, steps=4)
    return made.scores(0)


UNTOLD = [name for name in RUN if "boundaries_train" not in declared(name) and applies(name, "class_incremental")]


@pytest.mark.parametrize("method", UNTOLD)
def test_a_method_that_does_not_tell_of_boundaries_learns_the_same_without_them(method: str) -> None:
    assert same(scores(method, told=True), scores(method, told=False))


def test_replay_learns_otherwise_without_boundaries() -> None:
    assert not same(scores("replay", told=True), scores("replay", told=False))
