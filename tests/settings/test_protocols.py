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
    fresh = ~np.isnan(one)  # samples that come again are judged where predictions are asked for, only
    assert one[fresh].tolist() == other[fresh].tolist()
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
