"""Molecules, and DimeNet's bases, triplets and symmetries, by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.special import spherical_jn

from fourfold.benchmarks import graphs
from fourfold.data.molecules import molecules, ragged


def test_ragged_ranges_lie_end_to_end():
    assert ragged(torch.tensor([10, 3, 7]), torch.tensor([2, 0, 3])).tolist() == [10, 11, 7, 8, 9]


def test_a_batch_of_molecules_is_the_same_as_its_molecules_one_by_one():
    data = molecules("", 0, 20, 3, 9).train
    indices = torch.tensor([4, 0, 11])
    together = data.batch(indices)
    begin = 0
    edges = []
    for number, index in enumerate(indices.tolist()):
        alone = data.batch(torch.tensor([index]))
        size = int(alone.inputs["sizes"])
        assert torch.equal(together.inputs["atoms"][begin : begin + size], alone.inputs["atoms"])
        assert together.inputs["graph"][begin : begin + size].tolist() == [number] * size
        edges.append(alone.inputs["edges"] + begin)
        begin += size
    assert torch.equal(together.inputs["edges"], torch.cat(edges, 1))
    assert torch.equal(together.targets, data.targets[indices])


def test_molecules_are_connected_both_ways_and_no_two_atoms_meet():
    sets = molecules("", 0, 30, 4, 10)
    assert (len(sets.train), len(sets.test)) == (27, 3)
    for index in range(len(sets.train)):
        inputs = sets.train.batch(torch.tensor([index])).inputs
        size = int(inputs["sizes"])
        linked = torch.zeros(size, size)
        linked[inputs["edges"][0], inputs["edges"][1]] = 1
        assert torch.equal(linked, linked.t())
        assert (torch.linalg.matrix_power(linked + torch.eye(size), size) > 0).all(), "in one piece"
        assert torch.pdist(inputs["positions"]).min() > 0.2
    near = molecules("", 0, 5, 6, 6, cutoff=3.0).train.batch(torch.arange(4)).inputs
    source, target = near["edges"]
    assert (near["positions"][source] - near["positions"][target]).norm(dim=1).max() < 3.0


def test_degrees_are_counted_within_each_molecule():
    data = molecules("", 0, 20, 3, 9).train
    by_hand: dict[int, int] = {}
    for index in range(len(data)):
        inputs = data.batch(torch.tensor([index])).inputs
        for atom in range(int(inputs["sizes"])):
            degree = int((inputs["edges"][1] == atom).sum())
            by_hand[degree] = by_hand.get(degree, 0) + 1
    assert {i: n for i, n in enumerate(graphs.degrees_of(data).tolist()) if n} == by_hand


def test_triplets_are_all_pairs_of_edges_that_meet_and_do_not_turn_back():
    edges = molecules("", 1, 4, 5, 5).train.batch(torch.arange(3)).inputs["edges"]
    first, second = graphs.triplets(edges, 15)
    found = sorted(zip(first.tolist(), second.tolist(), strict=True))
    pairs = list(enumerate(edges.t().tolist()))
    by_hand = [(a, b) for a, (k, j) in pairs for b, (other, i) in pairs if j == other and k != i]
    assert found == sorted(by_hand)


def test_roots_and_spherical_bessel_functions_are_right_also_near_zero():
    roots = graphs.bessel_roots(7, 6)
    assert roots[0].tolist() == pytest.approx([math.pi * n for n in range(1, 7)])
    assert roots[1, 0] == pytest.approx(4.493409457909064)
    for order in range(7):
        assert np.abs(spherical_jn(order, roots[order])).max() < 1e-10
        assert (np.diff(roots[order]) > 2).all(), "none is left out"
    distances = torch.tensor([0.1, 0.5, 0.99], dtype=torch.float64)
    x = distances[:, None, None] * torch.tensor(roots)
    expected = np.stack([spherical_jn(order, x[:, order].numpy()) for order in range(7)], 1)
    np.testing.assert_allclose(graphs.spherical_bessel(x).numpy(), expected, atol=1e-8)


def test_the_envelope_ends_smoothly_at_the_cutoff():
    near = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    values = graphs.envelope(near)
    by_hand = 1 / 0.5 - 28 * 0.5**5 + 48 * 0.5**6 - 21 * 0.5**7
    assert values.tolist() == pytest.approx([by_hand, 0, 0], abs=1e-12)
    inside = torch.tensor(1 - 1e-6, dtype=torch.float64, requires_grad=True)
    graphs.envelope(inside).backward()
    assert abs(float(inside.grad)) < 1e-3  # type: ignore[arg-type]


def test_harmonics_by_hand():
    cosines = torch.tensor([0.5], dtype=torch.float64)
    legendre = [1, 0.5, (3 * 0.25 - 1) / 2, (5 * 0.125 - 3 * 0.5) / 2]
    by_hand = [math.sqrt((2 * order + 1) / (4 * math.pi)) * value for order, value in enumerate(legendre)]
    assert graphs.harmonics(cosines, 4)[0].tolist() == pytest.approx(by_hand)
    assert graphs.harmonics(cosines, 1).shape == (1, 1)


def small_dimenet() -> torch.nn.Module:
    torch.manual_seed(0)
    return graphs.dimenet(torch.zeros(1), hidden=16, blocks=2, bilinear=4, spherical=3, radial=4, cutoff=5.0)


def test_dimenet_does_not_see_rotation_translation_or_the_order_of_molecules():
    network = small_dimenet()
    data = molecules("", 0, 8, 4, 7, cutoff=5.0).train
    inputs = data.batch(torch.arange(4)).inputs
    rotation, _ = torch.linalg.qr(torch.randn(3, 3))
    moved = {**inputs, "positions": inputs["positions"] @ rotation + 3.0}
    with torch.no_grad():
        values = network(inputs)
        torch.testing.assert_close(network(moved), values, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            network(data.batch(torch.tensor([3, 1])).inputs), values[[3, 1]], rtol=1e-3, atol=1e-4
        )


def test_dimenet_sees_angles():
    """Two molecules with the same distances along bonds and another angle between them."""
    network = small_dimenet()
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    values = []
    for degrees in (60, 120):
        angle = math.radians(degrees)
        positions = torch.tensor([[1.5, 0, 0], [0, 0, 0], [1.5 * math.cos(angle), 1.5 * math.sin(angle), 0]])
        words = {
            "atoms": torch.tensor([1, 2, 3]),
            "graph": torch.zeros(3, dtype=torch.long),
            "sizes": torch.tensor([3]),
        }
        with torch.no_grad():
            values.append(float(network({**words, "positions": positions, "edges": edges})))
    assert abs(values[0] - values[1]) > 1e-6


@pytest.mark.slow
def test_dimenet_has_exactly_the_parameters_of_the_library_s():
    models = pytest.importorskip("torch_geometric.nn.models")
    ours = graphs.dimenet(torch.zeros(1), hidden=64, blocks=6, bilinear=8, spherical=7, radial=6, cutoff=5.0)
    theirs = models.DimeNet(64, 1, 6, 8, 7, 6)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
