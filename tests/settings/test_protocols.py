"""What a learner is judged by: its own scores, by what it knew before the labels of a batch were shown."""

import numpy as np
import pytest
import torch

from fourfold.settings.protocols import judged, matrix
from learning import Bench, digits, same

LINEAR = digits(model="linear", optimizer="sgd")


@pytest.mark.parametrize("setting", ["class_incremental", "task_incremental", "discrete"])
def test_the_online_curve_is_the_same_whoever_asks_for_it(setting: str) -> None:
    """What a batch's own labels make possible is no part of the prediction before them."""
    found = []
    for protocol in ("matrix", "prequential"):
        made = Bench("finetune", setting, setting_values={"protocol": [protocol]}, steps=30)
        made.learn_all()
        found.append((made.run.meter.series()["score"], made.parameters()))
    (one, values), (other, same_values) = found
    np.testing.assert_array_equal(one, other)
    fresh = ~np.isnan(one)
    assert fresh.all() == (setting == "discrete"), "samples that come again are not judged"
    assert same(values, same_values), "the learner is the same"
    assert len(set(one[fresh].tolist())) > 2


def test_contexts_to_come_are_judged_by_the_scores_of_the_network() -> None:
    made = Bench("finetune", "class_incremental", benchmark=LINEAR)
    for after in (0, 1):
        entries = matrix(made.method, made.stream, made.benchmark, made.run.engine.device, after)
        for context, entry in zip(made.stream.contexts, entries, strict=True):
            batch = made.stream.test.batch(context.test)
            scores, own = made.method.network(batch.inputs), list(context.outputs)  # type: ignore[attr-defined]
            known = torch.ones(10, dtype=torch.bool) if made.method.seen is None or after == 0 else made.method.seen
            masked = torch.tensor(own)[scores[:, own].argmax(1)]
            unmasked = scores.masked_fill(~known, -torch.inf).argmax(1)
            assert entry["masked"] == pytest.approx(float((masked == batch.targets).float().mean()))
            assert entry["value"] == pytest.approx(float((unmasked == batch.targets).float().mean()))
        assert any(entry["masked"] not in (0.0, entry["value"]) for entry in entries[1:])
        made.learn(0)


def test_a_mask_takes_outputs_out_and_one_without_any_rules_nothing_out() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    assert judged(scores, None) is scores
    assert torch.equal(judged(scores, torch.zeros(3, dtype=torch.bool)), scores)
    seen = torch.tensor([False, True, True])
    assert judged(scores, seen).argmax(1).tolist() == [1, 2]
    by_sample = torch.tensor([[False, False, True], [True, True, False]])
    assert judged(scores, by_sample).argmax(1).tolist() == [2, 1]


ASKED = ["bgd", "cmaml", "cn_dpm", "cwr", "la_maml", "random", "slda"]


@pytest.mark.parametrize("method", ASKED)
def test_a_method_whose_steps_predict_nothing_is_asked_first_and_learns_the_same(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch that is new has a score, that of a prediction before it as a protocol asks for it."""
    found = []
    for asked in (True, False):
        made = Bench(method, "class_incremental", benchmark=digits(samples=100), steps=10)
        monkeypatch.setattr(type(made.method), "asks_first", asked)
        monkeypatch.setattr(type(made.method), "outputs_before", None)
        made.learn_all()
        found.append((made.run.meter.series().get("score"), made.method.state_dict()))
    (score, asked_state), (nothing, state) = found
    assert nothing is None
    judged_steps = score[np.isfinite(score)]
    assert len(judged_steps) >= 5, "one of each context at least"
    assert ((judged_steps >= 0) & (judged_steps <= 1)).all()
    assert method == "random" or same(asked_state, state)


@pytest.mark.parametrize("method", ["random", "slda", "cn_dpm"])
def test_a_context_told_in_training_alone_is_no_help_to_a_prediction(method: str) -> None:
    made = Bench(method, "class_incremental", benchmark=digits(samples=100))
    (observation,) = (seen for _, seen in zip(range(1), made.observations(0), strict=False))
    assert "task" in observation
    assert made.method.mask(observation) is None
    told = Bench(method, "task_incremental", benchmark=digits(samples=100))
    (observation,) = (seen for _, seen in zip(range(1), told.observations(0), strict=False))
    assert told.method.mask(observation).sum(1).tolist() == [2] * len(observation.targets)


def test_the_online_scores_of_bic_are_corrected() -> None:
    made = Bench("bic", "class_incremental", benchmark=digits(samples=100))
    made.begin(0)
    made.method.observe(next(made.observations(0)))
    before = made.method.outputs_before
    made.method.shift = made.method.shift + 1  # type: ignore[attr-defined]
    torch.testing.assert_close(made.method.outputs_before, before + 1)
