"""Streams: what comes when, fixed by the seed, and nothing shown that is not granted."""

from itertools import islice, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fourfold.data.tensors import Sets, TensorData
from fourfold.errors import Refused
from fourfold.settings.protocols import matrix
from fourfold.settings.stream import Hidden, Observation, Stream, batches
from fourfold.settings.transforms import permutations, rotations
from learning import Bench, built_by, digits, make_stream, names, same

SUPERVISED = [name for name in names("setting") if built_by(name, "supervised.build_stream")]


def classes_of(stream: Stream, indices: Tensor | None) -> set[int]:
    assert indices is not None
    return set(stream.train.targets[indices].tolist())  # type: ignore[union-attr]


def tensors(stream: Stream) -> list[Any]:
    found: list[Any] = [part for context in stream.contexts for part in (context.train, context.test, context.relabel)]
    return found + [part for phase in stream.phases for part in (phase.indices, phase.context_of)]


@pytest.mark.parametrize("contexts", [1, 3, 5, 10])
def test_class_splits_are_disjoint_and_complete(contexts: int) -> None:
    stream = make_stream("class_incremental", contexts=contexts)
    assert len(stream.contexts) == contexts
    for part in ("train", "test"):
        together = torch.cat([getattr(context, part) for context in stream.contexts])
        assert same(together.sort().values, torch.arange(len(getattr(stream, part))))
    assert sorted(label for context in stream.contexts for label in context.outputs) == list(range(10))
    for context in stream.contexts:
        assert classes_of(stream, context.train) == set(context.outputs)


def test_class_orders_come_from_the_seed_alone() -> None:
    orders = [[c.name for c in make_stream("class_incremental", seed=seed).contexts] for seed in range(4)]
    assert len({str(order) for order in orders}) == 4
    methods = [Bench(method, "class_incremental", seed=2).stream for method in ("finetune", "ewc", "replay", "joint")]
    assert all([c.name for c in stream.contexts] == orders[2] for stream in methods)
    assert [c.name for c in make_stream("task_incremental", seed=2).contexts] == orders[2]


def test_a_class_order_can_be_given() -> None:
    order = [3, 1, 4, 5, 9, 2, 6, 8, 7, 0]
    stream = make_stream("class_incremental", class_order=order)
    assert [context.name for context in stream.contexts][:2] == ["classes 3,1", "classes 4,5"]
    assert make_stream("class_incremental", class_order="natural").contexts[0].outputs == (0, 1)


@pytest.mark.parametrize("setting", SUPERVISED)
def test_a_stream_depends_on_the_seed_alone(setting: str) -> None:
    assert same(tensors(make_stream(setting, seed=5)), tensors(make_stream(setting, seed=5)))


def test_domains_share_their_outputs() -> None:
    stream = make_stream("domain_incremental")
    assert stream.outputs == 2
    for context in stream.contexts:
        assert context.outputs == (0, 1)
        assert context.relabel is not None
        labels = stream.train.targets[context.train]  # type: ignore[union-attr]
        first = int(context.name.removeprefix("classes ").split(",")[0])
        assert torch.equal(context.relabel[labels], (labels != first).long())
    shown = next(Bench("finetune", "domain_incremental").observations(3))
    assert set(shown.targets.tolist()) == {0, 1}


@pytest.mark.parametrize("setting", ["continual", "discrete", "online", "blurry", "data_incremental"])
def test_a_single_pass_shows_every_sample_once(setting: str) -> None:
    stream = make_stream(setting)
    seen = [index for phase in stream.phases for part, _ in batches(phase, 16, 0) for index in part.tolist()]
    assert sorted(seen) == list(range(len(stream.train)))  # type: ignore[arg-type]


def test_contexts_drift_into_their_neighbours_only() -> None:
    sharp, smooth = make_stream("discrete").phases[0], make_stream("continual", drift=0.4).phases[0]
    assert (sharp.context_of.diff() >= 0).all()  # type: ignore[union-attr]
    assert (smooth.context_of.diff() < 0).any()  # type: ignore[union-attr]
    wide = make_stream("continual", drift=0.4)
    ends = torch.tensor([len(context.train) for context in wide.contexts]).cumsum(0)  # type: ignore[arg-type]
    order = wide.phases[0].context_of
    assert order is not None
    middle = [int(a + (b - a) * 0.5) for a, b in pairwise([0, *ends.tolist()])]
    assert [int(order[at]) for at in middle] == [0, 1, 2, 3, 4]  # nothing reaches the middle of another context
    far = max(abs(int(context) - int((at >= ends).sum())) for at, context in enumerate(order))
    assert far == 1


@pytest.mark.parametrize("setting", ["class_incremental", "continual", "traditional"])
@pytest.mark.parametrize("start", [0, 1, 3, 7, 11])
def test_batches_continue_from_anywhere(setting: str, start: int) -> None:
    phase = make_stream(setting).phases[0]
    whole = list(islice(batches(phase, 32, 9), 14))
    assert same(list(islice(batches(phase, 32, 9, start), 14 - start)), whole[start:])


def test_each_pass_has_an_order_of_its_own() -> None:
    phase = make_stream("class_incremental").phases[0]
    assert phase.indices is not None
    a_pass = -(-len(phase.indices) // 16)
    drawn = list(islice(batches(phase, 16, 0), 2 * a_pass))
    first, second = torch.cat([i for i, _ in drawn[:a_pass]]), torch.cat([i for i, _ in drawn[a_pass:]])
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


@pytest.mark.parametrize("setting", SUPERVISED)
def test_an_observation_has_what_is_granted_and_nothing_else(setting: str) -> None:
    made = Bench("finetune", setting)
    step = next(made.experience(0)._steps())
    assert set(vars(step.reveal())) <= {"inputs", "targets", "task"}
    assert ("task" in step.reveal()) == ("task_labels_train" in made.stream.grants)
    assert "targets" not in step.observation
    with pytest.raises(Hidden, match="targets is not shown"):
        _ = step.observation.targets
    if "task_labels_train" not in made.stream.grants:
        with pytest.raises(Hidden, match="task is not shown"):
            _ = step.reveal().task


@pytest.mark.parametrize("setting", SUPERVISED)
def test_a_method_learns_of_a_test_sample_only_its_inputs_and_its_granted_task(setting: str) -> None:
    made = Bench("finetune", setting)
    shown: list[Observation] = []
    predict = made.method.predict
    made.method.predict = lambda observation: shown.append(observation) or predict(observation)  # type: ignore[func-returns-value,method-assign]
    matrix(made.method, made.stream, made.benchmark, torch.device("cpu"), 0)
    allowed = {"inputs", "task"} if "task_labels_test" in made.stream.grants else {"inputs"}
    assert shown
    assert all(set(vars(observation)) == allowed for observation in shown)


def test_other_contexts_are_for_bounds_only() -> None:
    with pytest.raises(Hidden, match="bounds"):
        Bench("finetune", "class_incremental").experience(0).everything()
    with pytest.raises(Hidden, match="bounds"):
        Bench("replay", "class_incremental").experience(1).so_far()
    bound = Bench("joint", "class_incremental")
    assert bound.experience(0).everything().samples == 300
    sizes = [len(context.train) for context in bound.stream.contexts]  # type: ignore[arg-type]
    assert bound.experience(2).so_far().samples == sum(sizes[:3])


def test_blurry_contexts_have_a_share_of_others_samples() -> None:
    stream = make_stream("blurry", phases="contexts", blurry=0.3)
    strangers = [int((phase.context_of != phase.contexts[0]).sum()) for phase in stream.phases]  # type: ignore[union-attr]
    assert 0.3 * 300 * 0.8 * 0.6 < sum(strangers) < 0.3 * 300 * 0.8 * 1.4  # a fifth of the movers stay at home
    sizes = [len(context.train) for context in stream.contexts]  # type: ignore[arg-type]
    assert [len(phase.indices) for phase in stream.phases] == sizes  # type: ignore[arg-type]


def test_recurring_contexts_come_back_with_other_samples() -> None:
    stream = make_stream("recurring", visits=3)
    assert [phase.contexts[0] for phase in stream.phases] == [0, 1, 2, 3, 4] * 3
    assert [phase.index for phase in stream.phases] == list(range(15))
    for number, context in enumerate(stream.contexts):
        own = [phase.indices for phase in stream.phases if phase.contexts == (number,)]
        assert torch.equal(torch.cat(own).sort().values, context.train)  # type: ignore[arg-type]


def test_recurring_contexts_share_the_steps_and_are_judged_after_each_visit(run: Any) -> None:
    record = run("setting=recurring", "until.steps=50", "batch=16")
    assert record.state == "done", record.message
    assert record.measurements["steps"] == 50
    assert sorted({entry["after"] for entry in record.evaluations}) == list(range(11))


def test_an_imbalanced_stream_has_a_long_tail() -> None:
    stream = make_stream("imbalanced", digits(samples=1437), rarest=0.1)
    together = torch.cat([context.train for context in stream.contexts])  # type: ignore[misc]
    counts = stream.train.targets[together].bincount(minlength=10).sort().values  # type: ignore[union-attr]
    assert 0.07 < counts[0] / counts[-1] < 0.13
    shares = counts / counts[-1]
    assert torch.allclose(shares, 0.1 ** torch.linspace(1, 0, 10), atol=0.1)  # digits itself is not quite balanced
    test = torch.cat([context.test for context in stream.contexts])  # type: ignore[misc]
    assert len(test) == len(stream.test)  # type: ignore[arg-type]


def test_parts_of_the_data_are_judged_on_all_of_it() -> None:
    stream = make_stream("data_incremental")
    together = torch.cat([context.train for context in stream.contexts])  # type: ignore[misc]
    assert torch.equal(together.sort().values, torch.arange(300))
    assert all(len(context.test) == len(stream.test) for context in stream.contexts)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["permutation", "rotation"])
@pytest.mark.parametrize(("setting", "outputs"), [("domain_incremental", 10), ("class_incremental", 30)])
def test_transformed_contexts_show_the_same_samples_in_other_ways(split: str, setting: str, outputs: int) -> None:
    stream = make_stream(setting, split=split, contexts=3)
    plain = digits().sets.train  # type: ignore[union-attr]
    assert stream.outputs == outputs
    assert len(stream.train) == 900  # type: ignore[arg-type]
    first, second = (stream.train.batch(context.train) for context in stream.contexts[:2])  # type: ignore[union-attr]
    assert torch.equal(first.targets, plain.targets)
    assert torch.equal(second.targets, plain.targets)
    assert torch.allclose(first.inputs, plain.inputs, atol=1e-5)
    assert not torch.allclose(second.inputs, plain.inputs, atol=0.1)
    labels = [context.relabel[plain.targets] for context in stream.contexts]  # type: ignore[index]
    assert torch.equal(labels[2], plain.targets + (0 if outputs == 10 else 20))


def test_a_permutation_moves_pixels_and_a_quarter_turn_turns() -> None:
    pictures = torch.rand(6, 2, 5, 5)
    context_of = torch.tensor([0, 1, 2, 2, 1, 0])
    moved = permutations(3, seed=1)(pictures, context_of)
    assert torch.equal(moved.flatten(1).sort(1).values, pictures.flatten(1).sort(1).values)
    assert torch.equal(moved[[0, 5]], pictures[[0, 5]])
    one, two = permutations(3, seed=1), permutations(3, seed=2)
    assert torch.equal(one(pictures, context_of), moved)
    assert not torch.equal(two(pictures, context_of), moved)
    turned = rotations(4, 360.0)(pictures[:4], torch.arange(4))
    for quarter in range(4):
        candidates = [torch.rot90(pictures[quarter], sign * quarter, (1, 2)) for sign in (1, -1)]
        assert any(torch.allclose(turned[quarter], candidate, atol=1e-4) for candidate in candidates)


@pytest.mark.parametrize(
    ("setting", "samples", "values", "words"),
    [
        ("class_incremental", 6, {}, ["has no training samples", "context ", "benchmark.data.samples="]),
        ("recurring", 20, {"visits": 10}, ["phase ", "has no training samples", "setting.visits="]),
        ("data_incremental", 20, {"contexts": 30}, ["context ", "(part ", "has no training samples"]),
    ],
)
def test_what_nothing_would_be_learned_in_is_refused(
    setting: str, samples: int, values: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(Refused) as caught:
        make_stream(setting, digits(samples=samples), **values)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def domains_of(train: list[int], test: list[int]) -> Any:
    """Pictures of two classes a domain, two training samples and one test sample of each."""
    made = []
    for domains, each in ((train, 2), (test, 1)):
        own = torch.tensor(domains).repeat_interleave(2 * each)
        made.append(TensorData(torch.rand(len(own), 1, 8, 8), torch.arange(len(own)) % 2, domains=own))
    benchmark = digits()
    return SimpleNamespace(
        name="pictures", facts=benchmark.facts | {"domains"}, sets=Sets(made[0], made[1], 2, (1, 8, 8)), outputs=2
    )


def test_domains_are_judged_on_their_own_test_samples_or_on_all_where_the_test_has_others() -> None:
    values = {"split": "domains", "contexts": 3}
    own = make_stream("domain_incremental", domains_of([0, 1, 4], [0, 1, 4]), **values)
    assert [context.test.tolist() for context in own.contexts] == [[0, 1], [2, 3], [4, 5]]
    others = make_stream("domain_incremental", domains_of([0, 1, 4], [2, 3]), **values)
    assert [context.test.tolist() for context in others.contexts] == [[0, 1, 2, 3]] * 3
    with pytest.raises(Refused, match=r"context 1 \(domain 1\) has no test samples"):
        make_stream("domain_incremental", domains_of([0, 1, 4], [0, 4]), **values)
