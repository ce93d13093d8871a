"""A-GEM and GEM: the gradient is turned exactly as far as the past asks."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from fourfold.methods import buffers
from fourfold.methods.projection import dual
from learning import Bench, digits, same

LINEAR = digits(model="linear", optimizer="sgd")


def gradient(made: Bench, inputs: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the cross entropy over the outputs seen, as one vector."""
    scores = made.method.network(inputs).masked_fill(~made.method.seen, -1e9)
    parts = torch.autograd.grad(F.cross_entropy(scores, targets), list(made.method.network.parameters()))
    return torch.cat([part.flatten() for part in parts])


def vector(made: Bench) -> Tensor:
    return torch.cat([p.flatten() for p in made.parameters().values()])


def second_context(method: str, **values: object) -> Bench:
    """Eight steps into the second context, when the two contexts' gradients are against each other."""
    made = Bench(method, "class_incremental", benchmark=LINEAR, **values)
    made.learn(0, steps=10)
    made.begin(1)
    for _, observation in zip(range(8), made.observations(1), strict=False):
        made.method.observe(observation)
    return made


def test_one_step_of_a_gem_by_hand() -> None:
    """g <- g - (g.r / r.r) r where g.r < 0."""
    made = second_context("a_gem", memory=40)
    conflicts = 0
    for _, observation in zip(range(8), made.observations(1), strict=False):
        memory = made.method.memory
        state = memory.generator.get_state()
        past = memory.draw(len(observation.targets))
        memory.generator.set_state(state)
        g, r = (
            gradient(made, observation.inputs, observation.targets),
            gradient(made, past["inputs"], past["targets"]),
        )
        conflicts += int(g @ r < 0)
        expected = g - (g @ r) / (r @ r) * r if g @ r < 0 else g
        before = vector(made)
        made.method.observe(observation)
        assert torch.allclose(vector(made), before - 0.1 * expected, atol=1e-6)
    assert conflicts


def test_a_gem_remembers_past_contexts_only_balanced_over_classes() -> None:
    made = Bench("a_gem", "class_incremental", memory=40)
    for phase in range(3):
        made.begin(phase)
        assert len(made.method.memory) == (40 if phase else 0)
        made.method.observe(next(made.observations(phase)))
        made.end(phase)
    counts = made.method.memory.parts["targets"].bincount(minlength=10)
    past = [label for context in made.stream.contexts[:3] for label in context.outputs]
    assert sorted(counts[past].tolist()) == [6, 6, 7, 7, 7, 7]


def test_one_step_of_gem_keeps_every_constraint_and_moves_least() -> None:
    made = Bench("gem", "class_incremental", benchmark=LINEAR, memory=30, margin=0.0)
    for phase in range(3):
        made.learn(phase, steps=10)
    made.begin(3)
    turned = 0
    for _, observation in zip(range(6), made.observations(3), strict=False):
        made.method.seen[observation.targets] = True
        g = gradient(made, observation.inputs, observation.targets)
        rows = torch.stack([gradient(made, kept["inputs"], kept["targets"]) for kept in made.method.past])
        before = vector(made)
        made.method.observe(observation)
        taken = (before - vector(made)) / 0.1
        assert (rows @ taken > -1e-3 * rows.norm(dim=1) * taken.norm()).all()
        if (rows @ g < 0).any():
            turned += 1
            assert (rows @ taken).abs().min() < 1e-2 * rows.norm(dim=1).max() * taken.norm()  # on an edge
            assert (taken - g).norm() > 1e-4
        else:
            assert torch.allclose(taken, g, atol=1e-4)
    assert turned


def test_the_dual_of_gem_is_that_of_a_general_solver() -> None:
    draw = np.random.default_rng(0)
    for margin in (0.0, 0.5):
        rows, g = draw.normal(size=(4, 12)), draw.normal(size=12)
        gram, towards = rows @ rows.T, rows @ g
        start = np.full(4, margin + 0.1)
        found = minimize(
            lambda v, gram=gram, towards=towards: 0.5 * v @ gram @ v + towards @ v,
            start,
            bounds=[(margin, None)] * 4,
            tol=1e-12,
        ).x
        assert np.allclose(dual(gram, towards, margin), found, atol=1e-4)


def test_in_the_first_context_it_is_finetune_bit_for_bit() -> None:
    plain = Bench("finetune", "class_incremental")
    plain.learn(0)
    for method in ("a_gem", "gem"):
        made = Bench(method, "class_incremental")
        made.learn(0)
        assert same(plain.parameters(), made.parameters())


def test_gem_tells_what_its_samples_take() -> None:
    """An input of 64 bytes, or of 64 numbers where these are no bytes, and a label of 8, for each of 2 x 30."""
    made = Bench("gem", "class_incremental", memory=30)
    assert made.method.sample_bytes() == 0
    for phase in range(2):
        made.learn(phase)
    each = buffers.stored_bytes(made.stream.train.batch(torch.arange(1)).inputs) + 8
    assert made.method.sample_bytes() == 2 * 30 * each
