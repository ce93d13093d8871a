"""LFL, auxiliary tasks, brain-inspired replay, CN-DPM: off is finetune bit for bit; one step equals the formula."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fourfold.errors import Refused
from fourfold.methods.auxiliary import turned
from fourfold.methods.brain_inspired import gates
from fourfold.methods.expert_mixture import CNDPM
from fourfold.methods.features import features
from fourfold.settings.stream import Observation
from learning import Bench, digits, same

RATE = 0.1  # of the plain SGD of digits(optimizer="sgd")
OFF: dict[str, tuple[str, dict[str, Any]]] = {
    "lfl": ("domain_incremental", {"strength": 0.0, "freeze": False}),
    "self_supervised": ("class_incremental", {"rotation": 0.0, "reconstruction": 0.0}),
    "bi_r": ("class_incremental", {"reconstruction": 0.0, "replay": False}),
}


@pytest.mark.parametrize("method", OFF)
def test_switched_off_it_is_finetune_bit_for_bit(method: str) -> None:
    setting, values = OFF[method]
    off, plain, on = Bench(method, setting, **values), Bench("finetune", setting), Bench(method, setting)
    for made in (off, plain, on):
        made.learn(0)
        made.learn(1)
    assert same(off.parameters(), plain.parameters())
    assert not same(on.parameters(), plain.parameters())


def first_batch(made: Bench, phase: int) -> Observation:
    return next(iter(made.observations(phase)))


def stepped(network: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """The parameters after a plain gradient step on the loss."""
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()))
    moved = dict(zip(named, found, strict=True))
    return {name: p.detach() - RATE * moved.get(name, 0) for name, p in network.named_parameters()}


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, values in one.items():
        torch.testing.assert_close(values, other[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("freeze", [True, False])
def test_one_step_of_lfl_by_hand(freeze: bool) -> None:
    bench = digits(optimizer="sgd")
    made = Bench("lfl", "domain_incremental", benchmark=bench, strength=0.7, freeze=freeze)
    made.learn(0)
    made.begin(1)
    made.method.observe(first_batch(made, 0))  # away from the old network, where the distance is not 0
    network, old = copy.deepcopy(made.method.network), made.method.teacher.network
    batch = first_batch(made, 1)
    made.method.observe(batch)
    distance = (features(network, batch.inputs) - features(old, batch.inputs).detach()).square().sum(1).mean()
    assert distance > 0
    loss = F.cross_entropy(network(batch.inputs), batch.targets) + 0.35 * distance
    close(made.parameters(), stepped(network, loss))
    last = [name for name, p in made.method.network.named_parameters() if not p.requires_grad]
    assert len(last) == (2 if freeze else 0)


def test_one_step_with_auxiliary_tasks_by_hand() -> None:
    made = Bench(
        "self_supervised", "task_incremental", benchmark=digits(optimizer="sgd"), rotation=0.3, reconstruction=2.0
    )
    made.begin(0)
    network, heads = copy.deepcopy(made.method.network), copy.deepcopy(made.method.heads)
    batch = first_batch(made, 0)
    turns = torch.randint(4, (len(batch.inputs),), generator=made.run.generator("turns"))
    made.method.observe(batch)
    allowed = made.method.task_outputs[batch.task]
    seen, rotated = features(network, batch.inputs), features(network, turned(batch.inputs, turns))
    loss = (
        F.cross_entropy(network(batch.inputs).masked_fill(~allowed, -1e9), batch.targets)
        + 0.3 * F.cross_entropy(heads["turns"](rotated), turns)
        + 2.0 * F.mse_loss(heads["pixels"](seen), batch.inputs.flatten(1))
    )
    both = torch.nn.ModuleDict({"network": network, "heads": heads})
    found = stepped(both, loss)
    close(made.parameters(), {name.removeprefix("network."): v for name, v in found.items() if name.startswith("net")})
    close(dict(made.method.heads.named_parameters()), {n.removeprefix("heads."): v for n, v in found.items()})


def test_pictures_are_turned_by_quarters() -> None:
    picture = torch.arange(4.0).view(1, 1, 2, 2).repeat(4, 1, 1, 1)
    found = turned(picture, torch.tensor([0, 1, 2, 3]))
    assert found[:, 0].flatten(1).tolist() == [[0, 1, 2, 3], [1, 3, 0, 2], [3, 2, 1, 0], [2, 0, 3, 1]]


def test_one_step_of_brain_inspired_replay_by_hand() -> None:
    made = Bench(
        "bi_r", "class_incremental", benchmark=digits(optimizer="sgd"), hidden=[12, 10], latent=5, reconstruction=0.5
    )
    made.learn(0)
    made.begin(1)
    method = made.method
    network, feedback = copy.deepcopy(method.network), copy.deepcopy(method.feedback)
    batch = first_batch(made, 1)
    count = len(batch.targets)
    noise = torch.Generator()
    noise.set_state(method.noise.get_state())
    known = method.shown_before.nonzero().flatten()
    labels = known[torch.randint(len(known), (count,), generator=noise)]
    past = method.past.network
    code = (
        past.prior_mean[labels] + torch.randn(count, 5, generator=noise) * (0.5 * past.prior_log_variance[labels]).exp()
    )
    drawn = past.decode(code, labels).sigmoid().view(count, 1, 8, 8).detach()
    method.observe(batch)

    every, classes = torch.cat([batch.inputs, drawn]), torch.cat([batch.targets, labels])
    outputs, hidden = network(every), features(network, every)
    mean, wide = feedback.mean(hidden), feedback.log_variance(hidden)
    logits = feedback.decode(mean + torch.randn(2 * count, 5, generator=noise) * (wide / 2).exp(), classes)
    missed = F.binary_cross_entropy_with_logits(logits, every.flatten(1), reduction="none").sum(1)
    posterior = torch.distributions.Normal(mean, (wide / 2).exp())
    prior = torch.distributions.Normal(feedback.prior_mean[classes], (feedback.prior_log_variance[classes] / 2).exp())
    shown = (missed + torch.distributions.kl_divergence(posterior, prior).sum(1)) / 64

    def soft(scores: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        return (scores.masked_fill(~allowed, -1e9) / 2).log_softmax(1)

    seen = method.seen
    new = F.cross_entropy(outputs[:count].masked_fill(~seen, -1e9), batch.targets)
    taught = soft(method.teacher(drawn), method.shown_before)
    old = 4 * (taught.exp() * (taught - soft(outputs[count:], seen))).sum(1).mean()
    loss = 0.5 * (new + 0.5 * shown[:count].mean()) + 0.5 * (old + 0.5 * shown[count:].mean())
    found = stepped(torch.nn.ModuleDict({"network": network, "feedback": feedback}), loss)
    close(made.parameters(), {n.removeprefix("network."): v for n, v in found.items() if n.startswith("network")})
    close(dict(method.feedback.named_parameters()), {n.removeprefix("feedback."): v for n, v in found.items()})


def test_a_class_closes_its_own_share_of_the_decoder() -> None:
    found = gates(4, 20, 0.25, seed=0, layer=1)
    assert found.sum(1).tolist() == [15] * 4
    assert len({tuple(row) for row in found.tolist()}) == 4
    assert torch.equal(found, gates(4, 20, 0.25, seed=0, layer=1))


# ---------------------------------------------------------------------------------------------- CN-DPM


def mixture(**values: Any) -> Bench:
    short = {"memory": 30, "sleep_steps": 60, "hidden": [32], "latent": 4, "learning_rate": 0.01, "log_alpha": -60.0}
    return Bench("cn_dpm", "online", **{**short, **values})


def test_samples_wait_until_the_memory_is_full_and_then_make_an_expert() -> None:
    made = mixture(sleep_steps=2)
    batches = list(made.observations(0))
    assert made.method.observe(batches[0]) is None
    assert len(made.method.waiting["targets"]) == 16
    assert not len(made.method.network)
    made.method.observe(batches[1])
    assert len(made.method.network) == 1
    assert made.method.numbers == [32]
    assert made.method.waiting == {}


def test_a_sample_belongs_to_the_expert_that_explains_it_best_or_to_none() -> None:
    made = mixture(sleep_steps=200)
    method = made.method
    assert isinstance(method, CNDPM)
    for batch in list(made.observations(0))[:2]:
        method.observe(batch)
    batch = first_batch(made, 0)
    expert = method.network[0]
    look = expert.look(batch.inputs, [])
    bound = -expert.missed(batch.inputs, look, torch.zeros(16, 4))
    chances = look.scores.log_softmax(1)
    right = chances[torch.arange(16), batch.targets]
    joint = math.log(32) + bound + right
    expected = torch.where(joint < -60, -1, 0)
    assert torch.equal(method.owners(batch.inputs, batch.targets), expected)
    noise = 1 - batch.inputs
    assert (method.owners(noise, batch.targets) == -1).float().mean() > 0.9, "nothing like it was learned"
    method.numbers = [1]
    scores = method.predict(Observation(batch.inputs))
    torch.testing.assert_close(scores, bound[:, None] + chances)


def test_a_new_expert_is_shown_the_hidden_layers_before_it_and_does_not_change_them() -> None:
    sizes: dict[str, Any] = {"log_alpha": 1e9, "hidden": [6, 5], "added": [4, 3]}
    joined, apart = (mixture(**sizes, lateral=lateral) for lateral in (True, False))
    for made in (joined, apart):
        for batch in list(made.observations(0))[:4]:
            made.method.observe(batch)  # nothing explains anything: two batches make an expert
    first, second = joined.method.network
    assert len(apart.method.network[1].encoder.adapters[0]) == 0
    assert same(dict(first.state_dict()), dict(apart.method.network[0].state_dict())), "the second left it alone"
    x = first_batch(joined, 0).inputs
    seen = first.look(x, [])
    found = second.look(x, [seen])
    expected = []
    for name in ("encoder", "classifier"):
        one, two = getattr(first, name), getattr(second, name)
        h = (one.layers[0](x.flatten(1))).relu()
        k = (one.layers[1](h)).relu()
        own = two.layers[0](x.flatten(1)).relu()
        above = (two.layers[1](own) + two.adapters[0][0](h)).relu()
        assert (own.shape[1], above.shape[1]) == (4, 3)
        expected.append(two.layers[2](above) + two.adapters[1][0](k))
    torch.testing.assert_close([found.mean, found.log_variance], list(expected[0].split(4, 1)))
    torch.testing.assert_close(found.scores, expected[1])
    noise = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal(found.mean, (0.5 * found.log_variance).exp())
    logits = second.decoder(found.mean + noise * normal.stddev)
    pixels = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    apart_from = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
    missed = second.missed(x, found, noise)
    torch.testing.assert_close(missed, apart_from - pixels.log_prob(x.flatten(1)).sum(1))
    joined.method.network.zero_grad(set_to_none=True)
    (found.scores.sum() + missed.sum()).backward()
    assert all(p.grad is None for p in first.parameters())
    assert all(p.grad is not None for p in second.parameters())


def test_later_experts_have_as_many_layers_as_the_first() -> None:
    with pytest.raises(Refused, match=r"method.added=\[4\]: experts have 2 hidden layers \(method.hidden=\[6, 5\]\)"):
        mixture(hidden=[6, 5], added=[4])


def test_what_an_expert_explains_teaches_that_expert() -> None:
    made = mixture(log_alpha=-1e9)
    method = made.method
    batches = list(made.observations(0))[:3]
    for batch in batches[:2]:
        method.observe(batch)
    before = [p.clone() for p in method.network[0].parameters()]
    assert method.observe(batches[2]) is not None
    assert len(method.network) == 1
    assert method.numbers == [48]
    assert not all(torch.equal(a, b) for a, b in zip(before, method.network[0].parameters(), strict=True))
