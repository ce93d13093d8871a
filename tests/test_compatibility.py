"""One test decides which cells make sense, and explains itself."""

from fourfold.compatibility import Member, explain_unmet, given, parents, unmet


def member(axis: str, name: str, gives: str = "", needs: str = "", oracle: bool = False) -> Member:
    return Member(axis, name, frozenset(gives.split()), frozenset(needs.split()), oracle=oracle)


EASY = member("setting", "easy", "told shown")
HARD = member("setting", "hard", "shown")
METHOD = member("method", "clever", needs="told")


def test_a_cell_is_valid_when_every_need_is_given_by_some_member() -> None:
    assert unmet([EASY, METHOD]) == []
    (problem,) = unmet([HARD, METHOD])
    assert (problem.member, problem.need) == (METHOD, "told")


def test_the_refusal_names_who_needs_what_and_who_gives_it() -> None:
    members = [HARD, METHOD]
    (problem,) = unmet(members)
    line = explain_unmet([problem], members, {"setting": [EASY, HARD]})
    assert line == "method clever needs told, which setting hard does not grant; these do: setting=easy"


def test_the_refusal_names_all_that_is_missing_and_the_nearest_choices_that_work() -> None:
    """`far` gives more than is asked, `half` one need of two; `wrong` gives both, but needs what nobody gives."""
    deep = member("method", "deep", needs="told led")
    half, near = member("setting", "half", "told shown"), member("setting", "near", "told led shown")
    far = member("setting", "far", "told led shown loud bright")
    wrong = member("setting", "wrong", "told led shown", needs="magic")
    settings = [far, half, HARD, near, wrong]
    line = explain_unmet(unmet([HARD, deep]), [HARD, deep], {"setting": settings})
    assert line == (
        "method deep needs led and told, which setting hard does not grant; these do, nearest first: setting=near,far"
    )
    line = explain_unmet(unmet([HARD, deep]), [HARD, deep], {"setting": [half], "benchmark": [member("b", "c", "led")]})
    assert line == "method deep needs led; these do: benchmark=c", "no setting has it: the need that a benchmark meets"
    line = explain_unmet(unmet([HARD, deep]), [HARD, deep], {"setting": [wrong]})
    assert line.endswith("these do: setting=wrong"), "nothing works; it is said what gives these needs"


def test_a_need_may_have_alternatives() -> None:
    choosy = member("method", "choosy", needs="sharp|shown")
    assert unmet([HARD, choosy]) == []
    elsewhere = member("method", "choosy", needs="sharp|told")
    (problem,) = unmet([HARD, elsewhere])
    line = explain_unmet([problem], [HARD, elsewhere], {"setting": [EASY, HARD]})
    assert line == "method choosy needs sharp or told, which setting hard does not grant; these do: setting=easy"


def test_all_data_is_given_to_bounds_only() -> None:
    bound = member("method", "bound", needs="all_data", oracle=True)
    cheat = member("method", "cheat", needs="all_data")
    assert unmet([HARD, bound]) == []
    assert unmet([HARD, cheat])
    assert not given([EASY]) & {"all_data", "true_tasks"}


def test_the_tree_is_derived_and_equal_grants_are_one_node() -> None:
    settings = [
        member("setting", "root", "a"),
        member("setting", "left", "a b"),
        member("setting", "alias", "a b"),
        member("setting", "right", "a c"),
        member("setting", "both", "a b c"),
    ]
    assert parents(settings) == {
        "root": [],
        "alias = left": ["root"],
        "right": ["root"],
        "both": ["alias = left", "right"],
    }
