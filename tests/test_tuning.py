"""Choosing values: by which protocol, over which space, and recorded as such."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fourfold import tuning
from fourfold.composition import compose, config_directory, plain
from fourfold.errors import Failed, NotApplicable, Unavailable
from fourfold.experiment import run_cell
from fourfold.metrics import evaluation_figures, figures
from fourfold.metrics.directions import directions
from fourfold.settings.stream import first_contexts
from learning import make_stream, member, names
from records import evaluations, make_record

WORDS = ("benchmark=digits", "setting=class_incremental", "until.steps=20")


def cell(*words: str) -> dict[str, Any]:
    return plain(compose([*WORDS, *words]))


def test_the_best_of_all_combinations_is_chosen_and_all_are_kept() -> None:
    asked: list[tuple[float, int | None, str]] = []

    def score(tried: Any, contexts: int | None) -> float | None:
        value = tried["method"]["strength"]
        asked.append((value, contexts, tried["evaluate_on"]))
        return {1.0: 0.5, 2.0: 0.9, 3.0: 0.9, 4.0: None}[value]

    given = cell("method=mas", "tune=first_k_tasks", "method.search={strength:[1.0,2.0,3.0,4.0]}")
    found, report = tuning.chosen(given, score)
    assert found["method"]["strength"] == 2.0
    assert given["method"]["strength"] != 2.0, "the cell that was asked for stays as it was"
    assert report["chosen"] == {"strength": 2.0}
    assert [trial["score"] for trial in report["trials"]] == [0.5, 0.9, 0.9, None]
    assert asked == [(value, 2, "validation") for value in (1.0, 2.0, 3.0, 4.0)]


@pytest.mark.parametrize(
    ("protocol", "contexts", "judged"), [("validation_stream", None, "validation"), ("oracle", None, "test")]
)
def test_a_protocol_says_what_is_looked_at(protocol: str, contexts: int | None, judged: str) -> None:
    seen = []
    tuning.chosen(
        cell("method=mas", f"tune={protocol}"), lambda tried, k: seen.append((k, tried["evaluate_on"])) or 0.5
    )
    assert set(seen) == {(contexts, judged)}


def test_many_combinations_are_a_seeded_choice_in_order() -> None:
    space = {"a": list(range(10)), "b": list(range(10))}
    few, again, other = (tuning.combinations(space, 7, seed) for seed in (0, 0, 1))
    assert len(few) == 7
    assert few == again != other
    assert few == sorted(few, key=lambda one: (one["a"], one["b"]))
    assert len(tuning.combinations(space, 1000, 0)) == 100


def test_optuna_proposes_each_trial_after_those_before() -> None:
    pytest.importorskip("optuna", reason="the extra tuning is not installed")
    words = ("method=mas", "tune=validation_stream", "tune.sampler=tpe", "tune.trials=25")
    asked: list[float] = []

    def score(tried: Any, contexts: int | None) -> float | None:
        asked.append(tried["method"]["strength"])
        return None if asked[-1] < 3 else -abs(asked[-1] - 40.0)

    found, report = tuning.chosen(cell(*words, f"method.search={{strength:{list(map(float, range(60)))}}}"), score)
    assert report["sampler"] == "tpe"
    assert [trial["values"]["strength"] for trial in report["trials"]] == asked
    assert len(asked) == len(set(asked)) <= 25, "a combination is tried once"
    assert abs(found["method"]["strength"] - 40) <= 3
    late = asked[len(asked) // 2 :]
    assert sum(abs(value - 40) <= 10 for value in late) > len(late) / 2, "it looks where it was good"
    again = list(asked)
    asked.clear()
    tuning.chosen(cell(*words, f"method.search={{strength:{list(map(float, range(60)))}}}"), score)
    assert asked == again, "the seed decides"


def test_without_optuna_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(Unavailable, match=r"the package optuna is not installed: pip install 'fourfold\[tuning\]'"):
        tuning.chosen(cell("method=mas", "tune=oracle", "tune.sampler=tpe"), lambda tried, contexts: 0.5)


def test_a_dotted_key_is_one_of_the_cell() -> None:
    found = tuning.with_values(cell("method=finetune"), {"optimizer.learning_rate": 0.5})
    assert found["optimizer"]["learning_rate"] == 0.5


def test_nothing_is_chosen_where_every_trial_broke() -> None:
    with pytest.raises(Failed, match="none of the 5 trials"):
        tuning.chosen(cell("method=mas", "tune=oracle"), lambda tried, contexts: float("nan"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("method=gdumb", "tune=oracle", "~method.search"), "cannot be left out"),
        (("method=random", "tune=oracle"), "random has no search space"),
        (("method=mas", "tune=oracle", "+method.search.strenght=[1.0]"), "did you mean strength"),
        (("method=mas", "tune=oracle", "method.search.strength=3"), "must be a list"),
        (("method=mas", "tune=oracle", "method.search.strength=[]"), "method.search.strength=[]: must be a list"),
        (
            ("method=mas", "tune=oracle", "method.search.strength={a:1}"),
            "method.search.strength={a:1}: must be of the kind",
        ),
        (("method=mas", "tune=oracle", "method.search=3"), "method.search=3: must be keys"),
        (
            ("method=mas", "tune=oracle", "method.search.strength=[1.0,-1.0]"),
            "method.search.strength: method.strength=-1.0: must be between 0",
        ),
        (
            ("method=mas", "tune=oracle", "method.search={strength:[1.0,many]}"),
            "method.search.strength: method.strength=many: must be a number",
        ),
        (
            ("method=replay", "tune=oracle", "method.search={storage:[ring,rng]}"),
            "method.search.storage: method.storage=rng: choose one of reservoir, balanced, ring; did you mean ring?",
        ),
        (
            ("method=replay", "tune=oracle", "+method.search.optimizer.learning_rate=[0.1]"),
            "method.search.optimizer={'learning_rate': [0.1]}: must be a list",
        ),
        (
            ("method=replay", "tune=oracle", "+method.search={optimizer.learning_rate:[0.1,-0.1]}"),
            "method.search.optimizer.learning_rate: optimizer.learning_rate=-0.1: must be between",
        ),
        (("method=replay", "tune=oracle", "+method.search={seed.x:[1]}"), "method.search.seed.x: replay has no such"),
        (("method=replay", "tune=oracle", "+method.search={name:[ewc]}"), "method.search.name: replay has no such"),
        (("method=replay", "tune=oracle", "+method.search={benchmark.model:[mlp]}"), "name one of them"),
        (
            ("method=replay", "tune=oracle", "+method.search={setting.contexts:[2,11]}"),
            "method.search.setting.contexts: setting.contexts=11: digits has 10 classes",
        ),
        (("method=mas", "tune=oracle", "method.search={largest:[1]}"), "+method.search={largest:[1]} adds a value"),
        (("method=mas", "tune=oracle", "method.search.largest=[1]"), "+method.search.largest=[1] adds a value"),
        (("method=random", "tune=oracle"), "+method.search.KEY=[VALUE,...] makes one"),
        (
            ("benchmark=osaka_glyphs", "setting=osaka", "method=maml", "tune=validation_stream"),
            "tune=validation_stream: benchmark osaka_glyphs draws its stream from all samples and holds none out",
        ),
        (("method=mas", "tune=first_k_tasks", "tune.contexts=6"), "class_incremental has 5"),
        (("method=mas", "tune=first_k_tasks", "tune.trials=0"), "tune.trials=0"),
        (("method=mas", "tune=guess"), "tune"),
        (("method=mas", "tune=oracle", "tune.sampler=tpee"), "tune.sampler=tpee"),
        (("method=mas", "tune=oracle", "tune.figure=averge_accuracy"), "did you mean average_accuracy"),
        (("method=mas", "tune=oracle", "tune.figure=step_seconds"), "tune.figure=step_seconds"),
    ],
)
def test_what_cannot_be_searched_is_refused(words: tuple[str, ...], message: str) -> None:
    from fourfold.errors import Refused

    with pytest.raises((Refused, NotApplicable)) as caught:
        cell(*words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", ["class_incremental", "recurring", "continual", "blurry"])
def test_the_first_contexts_are_a_stream_of_their_own(setting: str) -> None:
    whole = make_stream(setting)
    found = first_contexts(whole, 2)
    assert len(found.contexts) == 2
    assert found.outputs == whole.outputs
    assert [phase.index for phase in found.phases] == list(range(len(found.phases)))
    for phase in found.phases:
        assert len(phase.indices) == len(phase.context_of) > 0
        assert phase.context_of.max() < 2
    shown = torch.cat([phase.indices for phase in found.phases])
    assert torch.isin(shown, torch.cat([phase.indices for phase in whole.phases])).all()
    assert len(whole.contexts) == 5, "the stream itself stays as it is"


def test_a_cell_tunes_itself_and_its_record_says_so(run: Any) -> None:
    words = (*WORDS, "batch=16", "method=mas", "tune=first_k_tasks", "method.search={strength:[0.0,1000.0]}")
    record = run(*words)
    assert record.state == "done", record.message
    report = record.tuning
    assert report["protocol"] == "first_k_tasks"
    assert report["contexts"] == 2
    assert [trial["values"]["strength"] for trial in report["trials"]] == [0.0, 1000.0]
    assert all(0 <= trial["score"] <= 1 for trial in report["trials"])
    assert record.config["method"]["strength"] == report["chosen"]["strength"]
    assert record.config["evaluate_on"] == "test"
    assert report["seconds"] > 0
    plainly = run(*WORDS, "batch=16", "method=mas", f"method.strength={report['chosen']['strength']}")
    assert [e["value"] for e in plainly.evaluations] == [e["value"] for e in record.evaluations]


def test_the_direction_is_that_of_the_figure() -> None:
    scores = {1.0: 0.5, 2.0: 0.1, 3.0: 0.9}
    for figure, best in (("forgetting_max", 2.0), ("average_perplexity", 2.0), ("bwt_gem", 3.0), ("null", 3.0)):
        for sampler in ("grid", "tpe") if find_spec("optuna") else ("grid",):
            words = ("method=mas", "tune=oracle", f"tune.figure={figure}", f"tune.sampler={sampler}", "tune.trials=20")
            given = cell(*words, "method.search={strength:[1.0,2.0,3.0]}")
            found, report = tuning.chosen(given, lambda tried, contexts: scores[tried["method"]["strength"]])
            assert found["method"]["strength"] == best, (figure, sampler)
            assert report["figure"] == ("average_accuracy" if figure == "null" else figure)


@pytest.mark.parametrize(
    ("words", "figure"),
    [
        (("benchmark=digits", "setting=class_incremental"), "average_accuracy"),
        (("benchmark=text_domains", "setting=domain_incremental"), "average_perplexity"),
        (("benchmark=digits", "setting=osaka"), "cumulative_accuracy"),
        (("benchmark=harmonics", "setting=osaka"), "cumulative_squared_error"),
    ],
)
def test_the_figure_is_the_benchmarks_own(words: tuple[str, ...], figure: str) -> None:
    found = plain(compose([*words, "method=finetune"]))
    assert tuning.figure_of(found) == figure
    assert figure in directions()


def test_every_figure_of_a_record_that_can_be_chosen_by_has_a_direction() -> None:
    """Of what is evaluated all but the value before any learning; of the others none that has no better or worse."""
    found = figures(make_record(evaluations=evaluations([[0.1, 0.2], [0.9, 0.1], [0.7, 0.8]])))
    judged = set(evaluation_figures(make_record(evaluations=evaluations([[0.1, 0.2], [0.9, 0.1], [0.7, 0.8]]))))
    assert {name for name in judged & set(found) if not name.startswith("untrained")} <= directions().keys()
    assert directions()["forgetting_last_nats"] == directions()["average_perplexity"] == -1
    assert directions()["bwt_gem_nats"] == 1


def test_a_text_cell_is_tuned_to_the_least_perplexity(tmp_path: Path) -> None:
    given = plain(
        compose(
            [
                *("benchmark=text_domains", "benchmark.data.megabytes=0.01", "setting=domain_incremental"),
                *("setting.contexts=2", "benchmark.data.domains=2", "method=si", "tune=first_k_tasks"),
                *("tune.contexts=1", "until.steps=15", "progress=off"),
            ]
        )
    )
    given["method"]["search"] = {"optimizer.learning_rate": [0.0, 0.003]}
    record = run_cell(given, tmp_path, [])
    assert record.state == "done", record.message
    assert record.tuning["figure"] == "average_perplexity"
    worse, better = (trial["score"] for trial in record.tuning["trials"])
    assert better < worse
    assert record.tuning["chosen"] == {"optimizer.learning_rate": 0.003}


def test_an_interrupted_search_goes_on_with_the_next_trial(tmp_path: Path) -> None:
    given = cell("method=mas", "tune=oracle", "method.search={strength:[1.0,2.0,3.0]}")
    asked: list[float] = []

    def score(tried: Any, contexts: int | None) -> float | None:
        if len(asked) == 2:
            asked.append(0.0)
            raise KeyboardInterrupt
        asked.append(tried["method"]["strength"])
        return {1.0: None, 2.0: 0.9, 3.0: 0.5}[asked[-1]]

    kept = tmp_path / "trials.json"
    with pytest.raises(KeyboardInterrupt):
        tuning.chosen(given, score, kept)
    found, report = tuning.chosen(given, score, kept)
    assert asked == [1.0, 2.0, 0.0, 3.0]
    assert found["method"]["strength"] == 2.0
    assert [trial["score"] for trial in report["trials"]] == [None, 0.9, 0.5]


def test_a_space_is_given_key_by_key_on_the_shell() -> None:
    words = ("method=replay", "tune=oracle", "~method.search.storage", "+method.search={optimizer.learning_rate:[0.1]}")
    found = cell(*words)["method"]["search"]
    assert found == {"weighting": ["sum", "balanced"], "optimizer.learning_rate": [0.1]}


def test_a_space_that_nothing_searches_is_told() -> None:
    words = ["benchmark=digits", "setting=class_incremental", "method=ewc", "method.search.strength=[1,2]"]
    off = (words, plain(compose(words)))
    on = ([*words, "tune=oracle"], plain(compose([*words, "tune=oracle"])))
    said = tuning.idle_search([off])
    assert said is not None
    assert said.startswith("method.search is not searched with tune=off; tune=first_k_tasks,")
    assert tuning.idle_search([on]) is None
    assert tuning.idle_search([off, on]) is None  # a sweep that compares tuned cells with others
    assert tuning.idle_search([(words[:3], off[1])]) is None


def test_values_of_a_space_are_not_looked_at_where_nothing_is_tuned() -> None:
    assert cell("method=mas", "method.search.strength=[-1.0]")["tune"]["protocol"] == "off"


SAMPLED = ("self_supervised", "cmaml_um", "cmaml_pre_um", "cmaml_um_pap", "cmaml_pre_um_pap")  # of more than are tried


@pytest.mark.parametrize("method", [name for name in names("method") if member(f"method/{name}")["search"]])
def test_a_search_space_holds_values_that_the_method_can_have(method: str) -> None:
    """The type of the default and its limits; no more combinations than are tried; and the tuned values."""
    node = member(f"method/{method}")
    assert len(tuning.combinations(node["search"], 10**6, 0)) <= (16 if method in SAMPLED else 8)
    for key, values in node["search"].items():
        for value in values if "." not in key else ():
            allowed = node["limits"].get(key)
            assert type(value) is type(node[key])
            assert allowed is None or (
                value in allowed if isinstance(value, str) else allowed[0] <= value <= allowed[1]
            )
    for path in (config_directory() / "tuned" / method).rglob("*.yaml"):
        stated = (yaml.safe_load(path.read_text()) or {}).get("method") or {}
        if method in ("ewc", "si"):
            assert stated["strength"] in node["search"]["strength"], path
