"""Avalanche's strategies as methods. Most of it needs avalanche-lib, with a torchvision that fits torch."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fourfold import errors
from learning import Bench, digits, killed_and_resumed, member, same

STRATEGIES = list(member("method/avalanche")["strategies"])
WORDS = ("benchmark=digits", "setting=class_incremental", "method=avalanche", "until.steps=10")


@pytest.fixture
def library() -> Any:
    try:
        import avalanche.training.supervised as found
    except (ImportError, RuntimeError) as error:  # torchvision says the latter where it was built for another torch
        pytest.skip(f"avalanche-lib cannot be imported: {next(iter(str(error).splitlines()), '')}")
    return found


def test_without_the_library_it_is_unavailable(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "avalanche"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "avalanche", None)  # as if it were not installed
    record = run(*WORDS)
    assert record.state == errors.UNAVAILABLE
    assert record.message == "the package avalanche is not installed: pip install 'fourfold[avalanche]'"


def test_a_strategy_that_there_is_not_is_refused(run: Any) -> None:
    record = run(*WORDS, "method.strategy=Repaly")
    assert (record.state, "choose one of Naive, Replay" in record.message) == (errors.REFUSED, True)
    assert "did you mean Replay" in record.message


def test_arguments_that_it_does_not_take_are_refused(run: Any, library: Any) -> None:
    record = run(*WORDS, "method.strategy=EWC", "+method.strategies.EWC.strength=3")
    assert record.state == errors.REFUSED
    assert record.message.startswith("method.strategies.EWC={'ewc_lambda': 1000.0, 'strength': 3}: ")
    assert "strength" in record.message.partition(": ")[2]
    assert len(record.message.splitlines()) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("setting", ["class_incremental", "task_incremental", "domain_incremental"])
def test_goes_through_the_stream_in_the_steps_of_the_cell(strategy: str, setting: str, library: Any) -> None:
    made = Bench("avalanche", setting, strategy=strategy, steps=20)
    before = made.parameters()
    made.learn_all()
    assert made.run.meter.steps == 20
    assert not same(before, made.parameters())
    scores = made.scores(0)
    assert scores.shape == (len(made.stream.contexts[0].test), made.stream.outputs)
    assert torch.isfinite(scores).all()
    if setting == "task_incremental":
        wrong = ~made.stream.task_outputs(torch.device("cpu"))[0]
        assert (scores[:, wrong] == -1e9).all()


def test_a_context_is_the_experience_of_its_number_and_nothing_of_earlier_ones(library: Any) -> None:
    made = Bench("avalanche", "class_incremental")
    seen = []
    made.method.strategy.train = lambda experience, **_: seen.append(experience)
    for phase in range(3):
        made.method.learn(made.experience(phase), made.run)
    order = [set(context.outputs) for context in made.stream.contexts]
    for number, experience in enumerate(seen):
        assert experience.current_experience == number
        assert set(experience.classes_in_this_experience) == order[number]
        assert len(experience.dataset) == len(made.stream.contexts[number].train)
    earlier = seen[2].benchmark.train_stream[0].dataset
    assert not any(picture.any() for picture, *_ in earlier)


def test_the_seed_decides(library: Any) -> None:
    one, again, other = (Bench("avalanche", "class_incremental", strategy="Replay", seed=s) for s in (1, 1, 2))
    for made in (one, again, other):
        made.learn_all()
    assert same(one.parameters(), again.parameters())
    assert not same(one.parameters(), other.parameters())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_interrupted_cell_starts_anew_and_ends_alike(strategy: str, library: Any, tmp_path: Path) -> None:
    def made() -> Bench:
        return Bench("avalanche", "class_incremental", strategy=strategy, steps=10)

    whole, resumed = killed_and_resumed(made, tmp_path, every=2, killed_at=7)
    assert same(whole.parameters(), resumed.parameters())
    assert same(whole.scores(0), resumed.scores(0))
    assert not list(tmp_path.rglob("checkpoint*"))


def test_replay_remembers_where_naive_does_not(library: Any) -> None:
    found = {}
    for strategy in ("Naive", "Replay"):
        whole = digits(samples=1437, model="wide")
        made = Bench("avalanche", "class_incremental", benchmark=whole, strategy=strategy, steps=300)
        made.learn_all()
        targets = made.stream.test.targets[made.stream.contexts[0].test]
        found[strategy] = float((made.scores(0).argmax(1) == targets).float().mean())
    assert found["Naive"] < 0.1
    assert found["Replay"] > 0.6


def test_a_whole_cell(run: Any, library: Any) -> None:
    record = run(*WORDS, "method.strategy=LwF")
    assert (record.state, record.measurements["steps"], len(record.evaluations)) == (errors.DONE, 10, 30)
    why = "method avalanche has no state that can be written as plain data"
    assert record.measurements["checkpoints"] == {"count": 0, "bytes": 0, "none": why}
