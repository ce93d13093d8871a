"""OSAKA's stream: contexts of geometric length, fresh labels, nothing told; any position can be returned to."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from fourfold.composition import compose
from fourfold.errors import Refused
from fourfold.settings.episodes import BLOCK, Classes, ContextSampler, EpisodeSource, choose
from fourfold.settings.stream import Drawn, Hidden
from learning import Bench, applies, digits, facts, killed_and_resumed, make_stream, names, same


def sampler(stay: float = 0.9, ways: int = 3, shots: int = 2, queries: int = 0) -> ContextSampler:
    """Two modes of 5 and 4 classes, 20 samples each."""
    classes = Classes.of(torch.arange(9).repeat(20))
    modes = (torch.arange(5), torch.arange(5, 9))
    return ContextSampler(classes, modes, (0.75, 0.25), ways, shots, queries, stay, fresh=True)


def steps(count: int, seed: int = 0, start: int = 0, **values: Any) -> list[Drawn]:
    return list(islice(sampler(**values)(None, 0, seed, start), count))


def goodness(observed: np.ndarray, expected: np.ndarray) -> float:
    """The p-value of Pearson's chi-squared test."""
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return float(chi2.sf(statistic, len(observed) - 1))


@pytest.mark.parametrize("stay", [0.9, 0.5])
def test_context_lengths_are_geometric(stay: float) -> None:
    since = np.array([drawn.since for drawn in steps(20_000, stay=stay)])
    lengths = np.diff(np.flatnonzero(since == 0))
    assert abs(lengths.mean() * (1 - stay) - 1) < 0.06  # the mean is 1 / (1 - alpha)
    last = 1 + int(np.log(40 / len(lengths)) / np.log(stay))  # the rest together, so that each cell has enough
    chances = (1 - stay) * stay ** np.arange(last)
    observed = np.append(np.bincount(lengths, minlength=last + 1)[1 : last + 1], (lengths > last).sum())
    assert goodness(observed, len(lengths) * np.append(chances, stay**last)) > 1e-3


def test_every_context_has_fresh_uniform_labels_and_its_mode_by_its_chance() -> None:
    """With alpha = 0 each step is a context: all ordered choices of 3 of 5 classes are equally likely."""
    source = sampler(stay=0.0)
    blocks = [source.block(1, number) for number in range(80)]
    mode, classes = (torch.cat([getattr(block, name) for block in blocks]) for name in ("mode", "classes"))
    first = classes[mode == 0]
    orders = (first * torch.tensor([25, 5, 1])).sum(1).unique(return_counts=True)[1].numpy()
    assert len(orders) == 5 * 4 * 3
    assert goodness(orders, np.full(60, len(first) / 60)) > 1e-3
    modes = torch.bincount(mode).numpy()
    assert goodness(modes, len(mode) * np.array([0.75, 0.25])) > 1e-3
    assert (classes[mode == 1] >= 5).all()


def test_a_choice_is_uniform_over_sets() -> None:
    chosen = choose(torch.rand(20_000, 2, dtype=torch.float64), torch.full((20_000,), 5))
    assert (chosen[:, 0] != chosen[:, 1]).all()
    low, high = chosen.min(1).values, chosen.max(1).values
    counts = (low * 5 + high).unique(return_counts=True)[1].numpy()
    assert len(counts) == 10
    assert goodness(counts, np.full(10, 2000)) > 1e-3


def test_a_step_has_its_shots_of_each_class_in_no_order() -> None:
    source = sampler(queries=3)
    for drawn in islice(source(None, 0, 0), 50):
        assert drawn.targets is not None
        assert drawn.query is not None
        assert torch.bincount(drawn.targets).tolist() == [2, 2, 2]
        assert torch.bincount(drawn.query.targets).tolist() == [3, 3, 3]  # type: ignore[arg-type]
        together = torch.cat([drawn.indices, drawn.query.indices])
        assert len(together.unique()) == 15  # no sample twice, none both learned and asked
        of_label = [set((drawn.indices[drawn.targets == label] % 9).tolist()) for label in range(3)]
        assert all(len(classes) == 1 for classes in of_label)
    orders = {tuple(drawn.targets.tolist()) for drawn in steps(60)}  # type: ignore[union-attr]
    assert len(orders) > 20


@pytest.mark.parametrize("stay", [0.9, 0.999, 1.0])
@pytest.mark.parametrize("start", [1, BLOCK - 1, BLOCK, 3 * BLOCK + 7])
def test_any_position_can_be_returned_to(stay: float, start: int) -> None:
    whole = steps(start + 20, stay=stay)
    assert same(steps(20, start=start, stay=stay), whole[start:])


def test_the_seed_decides_the_stream() -> None:
    assert same(steps(30, seed=3), steps(30, seed=3))
    assert not same(steps(30, seed=3), steps(30, seed=4))


@pytest.mark.parametrize("method", ["finetune", "cmaml_um_pap", "replay"])
def test_a_method_is_told_nothing_of_contexts(method: str) -> None:
    """What it receives: the inputs; once it has predicted, their labels. No context, no change, no place."""
    made = Bench(method, "osaka", steps=12, setting_values={"alpha": 0.5})
    shown: list[tuple[str, set[str]]] = []
    for name in ("predict", "observe"):
        call = getattr(made.method, name)

        def spy(observation: Any, *rest: Any, name: str = name, call: Any = call) -> Any:
            shown.append((name, set(vars(observation))))
            with pytest.raises(Hidden):
                _ = observation.task
            return call(observation, *rest)

        setattr(made.method, name, spy)
    for name in ("begin_context", "end_context"):
        setattr(made.method, name, lambda *_: pytest.fail("a boundary was announced"))
    made.learn_all()
    assert shown == [("predict", {"inputs"}), ("observe", {"inputs", "targets"})] * 12
    view = made.stream.view(torch.device("cpu"))
    assert (view.task_outputs, view.tasks, view.outputs) == (None, None, 10)


def test_the_first_step_counts() -> None:
    made = Bench("random", "osaka", steps=3)
    made.learn_all()
    series = made.run.meter.series()
    assert np.isfinite(series["score"]).all()
    assert series["since_switch"][0] == 0


def test_queries_are_judged_after_the_support_was_learned() -> None:
    made = Bench("slda", "continual_meta", steps=30, setting_values={"alpha": 0.0, "ways": 3})
    made.learn_all()
    assert made.run.meter.series()["score"][:1] > 0.6  # right after its own support set


def test_a_benchmark_without_modes_is_one() -> None:
    stream = make_stream("osaka", digits(), ways=4, shots=2)
    assert [context.name for context in stream.contexts] == ["digits"]
    assert (stream.outputs, stream.pretraining) == (4, None)


BAD = {
    "setting.alpha=1.5": r"setting.alpha=1.5: must be between 0 and 1",
    "setting.alpha=-0.1": r"setting.alpha=-0.1: must be between 0 and 1",
    "setting.ways=11": r"setting.ways=11: digits has 10 classes",
    "benchmark.data.modes.digits.probability=0.5": r"sum to 1.25; they must sum to 1",
    "benchmark.data.modes.digits.probability=1.25": r"digits.probability=1.25: must be between 0 and 1",
    "benchmark.data.convert=null": r"characters has pictures \[1, 28, 28\] and digits \[1, 8, 8\].*convert=\[1,28,28\]",
    "until=epochs": r"until=epochs: setting osaka draws its stream as it goes",
    "method=joint": r"setting osaka needs as_it_comes .*, which method joint does not offer; these do: method=",
    "method=ewc": r"method ewc needs boundaries_train",
    "method.threshold=-1": r"method.threshold=-1: must be between 0 and 1000",
    "method.modulation=-0.5": r"method.modulation=-0.5: must be between 0 and 1000",
    "method.inner_rate=-1": r"method.inner_rate=-1: must be between 0",
    "method/rule=dtp": r"needs exact_gradients.*method/rule=backprop",
}


@pytest.mark.parametrize("word", BAD)
def test_what_makes_no_sense_is_one_line(word: str) -> None:
    with pytest.raises(Refused, match=BAD[word]) as error:
        compose(["benchmark=osaka_glyphs", "setting=osaka", "method=cmaml", word])
    assert "\n" not in str(error.value)


def test_pre_training_needs_a_benchmark_with_classes_for_it() -> None:
    with pytest.raises(Refused, match=r"needs meta_training.*benchmark digits does not offer.*osaka_glyphs"):
        compose(["benchmark=digits", "setting=osaka", "method=maml"])
    with pytest.raises(Refused, match="needs pretraining"):
        compose(["benchmark=osaka_glyphs", "setting=continual", "method=maml"])


def test_a_step_that_takes_too_many_samples_is_refused() -> None:
    with pytest.raises(Refused, match=r"setting.shots: a step takes 100 samples of a class; digits has one with"):
        make_stream("osaka", digits(), ways=2, shots=100)


GLYPHS = "benchmark=osaka_glyphs method=cmaml"
KEPT = "benchmark.data.train_classes=140 benchmark.data.validation_classes=102"
TOO_LITTLE = {
    "benchmark=digits setting=osaka method=cmaml method.pretraining=true": (
        r"method.pretraining=true: benchmark digits keeps no classes for it; choose method.pretraining=false or "
        r"benchmark=harmonics,osaka_glyphs"
    ),
    "benchmark=osaka_glyphs setting=continual method=cmaml method.pretraining=true": (
        r"method.pretraining=true: setting continual has no phase before its stream; .*setting=.*osaka"
    ),
    "benchmark=osaka_glyphs setting=osaka method=maml benchmark.data.train_classes=0": (
        r"benchmark.data.train_classes=0: no class is kept .*method maml asks for"
    ),
    f"{GLYPHS} setting=osaka benchmark.data.train_classes=240": (
        r"benchmark.data.train_classes=240 benchmark.data.validation_classes=40: characters has 250 classes"
    ),
    f"{GLYPHS} setting=meta_learning {KEPT}": (
        r"setting.ways=10: characters has 8 classes beside those of pre-training .*240 together at most"
    ),
    f"{GLYPHS} setting=osaka setting.classes=new {KEPT}": (
        r"setting.classes=new setting.ways=10: characters has 8 classes"
    ),
    "benchmark=osaka_tiered_imagenet setting=meta_learning method=maml": (
        r"setting.classes=new setting.ways=5: known has 0 classes beside .*195 together at most"
    ),
    "benchmark=osaka_glyphs setting=osaka method=maml benchmark.data.validation_classes=9": (
        r"benchmark.data.validation_classes=9: .*setting.ways=10 classes; choose 10 or more, or 0"
    ),
    "benchmark=osaka_glyphs benchmark/model=conv setting=meta_continual method=oml batch=1 setting.contexts=51": (
        r"setting.contexts=51: characters has 50 classes beside those of pre-training"
    ),
    "benchmark=osaka_glyphs benchmark/model=conv setting=meta_continual method=oml batch=1 "
    "benchmark.data.train_classes=19": r"setting.contexts=20: only 19 classes are kept for pre-training; 19 at most",
    f"{GLYPHS} setting=osaka benchmark.data.convert=28": r"convert=28: must be \[channels,height,width\]",
    f"{GLYPHS} setting=osaka benchmark.data.convert=[1,28]": r"convert=\[1,28\]: must be \[channels,height,width\]",
    f"{GLYPHS} setting=osaka benchmark.data.convert=[1,0,28]": r"convert=\[1,0,28\]: must be",
    "benchmark=llama setting=continual_meta method=cmaml": r"setting.protocol=queries: benchmark llama has no classes",
}


@pytest.mark.parametrize("words", TOO_LITTLE)
def test_what_cannot_be_drawn_is_refused_before_anything_starts(words: str) -> None:
    with pytest.raises(Refused, match=TOO_LITTLE[words]) as error:
        compose(words.split())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        "benchmark=harmonics setting=meta_learning method=maml",
        "benchmark=osaka_tiered_imagenet setting=meta_learning method=maml benchmark.data.validation_classes=95",
        f"{GLYPHS} setting=meta_learning {KEPT} setting.ways=8",
        "benchmark=osaka_glyphs setting=osaka method=maml benchmark.data.validation_classes=0",
        "benchmark=osaka_glyphs setting=osaka method=online_adam benchmark.data.validation_classes=9",
        f"{GLYPHS} setting=osaka setting.modes=first setting.ways=11 benchmark.data.convert=[3,32,32]",
    ],
)
def test_what_can_be_drawn_is_not_refused(words: str) -> None:
    compose(words.split())


def test_a_context_of_too_many_classes_is_one_line_where_only_the_data_tell() -> None:
    with pytest.raises(Refused, match=r"setting.ways=11: digits has 10 classes for the stream"):
        make_stream("osaka", digits(), ways=11, shots=2)


def test_a_task_of_pre_training_needs_samples_to_judge_by() -> None:
    source = EpisodeSource(Classes.of(torch.arange(4).repeat(6)), {"train": torch.arange(4)}, 2, 5, True, 0)
    support, _, query, _ = source("train", 0, 3, 15)
    assert (support.shape, query.shape) == ((3, 10), (3, 2))
    with pytest.raises(Refused, match=r"setting.shots=6: a class for pre-training has 6 samples.*; 5 at most"):
        replace(source, shots=6)("train", 0, 3, 15)


HERE = [name for name in names("method") if applies(name, "osaka") and not facts(f"method/{name}").oracle]


@pytest.mark.parametrize("method", HERE)
def test_whatever_needs_no_boundaries_runs_here_unchanged(method: str) -> None:
    made = Bench(method, "osaka", steps=6, setting_values={"alpha": 0.5, "ways": 3, "shots": 2})
    made.learn_all()
    scores = made.run.meter.series()["score"]
    assert len(scores) == 6
    assert np.isfinite(scores).all()


def test_these_are_among_them() -> None:
    expected = {"finetune", "replay", "der_plus_plus", "bgd", "mir", "gss", "slda", "cmaml_um_pap", "la_maml", "itaml"}
    assert expected <= set(HERE)
    assert not {"ewc", "lwf", "si", "packnet", "maml"} & set(HERE)


@pytest.mark.parametrize(
    "method", ["online_adam", "cmaml", "cmaml_um_pap", "metabgd", "metacog", "reptile", "la_maml", "itaml"]
)
def test_a_killed_cell_goes_on_to_the_same_curve(method: str, tmp_path: Path) -> None:
    def made() -> Bench:
        return Bench(method, "osaka", steps=14, setting_values={"alpha": 0.7, "ways": 3, "shots": 2})

    whole, rest = killed_and_resumed(made, tmp_path, every=4, killed_at=10)
    one, other = whole.run.meter.series(), rest.run.meter.series()
    for name in ("score", "loss", "since_switch", "context", "detected"):
        assert (name in one) == (name in other)
        if name in one:
            assert np.array_equal(one[name], other[name], equal_nan=True), name
    assert same(whole.parameters(), rest.parameters())


REUSES = ["finetune", "online_sgd", "cmaml", "cmaml_um_pap", "reptile", "la_maml", "metabgd", "itaml"]


@pytest.mark.parametrize("method", REUSES)
def test_what_the_prediction_computed_is_not_computed_again(method: str) -> None:
    """With the prediction at hand a step calls the network once less (replay cannot: it learns batch and memory at
    once; nor can BGD: it learns from weights that it draws)."""
    called = {True: [0], False: [0]}
    for asked, count in called.items():
        made = Bench(method, "osaka", setting_values={"ways": 3, "shots": 2})
        made.method.network.register_forward_pre_hook(lambda *_, count=count: count.append(1))  # type: ignore[attr-defined]
        for step in islice(made.experience(0)._steps(), 3):
            prediction = made.method.predict(step.observation) if asked else None
            before = len(count)
            made.method.observe(step.reveal(), prediction)
            count[0] += len(count) - before
    assert called[False][0] == called[True][0] + 3
