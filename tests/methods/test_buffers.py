"""Memories: who is in them, with which probability."""

import pytest
import torch
from scipy import stats

from fourfold.errors import Refused
from fourfold.methods.buffers import Balanced, Reservoir, Ring
from learning import Bench


def test_every_sample_is_kept_with_the_same_probability() -> None:
    """Inclusion counts over many reservoirs against size / n for each sample offered, by chi-square."""
    trials, size, offered = 4000, 8, 60
    counts = torch.zeros(offered)
    for trial in range(trials):
        memory = Reservoir(size, torch.Generator().manual_seed(trial))
        for part in torch.arange(offered).split(7):
            memory.add(number=part)
        kept = memory.parts["number"]
        assert len(kept.unique()) == size
        counts[kept] += 1
    expected = trials * size / offered
    # Counts of a fixed-size choice vary less than independent ones, by (n - 1) / n over n - size: scaled to chi-square.
    variance = trials * (size / offered) * (1 - size / offered) * offered / (offered - 1)
    statistic = float(((counts - expected) ** 2).sum() / variance)
    assert stats.chi2.sf(statistic, offered - 1) > 0.001
    assert stats.chi2.cdf(statistic, offered - 1) > 0.001


def test_a_batch_is_the_same_as_its_samples_one_by_one() -> None:
    whole, single = (Reservoir(5, torch.Generator().manual_seed(1)) for _ in range(2))
    whole.add(x=torch.arange(40))
    for number in range(40):
        single.add(x=torch.tensor([number]))
    assert torch.equal(whole.parts["x"], single.parts["x"])


def test_a_draw_is_without_repetition_and_uniform() -> None:
    memory = Reservoir(20, torch.Generator().manual_seed(0))
    memory.add(x=torch.arange(20))
    counts = torch.zeros(20)
    for _ in range(2000):
        drawn = memory.draw(5)["x"]
        assert len(drawn.unique()) == 5
        counts[drawn] += 1
    assert stats.chisquare(counts.numpy()).pvalue > 0.001
    assert torch.equal(memory.draw(50)["x"].sort().values, torch.arange(20))


def test_a_balanced_memory_holds_classes_in_equal_parts_whatever_comes() -> None:
    memory = Balanced(30, torch.Generator().manual_seed(0))
    for label, count in ((0, 100), (1, 50), (2, 8), (0, 40), (3, 60)):
        for part in torch.arange(count).split(16):
            memory.add(x=part, targets=torch.full((len(part),), label))
    counts = memory.parts["targets"].bincount(minlength=4)
    assert counts.sum() == 30
    assert counts.tolist() == [8, 7, 8, 7] or (counts.max() - counts.min() <= 1 and counts[2] <= 8)
    for label, own in memory.places_of.items():
        assert (memory.parts["targets"][own] == label).all()
    assert sorted(place for own in memory.places_of.values() for place in own) == list(range(30))


def test_a_class_that_comes_alone_takes_all_the_room() -> None:
    memory = Balanced(10, torch.Generator().manual_seed(0))
    memory.add(targets=torch.zeros(25, dtype=torch.long))
    assert len(memory) == 10


def test_a_ring_holds_the_newest_of_each_class() -> None:
    memory = Ring(6, torch.Generator(), classes=2)
    memory.add(x=torch.arange(10), targets=torch.tensor([0, 0, 1, 0, 0, 1, 0, 1, 1, 1]))
    found = {(int(x), int(y)) for x, y in zip(memory.parts["x"], memory.parts["targets"], strict=True)}
    assert found == {(3, 0), (4, 0), (6, 0), (7, 1), (8, 1), (9, 1)}


@pytest.mark.parametrize("method", ["replay", "der_plus_plus", "er_ace", "mir", "a_gem"])
def test_a_ring_has_room_for_every_task_where_tasks_share_their_outputs(method: str) -> None:
    made = Bench(method, "domain_incremental", memory=40, storage="ring")
    for phase in range(5):
        made.learn(phase, steps=2)
    assert sorted(len(own) for own in made.method.memory.places_of.values()) == [4] * 10


def test_a_ring_without_a_place_for_each_class_is_refused() -> None:
    with pytest.raises(Refused, match=r"method\.memory=9: storage=ring needs a place for each of 10 classes"):
        Bench("replay", "class_incremental", memory=9, storage="ring")


def test_inputs_that_are_bytes_are_stored_as_bytes_and_come_back_exactly() -> None:
    pictures = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8).float().div_(255)
    memory = Reservoir(20, torch.Generator().manual_seed(0))
    memory.add(inputs=pictures, number=torch.arange(50))
    assert memory.parts["inputs"].dtype == torch.uint8
    assert memory.bytes() == 20 * (64 + 8)
    drawn = memory.draw(20)
    assert torch.equal(drawn["inputs"], pictures[drawn["number"]])
    others = torch.rand(30, 1, 8, 8)
    memory.add(inputs=others, number=torch.arange(50, 80))  # not bytes: kept as they are, with those before
    drawn = memory.draw(20)
    assert torch.equal(drawn["inputs"], torch.cat([pictures, others])[drawn["number"]])
    assert drawn["number"].max() >= 50


def test_tasks_that_share_their_outputs_share_the_memory() -> None:
    made = Bench("a_gem", "domain_incremental", memory=40)
    for phase in range(4):
        made.learn(phase, steps=1)
    assert sorted(len(own) for own in made.method.memory.places_of.values()) == [5] * 8
    assert set(made.method.memory.parts) == {"inputs", "targets"}


def test_a_class_takes_no_more_than_its_number_while_there_is_room() -> None:
    memory = Balanced(30, torch.Generator().manual_seed(0), each=4)
    for label in (3, 1):
        memory.add(x=torch.arange(9), targets=torch.full((9,), label))
    assert len(memory) == 8
    assert memory.parts["targets"][:8].tolist() == [3] * 4 + [1] * 4
