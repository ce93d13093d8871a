"""LwF, iCaRL, GDumb, generative replay: what the old network says, and what chosen samples say."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from fourfold.composition import compose
from fourfold.errors import Refused
from fourfold.methods.exemplars import herd
from fourfold.methods.features import features
from fourfold.methods.generative import VariationalAutoencoder
from learning import Bench, digits, same

LINEAR = digits(model="linear", optimizer="sgd")


@pytest.mark.parametrize("setting", ["class_incremental", "task_incremental", "domain_incremental"])
def test_lwf_without_strength_is_finetune_bit_for_bit(setting: str) -> None:
    plain, off = Bench("finetune", setting), Bench("lwf", setting, strength=0.0)
    for made in (plain, off):
        for phase in range(3):
            made.learn(phase)
    assert same(plain.parameters(), off.parameters())


@pytest.mark.parametrize("setting", ["class_incremental", "task_incremental"])
@pytest.mark.parametrize("weighting", ["balanced", "sum", "past"])
def test_one_step_of_lwf_by_hand(setting: str, weighting: str) -> None:
    """w l(new) + v a T^2 KL(old || new), over what the old network had seen; for tasks the mean over past heads."""
    made = Bench("lwf", setting, benchmark=LINEAR, strength=0.8, temperature=2.0, weighting=weighting)
    made.learn(0)
    made.learn(1)
    old = [p.clone() for p in made.parameters().values()]
    had = None if made.method.seen is None else made.method.seen.clone()
    made.begin(2)
    first, observation = (o for _, o in zip(range(2), made.observations(2), strict=False))
    made.method.observe(first)
    weight, bias = (p.requires_grad_() for p in made.parameters().values())
    x = observation.inputs.flatten(1)
    student, teacher = x @ weight.T + bias, x @ old[0].T + old[1]
    if setting == "task_incremental":
        heads = [
            torch.zeros(10, dtype=torch.bool).index_fill(0, torch.tensor(c.outputs), True) for c in made.stream.contexts
        ]
        own, pairs = heads[2], [(heads[0], heads[0]), (heads[1], heads[1])]
    else:
        own = made.method.seen
        pairs = [(own, had)]

    def soft(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (scores.masked_fill(~mask, -1e9) / 2).log_softmax(1)

    kept = sum(
        4 * F.kl_div(soft(student, m), soft(teacher, n), reduction="batchmean", log_target=True) for m, n in pairs
    )
    new, past = {"balanced": (1 / 3, 2 / 3), "sum": (1, 1), "past": (1, 2)}[weighting]
    total = new * F.cross_entropy(student.masked_fill(~own, -1e9), observation.targets)
    total = total + past * 0.8 * kept / len(pairs)
    gradient = torch.autograd.grad(total, (weight, bias))
    assert torch.allclose(made.method.observe(observation), total, atol=1e-5)
    for p, before, g in zip(made.parameters().values(), (weight, bias), gradient, strict=True):
        assert torch.allclose(p, before - 0.1 * g, atol=1e-6)


def test_herding_follows_the_mean() -> None:
    vectors = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])  # mean 3.2
    assert herd(vectors, 3).tolist() == [3, 2, 1]  # means 3; 2.5; then 2 is nearer to 3.2 than 5
    assert sorted(herd(vectors, 99).tolist()) == [0, 1, 2, 3, 4]


def herd_by_hand(vectors: torch.Tensor, count: int) -> list[int]:
    mean, chosen = vectors.mean(0), []
    for _ in range(count):
        free = [i for i in range(len(vectors)) if i not in chosen]
        chosen.append(min(free, key=lambda i: float((mean - vectors[[*chosen, i]].mean(0)).norm())))
    return chosen


def test_herding_is_greedy_in_any_dimension() -> None:
    vectors = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert herd(vectors, 8).tolist() == herd_by_hand(vectors, 8)


def test_one_step_of_icarl_by_hand() -> None:
    """Binary cross entropies summed over the outputs seen; old outputs aim at what the old network says."""
    made = Bench("icarl", "class_incremental", benchmark=LINEAR, memory=20)
    made.learn(0)
    old = [p.clone() for p in made.parameters().values()]
    made.begin(1)
    made.method.a_step = 0.25
    observation = next(made.observations(1))
    state = made.method.draw.get_state()
    both = made.method._with_exemplars(observation)
    made.method.draw.set_state(state)
    assert len(both.targets) == 16 + 4
    seen = made.method.seen.clone()
    seen[observation.targets] = True
    weight, bias = (p.requires_grad_() for p in made.parameters().values())
    x = both.inputs.flatten(1)
    wanted = F.one_hot(both.targets, 10).float()
    past = list(made.stream.contexts[0].outputs)
    wanted[:, past] = (x @ old[0].T + old[1]).sigmoid()[:, past]
    losses = F.binary_cross_entropy_with_logits(x @ weight.T + bias, wanted, reduction="none")
    total = losses[:, seen].sum(1).mean()
    gradient = torch.autograd.grad(total, (weight, bias))
    assert torch.allclose(made.method.observe(observation), total, atol=1e-5)
    for p, before, g in zip(made.parameters().values(), (weight, bias), gradient, strict=True):
        assert torch.allclose(p, before - 0.1 * g, atol=1e-6)


def test_icarl_learns_a_class_that_comes_again_by_its_labels() -> None:
    made = Bench("icarl", "recurring", benchmark=LINEAR, memory=20, setting_values={"contexts": 2})
    made.learn(0)
    made.learn(1)
    before = made.parameters()
    made.begin(2)
    made.method.a_step = 0.0
    observation = next(made.observations(2))
    weight, bias = (p.requires_grad_() for p in before.values())
    x = observation.inputs.flatten(1)
    teacher = [p.detach().clone() for p in (weight, bias)]
    wanted = (x @ teacher[0].T + teacher[1]).sigmoid()
    again = observation.targets.unique()
    assert again.tolist() == [label for label in range(10) if bool(made.method.old[label]) and label in again]
    wanted[:, again] = F.one_hot(observation.targets, 10).float()[:, again]
    losses = F.binary_cross_entropy_with_logits(x @ weight.T + bias, wanted, reduction="none")
    total = losses[:, made.method.seen].sum(1).mean()
    assert torch.allclose(made.method.observe(observation), total, atol=1e-5)


def test_icarl_is_refused_where_contexts_share_their_outputs() -> None:
    words = ["benchmark=digits", "setting=domain_incremental", "method=icarl"]
    with pytest.raises(Refused, match=r"method icarl keeps each output as it was .* setting domain_incremental"):
        compose(words)


@pytest.mark.parametrize(("shared_by", "counts"), [("seen", [12, 6, 4, 3, 2]), ("all", [2, 2, 2, 2, 2])])
def test_icarl_shares_its_memory_by_the_classes_seen_or_by_all(shared_by: str, counts: list[int]) -> None:
    made = Bench("icarl", "class_incremental", memory=24, shared_by=shared_by)
    for phase, count in enumerate(counts):
        made.learn(phase, steps=1)
        assert {len(kept) for kept in made.method.exemplars.values()} == {count}


def test_icarl_predicts_the_nearest_mean_and_shares_its_memory_out() -> None:
    made = Bench("icarl", "class_incremental", memory=24)
    for phase in range(3):
        made.learn(phase)
        classes = 2 * (phase + 1)
        assert {len(x) for x in made.method.exemplars.values()} == {24 // classes}
        assert len(made.method.exemplars) == classes
    test = made.stream.test.batch(made.stream.contexts[1].test).inputs
    found = F.normalize(features(made.method.network, test), dim=1).detach()
    means = {}
    for label, x in made.method.exemplars.items():
        means[label] = F.normalize(F.normalize(features(made.method.network, x).detach(), dim=1).mean(0), dim=0)
    nearest = [min(means, key=lambda label: float((row - means[label]).norm())) for row in found]
    assert made.scores(1).argmax(1).tolist() == nearest


def test_gdumb_learns_from_its_balanced_memory_alone() -> None:
    made = Bench("gdumb", "class_incremental", memory=40, passes=3)
    for phase in range(5):
        made.learn(phase, steps=20)
    counts = made.method.memory.parts["targets"].bincount(minlength=10)
    assert counts.tolist() == [4] * 10
    before = made.parameters()
    made.method.train()
    assert same(before, made.parameters())  # a fresh network each time: what came before does not matter
    assert not made.method.stale


def test_gdumb_is_offered_each_sample_once() -> None:
    made = Bench("gdumb", "class_incremental", steps=60, memory=1000, passes=1)  # several passes
    made.learn_all()
    kept = made.method.memory.rows(torch.arange(len(made.method.memory)))["inputs"].flatten(1)
    assert len(kept) == 300
    assert len(kept.unique(dim=0)) == 300


def test_the_autoencoders_loss_is_the_evidence_bound() -> None:
    torch.manual_seed(0)
    model = VariationalAutoencoder((1, 4, 4), [12, 8], 3)
    x, noise = torch.rand(5, 1, 4, 4), torch.randn(5, 3)
    code = model.encoder(x.flatten(1))
    normal = torch.distributions.Normal(model.mean(code), (0.5 * model.log_variance(code)).exp())
    given = torch.distributions.Normal(torch.zeros(5, 3), torch.ones(5, 3))
    divergence = torch.distributions.kl_divergence(normal, given).sum(1)
    drawn = model(normal.mean + normal.stddev * noise).flatten(1)
    likelihood = F.binary_cross_entropy(drawn, x.flatten(1), reduction="none").sum(1)
    assert torch.allclose(model.loss(x, noise), likelihood + divergence, atol=1e-4)
    assert model(noise).shape == x.shape


def test_generative_replay_is_finetune_until_there_is_a_past() -> None:
    plain, other = Bench("finetune", "class_incremental"), Bench("dgr", "class_incremental")
    for made in (plain, other):
        made.learn(0)
    assert same(plain.parameters(), other.parameters())


@pytest.mark.parametrize("distill", [False, True])
def test_one_step_of_generative_replay_by_hand(distill: bool) -> None:
    made = Bench("dgr", "class_incremental", benchmark=LINEAR, distill=distill)
    made.learn(0)
    old = [p.clone() for p in made.parameters().values()]
    had = made.method.seen.clone()
    made.begin(1)
    observation = next(made.observations(1))
    state = made.method.noise.get_state()
    dreamt = made.method.past(made.method._noise(16)).flatten(1)
    made.method.noise.set_state(state)
    seen = had.clone()
    seen[observation.targets] = True
    weight, bias = (p.requires_grad_() for p in made.parameters().values())
    said = (dreamt @ old[0].T + old[1]).masked_fill(~had, -1e9)
    student = (dreamt @ weight.T + bias).masked_fill(~seen, -1e9)
    new = (observation.inputs.flatten(1) @ weight.T + bias).masked_fill(~seen, -1e9)
    if distill:
        soft = [(scores / 2).log_softmax(1) for scores in (student, said)]
        past = 4 * F.kl_div(*soft, reduction="batchmean", log_target=True)
    else:
        past = F.cross_entropy(student, said.argmax(1))
    total = F.cross_entropy(new, observation.targets) / 2 + past / 2
    gradient = torch.autograd.grad(total, (weight, bias))
    assert torch.allclose(made.method.observe(observation), total, atol=1e-5)
    for p, before, g in zip(made.parameters().values(), (weight, bias), gradient, strict=True):
        assert torch.allclose(p, before - 0.1 * g, atol=1e-6)


def test_bic_holds_out_a_share_by_the_pixels_and_never_learns_from_it() -> None:
    made = Bench("bic", "class_incremental", benchmark=LINEAR, held_out=0.3)
    inputs = made.stream.train.batch(torch.arange(300)).inputs
    held = made.method.is_held_out(inputs)
    assert 0.2 < held.float().mean() < 0.4
    assert torch.equal(held.flip(0), made.method.is_held_out(inputs.flip(0)))
    made.begin(0)
    observation = next(made.observations(0))
    used = ~made.method.is_held_out(observation.inputs)
    assert 0 < used.sum() < 16
    seen = torch.zeros(10, dtype=torch.bool)
    seen[observation.targets] = True
    weight, bias = (p.requires_grad_() for p in made.parameters().values())
    scores = (observation.inputs[used].flatten(1) @ weight.T + bias).masked_fill(~seen, -1e9)
    total = F.cross_entropy(scores, observation.targets[used])
    assert torch.allclose(made.method.observe(observation), total, atol=1e-6)
    gradient = torch.autograd.grad(total, (weight, bias))
    for p, before, g in zip(made.parameters().values(), (weight, bias), gradient, strict=True):
        assert torch.allclose(p, before - 0.1 * g, atol=1e-6)


def test_the_correction_of_bic_is_the_best_pair_of_numbers() -> None:
    """No other a, b has a smaller loss on the samples held out; only new outputs are corrected."""
    made = Bench("bic", "class_incremental", held_out=0.3, memory=100)
    for phase in range(2):
        made.learn(phase, steps=20)
    new = torch.zeros(10, dtype=torch.bool).index_fill(0, torch.tensor(made.stream.contexts[1].outputs), True)
    scale, shift = made.method.scale, made.method.shift
    assert (scale[~new] == 1).all()
    assert (shift[~new] == 0).all()
    assert (shift[new] != 0).all()
    kept = made.method.validation.rows(torch.arange(len(made.method.validation)))
    with torch.no_grad():
        outputs = made.method.network(kept["inputs"]).masked_fill(~made.method.seen, -1e9)

    def loss(a: float, b: float) -> float:
        cross_entropy = F.cross_entropy(torch.where(new, outputs * a + b, outputs), kept["targets"])
        return float(cross_entropy) + 0.1 / 2 * ((a - 1) ** 2 + b**2)

    best = loss(float(scale[new][0]), float(shift[new][0]))
    assert best < loss(1.0, 0.0)
    for a, b in ((0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05)):
        assert best <= loss(float(scale[new][0]) + a, float(shift[new][0]) + b) + 1e-6


def test_a_step_of_bic_in_its_second_context_by_hand() -> None:
    """(1 - v) l + v T^2 KL(old || new) over the outputs of before, v their share; new samples and remembered ones."""
    made = Bench("bic", "class_incremental", benchmark=LINEAR, held_out=0.3, memory=40, temperature=3.0)
    made.learn(0, steps=10)
    old = [p.clone() for p in made.parameters().values()]
    had = made.method.seen.clone()
    assert had.sum() == 2
    made.begin(1)
    made.method.a_step = 0.5  # remembered samples for each new one
    first, observation = itertools.islice(made.observations(1), 2)
    made.method.observe(first)
    memory = made.method.memory
    state = memory.generator.get_state()
    past = memory.draw(8)
    memory.generator.set_state(state)
    weight, bias = (p.requires_grad_() for p in made.parameters().values())
    used = ~made.method.is_held_out(observation.inputs)
    assert 0 < used.sum() < 16
    x = torch.cat([observation.inputs[used], past["inputs"]]).flatten(1)
    targets = torch.cat([observation.targets[used], past["targets"]])
    student, teacher = x @ weight.T + bias, x @ old[0].T + old[1]
    soft = [(scores.masked_fill(~had, -1e9) / 3).log_softmax(1) for scores in (student, teacher)]
    kept = 9 * F.kl_div(*soft, reduction="batchmean", log_target=True)
    assert kept > 1e-4
    share = 2 / 4
    assert made.method.seen.sum() == 4
    total = (1 - share) * F.cross_entropy(student.masked_fill(~made.method.seen, -1e9), targets) + share * kept
    gradient = torch.autograd.grad(total, (weight, bias))
    assert torch.allclose(made.method.observe(observation), total, atol=1e-5)
    for p, before, g in zip(made.parameters().values(), (weight, bias), gradient, strict=True):
        assert torch.allclose(p, before - 0.1 * g, atol=1e-6)


def test_bic_without_its_parts_is_finetune_bit_for_bit() -> None:
    """Nothing is held out, and there is nothing to learn again in the first context."""
    plain, other = Bench("finetune", "class_incremental"), Bench("bic", "class_incremental", held_out=0.0)
    for made in (plain, other):
        made.learn(0)
    assert same(plain.parameters(), other.parameters())


def test_icarl_never_keeps_more_than_its_memory() -> None:
    made = Bench("icarl", "class_incremental", memory=25)
    for phase in range(5):
        made.learn(phase)
        kept = sum(len(inputs) for inputs in made.method.exemplars.values())
        assert kept == 25 // (2 + 2 * phase) * (2 + 2 * phase)
    with pytest.raises(Refused, match=r"method\.memory=9: 10 classes need one each; choose 10 or more"):
        Bench("icarl", "class_incremental", memory=9)
