"""Seeded synthetic molecules: graphs of atoms in space, gathered into batches without a loop over molecules."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fourfold.data.tensors import Batch, Sets
from fourfold.randomness import generator

ATOM_TYPES = 9
BOND_LENGTH = 1.5  # angstrom
RING = 5  # a ring closes between an atom and the fifth before it


@dataclass(frozen=True)
class GraphData:
    """Graphs laid end to end: graph g has atoms first_atom[g] to first_atom[g + 1], its edges likewise.

    atoms [all atoms], their types; positions [all atoms, 3]; edges [2, all edges], atoms counted within their graph;
    targets [graphs].
    """

    atoms: Tensor
    positions: Tensor
    edges: Tensor
    first_atom: Tensor
    first_edge: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor) -> Batch:
        """One graph of several parts: "graph" [atoms] says to which part an atom belongs, "sizes" [graphs] their size.

        Edges [2, edges] count the atoms of the batch.
        """
        sizes, edge_sizes = (first[indices + 1] - first[indices] for first in (self.first_atom, self.first_edge))
        atoms, edges = ragged(self.first_atom[indices], sizes), ragged(self.first_edge[indices], edge_sizes)
        numbers = torch.arange(len(indices), device=sizes.device)
        shift = (sizes.cumsum(0) - sizes).repeat_interleave(edge_sizes)
        inputs = {
            "atoms": self.atoms[atoms],
            "positions": self.positions[atoms],
            "edges": self.edges[:, edges] + shift,
            "graph": numbers.repeat_interleave(sizes),
            "sizes": sizes,
        }
        return Batch(inputs, self.targets[indices])

    def to(self, device: torch.device) -> "GraphData":
        return GraphData(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def ragged(first: Tensor, counts: Tensor) -> Tensor:
    """first[0], first[0] + 1, ... (counts[0] of them), first[1], ...: the numbers of several ranges, end to end."""
    begin = counts.cumsum(0) - counts
    return (first - begin).repeat_interleave(counts) + torch.arange(int(counts.sum()), device=first.device)


def molecules(data_dir: str, seed: int, samples: int, smallest: int, largest: int, cutoff: float | None = None) -> Sets:
    """Branched chains with some rings of ``smallest`` to ``largest`` atoms, grown in space bond by bond.

    Edges, in both directions, are bonds, or all pairs nearer than ``cutoff`` angstrom. The target depends on types,
    bonds and distances, and has mean 0 and variance 1. A tenth is for testing.
    """
    draw = generator(seed, "molecules")
    sizes = torch.randint(smallest, largest + 1, (samples,), generator=draw)
    types = torch.randint(0, ATOM_TYPES, (samples, largest), generator=draw)
    positions, bonded = grow(samples, largest, draw)
    present = torch.arange(largest) < sizes[:, None]
    pairs = present[:, :, None] & present[:, None, :] & ~torch.eye(largest, dtype=torch.bool)
    bonded &= pairs
    distances = torch.cdist(positions, positions)
    targets = _property(types, distances, bonded, pairs, sizes, draw)
    linked = bonded if cutoff is None else pairs & (distances < cutoff)
    graph, source, target = linked.nonzero(as_tuple=True)
    data = GraphData(
        types[present],
        positions[present],
        torch.stack([source, target]),
        _starts(sizes),
        _starts(torch.bincount(graph, minlength=samples)),
        targets,
    )
    kept = samples * 9 // 10 or 1
    return Sets(_part(data, 0, kept), _part(data, kept if kept < samples else 0, samples), 1, (ATOM_TYPES,))


def grow(samples: int, largest: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Positions [samples, largest, 3] and bonds [samples, largest, largest], true in both directions.

    Each atom is bound to one of the three before it, in the direction of eight that leaves it the most room; every
    tenth or so closes a ring.
    """
    positions = torch.zeros(samples, largest, 3)
    bonded = torch.zeros(samples, largest, largest, dtype=torch.bool)
    rows = torch.arange(samples)
    for atom in range(1, largest):
        parent = atom - 1 - torch.randint(0, min(3, atom), (samples,), generator=draw)
        directions = torch.nn.functional.normalize(torch.randn(samples, 8, 3, generator=draw), dim=-1)
        places = positions[rows, parent][:, None] + BOND_LENGTH * directions
        room = torch.cdist(places, positions[:, :atom]).amin(2)
        positions[:, atom] = places[rows, room.argmax(1)]
        bonded[rows, parent, atom] = True
        if atom >= RING:
            bonded[:, atom - RING, atom] |= torch.rand(samples, generator=draw) < 0.1
    return positions, bonded | bonded.transpose(1, 2)


def _property(
    types: Tensor, distances: Tensor, bonded: Tensor, pairs: Tensor, sizes: Tensor, draw: torch.Generator
) -> Tensor:
    """A smooth function of a molecule: charges by type, along bonds and through space, for each atom."""
    charges = torch.randn(ATOM_TYPES, generator=draw)[types]
    product = charges[:, :, None] * charges[:, None, :]
    through_space = (product / distances.clamp(min=0.5)).masked_fill(~pairs, 0).sum((1, 2))
    values = (product.masked_fill(~bonded, 0).sum((1, 2)) + through_space) / sizes
    return (values - values.mean()) / values.std(correction=0).clamp(min=1e-6)


def _starts(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _part(data: GraphData, begin: int, end: int) -> GraphData:
    """Graphs ``begin`` to ``end``."""
    atoms, edges = data.first_atom[begin : end + 1], data.first_edge[begin : end + 1]
    own, ours = slice(int(atoms[0]), int(atoms[-1])), slice(int(edges[0]), int(edges[-1]))
    return GraphData(
        data.atoms[own],
        data.positions[own],
        data.edges[:, ours],
        atoms - atoms[0],
        edges - edges[0],
        data.targets[begin:end],
    )
