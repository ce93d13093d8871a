"""glyphs: seeded, of any number of classes, each class the same character by different hands."""

from typing import Any

import pytest
import torch

from fourfold.data import alphabets
from fourfold.data.glyphs import STYLES, choose_characters, glyphs
from fourfold.errors import Refused
from learning import digits, make_stream

FEW = {"characters": 6, "samples_a_class": 8, "test_samples_a_class": 4}


def small(seed: int = 0, names: tuple[str, ...] = ("digits", "invented_0"), **values: Any) -> Any:
    return glyphs("", seed, names, **{**FEW, **values})


def test_shapes_counts_and_balance() -> None:
    sets = small(image_size=20)
    assert sets.shape == (1, 20, 20)
    assert sets.train.inputs.shape == (48, 1, 20, 20)
    assert sets.train.inputs.dtype == torch.uint8
    assert sets.train.targets.bincount().tolist() == [8] * 6
    assert sets.test.targets.bincount().tolist() == [4] * 6


def test_the_seed_decides_every_byte() -> None:
    one = small(1)
    alphabets.raster.cache_clear()
    glyphs.__globals__["_made"].cache_clear()
    assert torch.equal(one.train.inputs, small(1).train.inputs)
    assert not torch.equal(one.train.inputs, small(2).train.inputs)


def test_hundreds_of_characters_are_there_without_any_file() -> None:
    named = [name for name in alphabets.ALPHABETS if name != "syllabics"]
    assert len(choose_characters(named, None, 0)) > 400
    assert len(choose_characters(["invented_7", "invented_8"], None, 0)) == 2 * alphabets.INVENTED
    assert all(len(alphabets.hands_of(each)) >= 2 for each in choose_characters(named, None, 0))


def test_every_character_leaves_ink_in_the_picture_and_differs_from_the_others() -> None:
    chosen = choose_characters(["digits", "greek", "invented_3"], None, 0)
    pictures = torch.stack([alphabets.raster(each, alphabets.hands_of(each)[0]) for each in chosen]).flatten(1)
    assert (pictures.sum(1) > 30).all()
    assert torch.cdist(pictures, pictures).fill_diagonal_(9).min() > 1
    edges = pictures.view(-1, alphabets.SIDE, alphabets.SIDE)[:, [0, -1]]
    assert edges.max() == 0


@pytest.mark.parametrize("style", STYLES)
def test_each_style_changes_the_picture_and_stays_in_range(style: str) -> None:
    plain, styled = (small(styles=[name]).train.inputs.float() / 255 for name in ("plain", style))
    assert styled.min() >= 0
    assert styled.max() <= 1
    assert torch.equal(plain, styled) == (style == "plain")


@pytest.mark.parametrize(("domain", "count"), [("hand", 2), ("style", 2), ("alphabet", 2)])
def test_domains_are_what_was_asked_for(domain: str, count: int) -> None:
    names = ("digits", "latin")
    sets = small(names=names, hands=["sans", "serif"], styles=["plain", "noisy"], domain=domain, characters=20)
    assert sets.train.domains.unique().tolist() == list(range(count))


def test_classes_can_be_told_apart_by_their_nearest_mean_in_another_sample() -> None:
    sets = glyphs("", 0, ["digits", "greek"], 30, samples_a_class=48, test_samples_a_class=16)
    train, test = (part.inputs.float().flatten(1) for part in (sets.train, sets.test))
    means = torch.stack([train[sets.train.targets == label].mean(0) for label in range(30)])
    found = torch.cdist(test, means).argmin(1)
    assert (found == sets.test.targets).float().mean() > 0.5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"names": ("klingon",)}, ["alphabets=klingon", "digits", "invented_0"]),
        ({"hands": ["comic"]}, ["hands=comic", "sans"]),
        ({"characters": 100, "names": ("digits",)}, ["characters=100", "have 10"]),
        ({"hands": ["times"], "names": ("hebrew",)}, ["hands=times", "sans"]),
        ({"styles": []}, ["styles=[]", "at least one"]),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(Refused) as caught:
        small(**values)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------- contexts of domains


class Domains:
    """A benchmark of nothing but data with domains."""

    name = "domains"

    def __init__(self, **values: Any) -> None:
        self.sets = small(**values)
        self.outputs = self.sets.classes


def test_contexts_of_hands_share_their_classes() -> None:
    bench = Domains(names=("digits",), hands=["sans", "serif", "mono"], samples_a_class=6)
    stream = make_stream("domain_incremental", bench, split="domains", contexts=3)
    assert stream.outputs == 6
    for context in stream.contexts:
        assert context.relabel is None
        assert bench.sets.train.domains[context.train].unique().tolist() == [context.index]
        assert bench.sets.train.targets[context.train].unique().tolist() == list(range(6))


def test_contexts_of_alphabets_have_outputs_of_their_own_or_share_them_by_rank() -> None:
    bench = Domains(names=("digits", "georgian"), domain="alphabet", characters=20)
    apart = make_stream("class_incremental", bench, split="domains", contexts=2)
    own = [set(context.outputs) for context in apart.contexts]
    assert own[0] | own[1] == set(range(20))
    assert not own[0] & own[1]
    shared = make_stream("domain_incremental", bench, split="domains", contexts=2)
    assert shared.outputs == max(map(len, own))
    for context, labels in zip(shared.contexts, own, strict=True):
        assert context.relabel[sorted(labels)].tolist() == list(range(len(labels)))


def test_data_without_domains_is_not_split_by_them() -> None:
    with pytest.raises(Refused, match="digits cannot do that, its data has no domains"):
        make_stream("domain_incremental", digits(), split="domains", contexts=2)
    with pytest.raises(Refused, match="its data has 2"):
        make_stream("domain_incremental", Domains(hands=["sans", "serif"], names=("digits",)), split="domains")


def test_a_method_learns_glyphs(run: Any) -> None:
    small_data = "benchmark.data.characters=10"
    record = run("benchmark=glyphs", small_data, "setting=class_incremental", "method=replay", "until.steps=100")
    assert record.state == "done", record.message
    assert len(record.evaluations) == 6 * 5
