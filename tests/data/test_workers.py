"""Batches prepared by processes: the same as without, in the same order, on the device as numbers between 0 and 1."""

import itertools
import multiprocessing

import numpy as np
import pytest
import torch

from fourfold.composition import compose, plain
from fourfold.data.jpegs import crop, encoded, jpegs
from fourfold.data.workers import prepared
from fourfold.errors import DONE, Refused
from fourfold.recipe import resolve

CPU = torch.device("cpu")


def draws(count: int):
    return ((n, torch.tensor([n, n + 1, n + 2]), torch.zeros(3, dtype=torch.long), 3) for n in range(count))


def test_workers_give_the_same_batches_in_the_same_order() -> None:
    data = jpegs("", 0, samples=10, classes_used=3, image_size=16, stored=1.5).train
    before = torch.get_rng_state()
    for number, (draw, batch) in enumerate(prepared(data, draws(5), 2, CPU)):
        own = data.batch(draw[1])
        assert draw[0] == number
        assert torch.equal(batch.inputs, own.inputs)
        assert torch.equal(batch.targets, draw[1] % 3)
        assert batch.inputs.dtype == torch.float32
        assert 0 <= batch.inputs.min() < batch.inputs.max() <= 1
    assert number == 4
    assert torch.equal(torch.get_rng_state(), before), "the cell's own random stream was drawn from"


def test_the_processes_end_with_the_iteration() -> None:
    data = jpegs("", 0, samples=10, classes_used=3, image_size=16, stored=1.0).train
    endless = prepared(data, draws(10**9), 1, CPU)
    assert len(list(itertools.islice(endless, 3))) == 3
    assert multiprocessing.active_children()
    endless.close()
    assert not multiprocessing.active_children()


def test_crops_depend_on_the_seed_and_the_batch() -> None:
    one, other = (jpegs("", seed, samples=4, classes_used=2, image_size=16, stored=2.0).train for seed in (0, 1))
    batch = torch.tensor([0, 1])
    assert torch.equal(one.fetch(batch).inputs, one.fetch(batch).inputs)
    assert not torch.equal(one.fetch(batch).inputs[0], one.fetch(torch.tensor([0, 2])).inputs[0])
    assert not torch.equal(one.fetch(batch).inputs, other.fetch(batch).inputs)


def test_the_whole_picture_is_cut_where_the_share_is_one() -> None:
    (file,) = encoded(1, 2, 32, seed=0)
    whole = crop(file, 32, [1.0, 0.3, 0.9, 0.9])
    assert whole.shape == (3, 32, 32)
    assert torch.equal(crop(file, 32, [1.0, 0.3, 0.9, 0.1]), whole.flip(-1))


@pytest.mark.parametrize("data", ["synthetic_images", "synthetic_fixed"])
def test_with_and_without_workers_the_losses_are_the_same(run, data) -> None:
    words = ("benchmark=resnet", f"benchmark/data={data}", "hardware=cpu", "tracking=off", "until.steps=3")
    losses = []
    for workers in (0, 2):
        record = run(*words, f"workers={workers}")
        assert record.state == DONE, record.message
        losses.append(np.load(record.folder / "series.npz")["loss"])
    assert np.array_equal(*losses)


def test_full_sizes_have_workers_and_smoke_sizes_none() -> None:
    full = resolve(plain(compose(["benchmark=resnet", "scale=full"])), accelerator=True)
    assert full.workers == 8
    assert resolve(plain(compose(["benchmark=resnet"])), accelerator=False).workers == 0
    with pytest.raises(Refused, match="workers=-1: must be default or a whole number from 0 to 1024"):
        compose(["benchmark=resnet", "workers=-1"])
