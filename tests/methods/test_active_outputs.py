"""Which outputs take part where classes arrive over time: those seen, or all from the beginning."""

import pytest
import torch
import torch.nn.functional as F

from learning import Bench, applies, digits, names

ALL = {"active_outputs": "all"}
LINEAR = digits(model="linear", optimizer="sgd")


@pytest.mark.parametrize("active", ["seen", "all"])
def test_one_step_of_finetune_by_hand(active: str) -> None:
    made = Bench("finetune", "class_incremental", benchmark=LINEAR, setting_values={"active_outputs": active})
    made.begin(0)
    batch = next(made.observations(0))
    weight, bias = (p.detach().clone().requires_grad_() for p in made.parameters().values())
    outputs = batch.inputs.flatten(1) @ weight.T + bias
    there = torch.ones(10, dtype=torch.bool)
    if active == "seen":
        there[:] = False
        there[batch.targets] = True
    gradient = torch.autograd.grad(F.cross_entropy(outputs.masked_fill(~there, -1e9), batch.targets), [weight, bias])
    made.method.observe(batch)
    for p, before, g in zip(made.parameters().values(), (weight, bias), gradient, strict=True):
        assert torch.allclose(p, before - 0.1 * g, atol=1e-6)
    assert bool((gradient[1][~there] == 0).all())
    assert bool((gradient[1] != 0).all()) == (active == "all")


@pytest.mark.parametrize(
    "method", [name for name in names("method") if name != "avalanche" and applies(name, "class_incremental")]
)
def test_every_method_learns_and_predicts_with_all_outputs(method: str) -> None:
    made = Bench(method, "class_incremental", setting_values=ALL, steps=2)
    for phase in made.stream.phases[:2]:
        made.begin(phase.index)
        made.method.learn(made.experience(phase.index), made.run)
        made.end(phase.index)
    scores = made.scores()
    assert scores.shape[1] == 10
    assert scores.isfinite().all()
