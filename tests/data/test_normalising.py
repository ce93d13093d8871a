"""Pictures less their means, divided by their deviations: in training, judging and validation; wrong statistics."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fourfold.benchmarks import interface as benchmarks
from fourfold.data.tensors import normalised
from fourfold.errors import Refused
from learning import digits, member


def test_pictures_are_normalised_wherever_they_are_drawn() -> None:
    sets = digits().sets
    assert sets is not None
    made = normalised(sets, [[0.5], [0.25]])
    indices = torch.arange(7)
    for before, after in ((sets.train, made.train), (sets.test, made.test), (sets.train, made.train.part(indices))):
        expected = (before.batch(indices).inputs - 0.5) / 0.25
        torch.testing.assert_close(after.batch(indices).inputs, expected)


def test_each_channel_has_its_own() -> None:
    sets = digits().sets
    assert sets is not None
    coloured = replace(sets.train, inputs=sets.train.inputs.repeat(1, 3, 1, 1))
    made = normalised(replace(sets, train=coloured, test=coloured, shape=(3, 8, 8)), [[0, 0.5, 1], [1, 2, 4]])
    plain, found = coloured.batch(torch.arange(3)).inputs, made.train.batch(torch.arange(3)).inputs
    for channel, (mean, deviation) in enumerate(((0, 1), (0.5, 2), (1, 4))):
        torch.testing.assert_close(found[:, channel], (plain[:, channel] - mean) / deviation)


def test_a_benchmark_takes_the_statistics_from_its_data() -> None:
    like = digits()
    recipe = replace(like.recipe, data={**like.recipe.data, "normalise": [[0.5], [0.5]]})
    cell = {"benchmark": member("benchmark/digits"), "data_dir": "data", "seed": 0, "evaluate_on": "validation"}
    made = benchmarks.build(cell, recipe).sets
    assert made is not None
    assert made.test.batch(torch.arange(30)).inputs.min() == -1


@pytest.mark.parametrize(
    "asked", [[[0.5]], [[0.5, 0.5], [0.5, 0.5]], [[0.5], [0]], [["half"], [0.5]], 0.5, "mean", [0.5, 0.5]]
)
def test_wrong_statistics_are_refused(asked: Any) -> None:
    sets = digits().sets
    assert sets is not None
    with pytest.raises(Refused) as caught:
        normalised(sets, asked)
    assert str(caught.value).startswith("benchmark.data.normalise=")
    assert str(caught.value).endswith("needs [means,deviations], 1 of each, deviations above 0")


def test_what_is_no_picture_is_refused() -> None:
    sets = digits().sets
    assert sets is not None
    with pytest.raises(Refused, match=r"benchmark.data.normalise: these data are no pictures; leave it null"):
        normalised(replace(sets, shape=(64,)), [[0.5], [0.5]])
