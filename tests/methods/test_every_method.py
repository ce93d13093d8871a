"""What every method keeps to, in every setting that it applies to. A new YAML in conf/method inherits all of it."""

import io
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from fourfold.methods.interface import Method
from fourfold.settings.stream import Hidden
from learning import Bench, Killed, applies, member, names, same, untimed

KINDS = (
    "class_incremental",
    "task_incremental",
    "domain_incremental",
    "continual",
    "multi_task",
    "recurring",
    "online",
    "discrete",
)
PAIRS = [(method, setting) for method in names("method") for setting in KINDS if applies(method, setting)]
FIRST = dict(reversed(PAIRS))
# Values that keep a method short here.
SHORT: dict[str, dict[str, Any]] = {
    "gdumb": {"passes": 2, "memory": 40},
    "gss": {"memory": 60},
    "cn_dpm": {"memory": 20, "sleep_steps": 3},
}


def bench(method: str, setting: str, **values: Any) -> Bench:
    return Bench(method, setting, **{**SHORT.get(method, {}), **values})


def saved(method: Method) -> Any:
    """The method's state after a way through a file, as a resumed cell reads it."""
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def own_loop(name: str) -> bool:
    return "owns_loop" in member(f"method/{name}")["needs"]


def contents(stream: Any) -> list[torch.Tensor]:
    """Copies of all that a stream holds."""
    found = [stream.train.batch(torch.arange(len(stream.train))).inputs, stream.train.targets]
    found += [part for context in stream.contexts for part in (context.train, context.test)]
    found += [part for phase in stream.phases for part in (phase.indices, phase.context_of)]
    return [part.clone() for part in found]


def inputs_kept(made: Bench) -> int:
    """Bytes, one a number at the least, of what looks like inputs in a method's state beside networks."""
    shape = made.stream.train.batch(torch.arange(1)).inputs.shape[1:]
    state = {name: part for name, part in made.method.state_dict().items() if name != "network"}
    tensors = [part for part in tree_leaves(state) if isinstance(part, torch.Tensor)]
    return sum(part.numel() for part in tensors if part.dim() > 1 and part.shape[1:] == shape)


@pytest.mark.parametrize(("method", "setting"), PAIRS)
def test_goes_through_the_stream_and_predicts_for_every_context(method: str, setting: str) -> None:
    made = bench(method, setting)
    before = contents(made.stream)
    assert made.scores(0).shape == (len(made.stream.contexts[0].test), made.stream.outputs)  # before any learning
    made.learn_all()
    for context in made.stream.contexts:
        scores = made.scores(context.index)
        assert scores.shape == (len(context.test), made.stream.outputs)
        assert torch.isfinite(scores).all()
    assert same(contents(made.stream), before), "the method has changed the stream"
    kept, told = inputs_kept(made), made.method.sample_bytes()
    assert told is None or told >= kept, f"{kept} bytes of inputs are in its state, and it tells of {told}"


@pytest.mark.parametrize(("method", "setting"), [pair for pair in PAIRS if pair[1] in (FIRST[pair[0]], "online")])
def test_a_cell_killed_at_any_step_goes_on_to_the_same_result(method: str, setting: str, tmp_path: Path) -> None:
    """What a method owes to ``state_dict``: between two steps, all that its future depends on, as plain data."""
    prequential = {"protocol": ["matrix", "prequential"]} if setting == "online" and not own_loop(method) else {}

    def made() -> Bench:
        return bench(method, setting, setting_values=prequential, steps=15)

    whole = made()
    expected = whole.live(tmp_path / "whole")
    last = max(2, whole.run.meter.steps)
    with pytest.raises(Killed):
        made().live(tmp_path, killed_at=random.Random(f"{method} {setting}").randrange(1, last))
    resumed = made()
    found = resumed.live(tmp_path)
    assert same(saved(whole.method), saved(resumed.method))
    assert same(expected.evaluations, found.evaluations)
    np.testing.assert_equal(untimed(whole.run.meter.series()), untimed(resumed.run.meter.series()))


@pytest.mark.parametrize("method", FIRST)
def test_the_seed_decides_everything(method: str) -> None:
    setting = FIRST[method]
    states = []
    for seed in (3, 3, 4):
        made = bench(method, setting, seed=seed)
        made.learn_all()
        states.append((made.scores(0), made.scores(1) if len(made.stream.contexts) > 1 else None))
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


ASKED = [pair for pair in itertools.product(names("method"), ("online", "continual")) if applies(*pair)]


@pytest.mark.parametrize(("method", "setting"), ASKED)
def test_learns_what_it_was_asked_about_a_moment_ago(method: str, setting: str) -> None:
    """In a prequential setting each batch is predicted before its targets are told; the scores are finite."""
    values = {"protocol": ["prequential"]}
    made = Bench(method, setting, setting_values=values, steps=15, **SHORT.get(method, {}))
    made.learn_all()
    losses = made.run.meter.losses()
    assert not (losses > 1e6).any(), "a new output was learned with the mask of the prediction"
    assert torch.isfinite(made.scores(0)).all()


def test_a_prediction_used_again_changes_nothing() -> None:
    """finetune learns the same whether it was asked before or not: the forward pass is only shared."""
    asked = Bench("finetune", "online", setting_values={"protocol": ["prequential"]})
    plain = Bench("finetune", "online")
    for made in (asked, plain):
        made.learn_all()
    assert same(asked.parameters(), plain.parameters())


@pytest.mark.parametrize("method", [name for name in names("method") if applies(name, "class_incremental")])
def test_only_bounds_can_ask_for_all_data(method: str) -> None:
    made = bench(method, "class_incremental")
    bound = bool({"all_data", "true_tasks"} & set(member(f"method/{method}")["needs"]))
    assert made.run.oracle == bound
    if not bound:
        with pytest.raises(Hidden):
            made.experience(0).everything()
