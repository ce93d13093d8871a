"""Methods that give each task its own part of the network: what one task has learned stays, exactly."""

import pytest
import torch

from fourfold.methods.gates import Gate
from learning import Bench, digits, same


@pytest.mark.parametrize("method", ["hat", "packnet", "pnn", "separate_networks"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_nothing_is_forgotten_to_the_last_bit(method: str, optimizer: str) -> None:
    made = Bench(method, "task_incremental", benchmark=digits(optimizer=optimizer))
    before: list[torch.Tensor] = []
    for phase in range(5):
        made.learn(phase, steps=15)
        scores = [made.scores(context) for context in range(phase + 1)]
        assert same(scores[:phase], before)
        before = scores


def test_xdg_with_open_gates_is_finetune_bit_for_bit() -> None:
    plain, off = Bench("finetune", "task_incremental"), Bench("xdg", "task_incremental", closed=0.0)
    for made in (plain, off):
        for phase in range(3):
            made.learn(phase)
    assert same(list(plain.parameters().values()), list(off.parameters().values()))


def test_xdg_multiplies_each_hidden_unit_by_its_tasks_gate() -> None:
    made = Bench("xdg", "task_incremental", closed=0.6)
    made.learn(0)
    weights = list(made.parameters().values())
    x = made.stream.test.batch(made.stream.contexts[2].test).inputs.flatten(1)
    for number in range(2):
        x = (x @ weights[2 * number].T + weights[2 * number + 1]).relu() * made.method.open[number][2]
    expected = x @ weights[4].T + weights[5]
    own = list(made.stream.contexts[2].outputs)
    assert torch.allclose(made.scores(2)[:, own], expected[:, own], atol=1e-5)
    assert 0.3 < float(torch.cat([table.flatten() for table in made.method.open]).mean()) < 0.5
    assert not torch.equal(made.method.open[0][0], made.method.open[0][1])


def test_hat_holds_weights_between_used_units_and_trains_the_others() -> None:
    made = Bench("hat", "task_incremental", strength=0.0)
    made.learn(0, steps=20)
    used = [u.clone() for u in made.method.used]
    assert all(0 < u.sum() < len(u) for u in used)
    before = made.parameters()
    made.begin(1)
    for _, observation in zip(range(10), made.observations(1), strict=False):
        made.method.observe(observation)
    after = made.parameters()
    weight = [name for name in before if name.endswith("weight")][1]  # between the hidden layers
    both = used[1][:, None] & used[0][None]
    assert torch.equal(after[weight][both], before[weight][both])
    assert not torch.equal(after[weight][~both], before[weight][~both])


def test_hats_loss_counts_the_new_units_used_and_its_embeddings_gradient_is_compensated() -> None:
    made = Bench("hat", "task_incremental", strength=0.5, steepness=20.0)
    made.begin(0)
    made.method.a_pass = 2
    made.method.steps = 1  # the end of a pass: s = s_max
    observation = next(made.observations(0))
    network = made.method.network
    gates = [module for module in network if isinstance(module, Gate)]
    for gate in gates:
        gate.factors = torch.sigmoid(20.0 * gate.embedding[observation.task])
    own = made.method.mask(observation)
    loss = torch.nn.functional.cross_entropy(network(observation.inputs).masked_fill(~own, -1e9), observation.targets)
    units = sum(gate.units for gate in gates)
    total = loss + 0.5 * sum(torch.sigmoid(20.0 * gate.embedding[0]).sum() for gate in gates) / units
    gradient = torch.autograd.grad(total, gates[0].embedding)[0]
    e = gates[0].embedding.detach()
    expected = gradient * 20.0 * ((20.0 * e).clamp(-50, 50).cosh() + 1) / (20.0 * (e.cosh() + 1))
    caught = []
    made.method.optimizers["all"].register_step_pre_hook(lambda *_: caught.append(gates[0].embedding.grad.clone()))
    assert torch.allclose(made.method.observe(observation), total, atol=1e-5)
    assert torch.allclose(caught[0], expected, rtol=1e-3, atol=1e-6)


def test_packnet_prunes_the_smallest_free_weights() -> None:
    made = Bench("packnet", "task_incremental", prune=0.5, retrain=0.0)
    made.begin(0)
    for _, observation in zip(range(5), made.observations(0), strict=False):
        made.method.observe(observation)
    trained = made.parameters()
    made.end(0)
    for name in ("1.weight", "3.weight"):
        sizes = trained[name].abs().flatten()
        kept = made.method.owner[name].flatten() == 1
        assert kept.sum() == len(sizes) - round(0.5 * len(sizes))
        assert sizes[kept].min() >= sizes[~kept].max()
        assert (made.parameters()[name].flatten()[~kept] == 0).all()
    made.learn(1)
    second = (made.method.owner["1.weight"] == 2).sum() / made.method.owner["1.weight"].numel()
    assert 0.24 < float(second) < 0.26


def test_packnet_without_pruning_is_finetune_in_its_first_context() -> None:
    plain, other = Bench("finetune", "task_incremental"), Bench("packnet", "task_incremental", prune=0.0)
    for made in (plain, other):
        made.learn(0)
    assert same(plain.parameters(), other.parameters())


def test_a_new_column_sees_earlier_ones_through_its_adapters_alone() -> None:
    made = Bench("pnn", "task_incremental")
    made.learn(0)
    network = made.method.network
    x = made.stream.test.batch(made.stream.contexts[1].test).inputs.flatten(1)
    first, second = (list(column.parameters()) for column in network.columns[:2])
    with torch.no_grad():
        below = [(x @ first[0].T + first[1]).relu()]
        below.append((below[0] @ first[2].T + first[3]).relu())
        h = (x @ second[0].T + second[1]).relu()
        h = (h @ second[2].T + second[3] + below[0] @ network.adapters["1_1_0"].weight.T).relu()
        expected = h @ second[4].T + second[5] + below[1] @ network.adapters["1_2_0"].weight.T
    own = list(made.stream.contexts[1].outputs)
    assert torch.allclose(made.scores(1)[:, own], expected[:, own], atol=1e-5)


def test_a_batch_of_several_tasks_goes_through_several_columns() -> None:
    made = Bench("separate_networks", "multi_task")
    observation = next(made.observations(0))
    assert len(observation.task.unique()) > 2
    whole = made.method.predict(observation)
    for row, task in enumerate(observation.task.tolist()):
        own = made.method.network.columns[task](observation.inputs[row : row + 1])
        mask = made.stream.task_outputs(torch.device("cpu"))[task]
        assert torch.allclose(whole[row, mask], own[0, mask], atol=1e-5)
