"""Methods that give each task its own part of the network: what one task has learned stays, exactly."""

import pytest
import torch
from torch import nn

from fourfold.errors import Refused
from fourfold.experiment import _bytes_of
from fourfold.methods.columns import Progressive
from fourfold.methods.gates import Gate, gated, weighted_layers
from learning import Bench, digits, make_stream, same


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


@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("hat", "conv4"),
        ("hat", "lenet"),
        ("pnn", "conv4"),
        ("pnn", "lenet"),
        ("packnet", "conv4"),
        ("packnet", "residual"),
        ("separate_networks", "residual"),
    ],
)
def test_nothing_is_forgotten_with_convolutions_and_normalisations(method: str, model: str) -> None:
    """Those of conv4 are by the batch, those of the residual network by running statistics."""
    made = Bench(method, "task_incremental", benchmark=digits(model=model))
    before: list[torch.Tensor] = []
    for phase in range(3):
        made.learn(phase, steps=6)
        scores = [made.scores(context) for context in range(phase + 1)]
        assert same(scores[:phase], before)
        before = scores
    if method == "pnn":
        layers = len(weighted_layers(made.method.network.columns[0]))
        assert len(made.method.network.adapters) == (layers - 1) * 10  # from each of five columns to each later one


def test_separate_networks_are_told_the_task_in_any_setting() -> None:
    """Class-incremental, a network by the true context is as good as where tasks are told."""
    found = []
    for setting in ("class_incremental", "task_incremental"):
        made = Bench("separate_networks", setting, steps=100)
        made.learn_all()
        found.append([made.scores(number).argmax(1) for number in range(5)])
    assert same(*found)
    assert "task_labels_test" not in make_stream("class_incremental").grants


@pytest.mark.parametrize("method", ["pnn", "separate_networks"])
def test_columns_of_tasks_that_have_not_come_are_not_held_yet(method: str) -> None:
    made = Bench(method, "task_incremental")
    sizes = []
    for phase in range(3):
        made.learn(phase, steps=1)
        sizes.append(_bytes_of(made.method)["parameters"])
    first, second, third = sizes
    column = 4 * sum(p.numel() for p in made.method.network.columns[0].parameters())
    adapters = getattr(made.method.network, "adapters", {})
    between = [
        4 * sum(layer.weight.numel() for name, layer in adapters.items() if name.startswith(f"{number}_"))
        for number in (1, 2)
    ]
    assert (first, second, third) == (column, 2 * column + between[0], 3 * column + sum(between))
    assert (between[1] > between[0] > 0) == (method == "pnn")


def test_hats_gates_are_steep_where_a_pass_is_one_batch() -> None:
    made = Bench("hat", "task_incremental")
    made.method.a_pass = 1
    made.begin(0)
    list(made.method.terms(next(made.observations(0))))
    assert made.method.slope == made.method.steepness


def test_hat_forgets_nothing_where_normalisations_keep_running_statistics() -> None:
    layers = [nn.BatchNorm1d(6), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)]
    made = Bench("hat", "task_incremental")
    method = made.method
    method.network, method.gates = gated(nn.Sequential(*layers))
    assert [type(layer).__name__ for layer in method.network] == [
        *("BatchNorm1d", "Linear", "BatchNorm1d", "Tanh", "Gate", "Linear")
    ]
    method.gates[0].embedding = nn.Parameter(torch.zeros(5, 5))
    method.used = [torch.tensor([True, False, True, False, False])]
    method.used_outputs = torch.tensor([True, True, False, False])
    method.tasks_past = torch.tensor([True, False, False, False, False])
    before = [values.detach().clone() for values in method._changing()]
    with torch.no_grad():
        for values in method._changing():
            values.add_(1)
    method._hold(before)
    own = layers[2]
    for values, start in ((own.weight, 1), (own.bias, 0), (own.running_mean, 0), (own.running_var, 1)):
        assert values.tolist() == [start, start + 1, start, start + 1, start + 1]
    first = layers[0]
    assert (first.running_mean == 0).all(), "the inputs are used by every task"


@pytest.mark.parametrize("method", ["hat", "xdg", "pnn"])
def test_a_network_that_is_no_sequence_is_refused(method: str) -> None:
    with pytest.raises(Refused, match=r"which Residual is not: choose benchmark/model=mlp, conv, conv4, lenet"):
        Bench(method, "task_incremental", benchmark=digits(model="residual"))


@pytest.mark.parametrize(("method", "what"), [("hat", "gates"), ("xdg", "gates"), ("pnn", "adapts")])
def test_a_network_without_hidden_layers_is_refused(method: str, what: str) -> None:
    with pytest.raises(Refused, match=f"this method {what} hidden .*, and the network has none; choose a model with"):
        Bench(method, "task_incremental", benchmark=digits(model="linear"))


def test_running_statistics_of_earlier_columns_stay() -> None:
    columns = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(3)]
    network = Progressive(columns).train()
    network.task = torch.ones(8, dtype=torch.long)
    network(torch.randn(8, 3))
    moved = [bool((column[1].running_mean != 0).any()) for column in columns]
    assert moved == [False, True, False]


def test_layers_that_mix_units_cannot_be_gated() -> None:
    with pytest.raises(Refused, match="cannot gate the units of a network with LayerNorm"):
        gated(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2)))


@pytest.mark.parametrize("model", ["conv4", "lenet"])
def test_xdg_closes_units_behind_their_normalisation_and_activation(model: str) -> None:
    made = Bench("xdg", "task_incremental", benchmark=digits(model=model), closed=0.5)
    layers = list(made.method.network)
    for at, layer in enumerate(layers):
        if isinstance(layer, Gate):
            assert isinstance(layers[at - 1], nn.ReLU)
    assert len(made.method.gates) == len(weighted_layers(made.method.network)) - 1
    made.learn(0)
    assert torch.isfinite(made.scores(0)).all()


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
