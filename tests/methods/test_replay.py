"""Replay: the weights of what is new and what is remembered, one step by hand."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fourfold.composition import compose, plain
from fourfold.errors import Refused
from fourfold.recipe import resolve
from learning import Bench, digits, same

LINEAR = digits(model="linear", optimizer="sgd")


def test_weights_are_the_shares_of_contexts() -> None:
    made = Bench("replay", "class_incremental")
    found = []
    for phase in range(4):
        made.begin(phase)
        found.append(made.method.weights())
    assert found == [(1, 0), (1 / 2, 1 / 2), (1 / 3, 1 - 1 / 3), (1 / 4, 3 / 4)]
    assert Bench("replay", "continual").method.weights() == (0.5, 0.5)
    assert Bench("replay", "class_incremental", weighting="sum").method.weights() == (1, 1)


class Step:
    """One step of the second context, with what it will draw from the memory looked up before."""

    def __init__(self, method: str, draws: int, size: int = 16, memory: int = 30, **values: Any) -> None:
        self.made = Bench(method, "class_incremental", benchmark=LINEAR, memory=memory, **values)
        self.made.learn(0)
        self.made.begin(1)
        self.new = next(self.made.observations(1))
        memory = self.made.method.memory
        state = memory.generator.get_state()
        self.past = [memory.draw(size) for _ in range(draws)]
        memory.generator.set_state(state)
        self.parameters = [p.requires_grad_() for p in self.made.parameters().values()]
        self.seen = self.made.method.seen.clone()
        self.seen[self.new.targets] = True

    def outputs(self, inputs: Tensor) -> Tensor:
        weight, bias = self.parameters
        return inputs.flatten(1) @ weight.T + bias

    def loss(self, inputs: Tensor, targets: Tensor, seen: Tensor | None = None) -> Tensor:
        mask = self.seen if seen is None else seen
        return F.cross_entropy(self.outputs(inputs).masked_fill(~mask, -1e9), targets)

    def takes(self, total: Tensor) -> None:
        """Asserts that the method's step is one of gradient descent on this loss."""
        gradient = torch.autograd.grad(total, self.parameters)
        assert torch.allclose(self.made.method.observe(self.new), total, atol=1e-6)
        for p, before, g in zip(self.made.parameters().values(), self.parameters, gradient, strict=True):
            assert torch.allclose(p, before - 0.1 * g, atol=1e-6)


def test_one_step_of_replay_by_hand() -> None:
    """loss = 1/t l(new) + (1 - 1/t) l(remembered), over the outputs seen so far."""
    step = Step("replay", draws=1)
    past = step.past[0]
    step.takes(step.loss(step.new.inputs, step.new.targets) / 2 + step.loss(past["inputs"], past["targets"]) / 2)


def test_one_step_of_er_ace_by_hand() -> None:
    """The new samples' loss has the batch's classes only."""
    step = Step("er_ace", draws=1)
    past = step.past[0]
    present = torch.zeros_like(step.seen)
    present[step.new.targets] = True
    assert present.sum() < step.seen.sum()
    new = step.loss(step.new.inputs, step.new.targets, present)
    step.takes(new + step.loss(past["inputs"], past["targets"]))


def test_one_step_of_der_plus_plus_by_hand() -> None:
    """l(new) + alpha mean (z - z_kept)^2 + beta l(others remembered)."""
    step = Step("der_plus_plus", draws=2, alpha=0.7, beta=0.4)
    dark, past = step.past
    kept = (step.outputs(dark["inputs"]) - dark["logits"]).square().mean()
    assert kept > 1e-4
    new = step.loss(step.new.inputs, step.new.targets)
    step.takes(new + 0.7 * kept + 0.4 * step.loss(past["inputs"], past["targets"]))


def test_der_keeps_the_outputs_that_samples_had_when_they_came() -> None:
    made = Bench("der", "class_incremental", benchmark=LINEAR, memory=100)
    made.begin(0)
    first = next(made.observations(0))
    with torch.no_grad():
        outputs = made.method.network(first.inputs)
    made.method.observe(first)
    kept = made.method.memory.rows(torch.arange(16))
    assert torch.equal(kept["inputs"], first.inputs)
    assert torch.allclose(kept["logits"], outputs, atol=1e-6)


@pytest.mark.parametrize("setting", ["class_incremental", "task_incremental", "continual"])
def test_der_without_its_losses_is_finetune_bit_for_bit(setting: str) -> None:
    plain, off = Bench("finetune", setting), Bench("der_plus_plus", setting, alpha=0.0, beta=0.0)
    for made in (plain, off):
        for phase in range(min(3, len(made.stream.phases))):
            made.learn(phase)
    assert same(plain.parameters(), off.parameters())


def test_a_memory_filled_as_contexts_end_has_equally_many_of_each_past_class() -> None:
    values = {"storage": "balanced", "each": 7, "filled": "contexts", "memory": 500}
    made = Bench("replay", "class_incremental", **values)
    plain = Bench("finetune", "class_incremental")
    for phase in range(3):
        made.learn(phase)
        if phase == 0:
            plain.learn(0)
            assert same(made.parameters(), plain.parameters()), "there was nothing to learn again"
        memory = made.method.memory
        counts = memory.parts["targets"][: len(memory)].bincount(minlength=10)
        assert sorted(counts.tolist()) == [0] * (8 - 2 * phase) + [7] * (2 + 2 * phase)


@pytest.mark.parametrize(
    ("setting", "values", "message"),
    [
        ("class_incremental", {"each": 5}, "method.each=5: method.storage=reservoir does not count classes"),
        ("continual", {"filled": "contexts"}, "method.filled=contexts: this setting does not tell when a context ends"),
    ],
)
def test_what_a_memory_cannot_do_is_refused(setting: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        Bench("replay", setting, **values)


@pytest.mark.parametrize("method", ["replay", "mir", "gss", "er_ace"])
def test_before_there_is_a_memory_it_is_finetune_bit_for_bit(method: str) -> None:
    plain, other = Bench("finetune", "class_incremental"), Bench(method, "class_incremental", weighting="balanced")
    for made in (plain, other):
        made.learn(0)
    assert same(plain.parameters(), other.parameters())


def test_mir_takes_the_samples_that_the_step_hurts_most() -> None:
    step = Step("mir", draws=1, size=3 * 16, memory=100, candidates=3)
    drawn = step.past[0]
    gradient = torch.autograd.grad(step.loss(step.new.inputs, step.new.targets), step.parameters)
    step.made.method.seen.copy_(step.seen)
    harm = torch.zeros(48)
    for sign, moved in ((-1, 0.0), (1, 0.1)):
        weight, bias = (p - moved * g for p, g in zip(step.parameters, gradient, strict=True))
        scores = (drawn["inputs"].flatten(1) @ weight.T + bias).masked_fill(~step.seen, -1e9)
        harm = harm + sign * F.cross_entropy(scores, drawn["targets"], reduction="none")
    found = step.made.method.remembered(step.new)
    worst = harm.topk(16).indices
    assert torch.equal(found["inputs"], drawn["inputs"][worst])
    assert harm[worst].min() > harm.min()


@pytest.mark.parametrize("benchmark", ["digits", "mnist", "cifar10"])
@pytest.mark.parametrize("scale", ["full", "smoke"])
def test_mir_has_a_choice_at_its_defaults(benchmark: str, scale: str) -> None:
    cell = plain(compose([f"benchmark={benchmark}", "method=mir", f"scale={scale}"]))
    batch = resolve(cell, accelerator=False).batch
    assert batch < cell["method"]["candidates"] * batch <= cell["method"]["memory"]


def test_gss_scores_are_the_largest_cosines_and_decide_who_stays() -> None:
    made = Bench("gss", "class_incremental", benchmark=LINEAR, memory=20, compared=10**6)
    made.begin(0)
    observations = [observation for _, observation in zip(range(3), made.observations(0), strict=False)]
    made.method.observe(observations[0])
    assert len(made.method.memory) == 16
    own = made.method.told(observations[1])

    def directions(inputs: Tensor, targets: Tensor) -> Tensor:
        weight, bias = made.parameters().values()
        x = inputs.flatten(1)
        scores = (x @ weight.T + bias).masked_fill(~made.method.seen, -1e9)
        error = scores.softmax(1) - F.one_hot(targets, 10)
        return F.normalize(torch.cat([(error[:, :, None] * x[:, None]).flatten(1), error], 1), dim=1)

    members = made.method.memory.rows(torch.arange(16))
    expected = 1 + (directions(**own) @ directions(members["inputs"], members["targets"]).T).max(1).values
    assert torch.allclose(made.method.similarity(own), expected, atol=1e-5)
    scores = made.method.similarity(own)
    made.method.observe(observations[1])
    assert len(made.method.memory) == 20
    assert torch.allclose(made.method.scores[16:], scores[:4], atol=1e-5)
    made.method.observe(observations[2])
    assert len(made.method.memory) == 20


def full_of_digits(scores: Tensor) -> Bench:
    """GSS whose memory is full, of samples with these scores."""
    made = Bench("gss", "class_incremental", benchmark=LINEAR, memory=len(scores))
    made.begin(0)
    made.method.observe(next(made.observations(0)))
    assert len(made.method.memory) == len(scores)
    made.method.scores = scores
    return made


def test_gss_replaces_the_member_that_is_most_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member is met by its score: here always number 3, which a sample unlike all others (score 0) replaces."""
    made = full_of_digits(torch.zeros(10).index_fill(0, torch.tensor(3), 2.0))
    before = made.method.memory.rows(torch.arange(10))["inputs"].clone()
    new = list(itertools.islice(made.observations(0), 2))[1]
    given = torch.full((16,), 1.5).index_fill(0, torch.tensor(5), 0.0)  # all but row 5 are like something kept
    monkeypatch.setattr(made.method, "similarity", lambda samples: given)
    made.method.keep(new)
    after = made.method.memory.rows(torch.arange(10))["inputs"]
    assert torch.equal(after[3], new.inputs[5])
    assert not torch.equal(after[3], before[3])
    others = torch.arange(10) != 3
    assert torch.equal(after[others], before[others])
    assert made.method.scores[3] == 0


def test_gss_replaces_with_the_share_of_the_members_score() -> None:
    """A sample of score c = 1/2 wins against a member of score C = 1 with probability C / (C + c) = 2/3."""
    made = full_of_digits(torch.ones(10))
    wins, places = 0, set()
    for _ in range(1500):
        made.method.scores = torch.ones(10)
        found = made.method._replacements(torch.tensor([0.5]), room=0)
        wins += len(found)
        places |= set(found)
    assert abs(wins / 1500 - 2 / 3) < 4 * (2 / 9 / 1500) ** 0.5
    assert places == set(range(10))
