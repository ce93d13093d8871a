"""Graphs: molecules to a property of theirs, by message passing (PNA) and by directional messages (DimeNet)."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from scipy.special import spherical_jn
from torch import Tensor, nn

from fourfold.benchmarks.libraries import library
from fourfold.benchmarks.regression import Regression
from fourfold.data.molecules import ATOM_TYPES, GraphData, ragged

AGGREGATORS, SCALERS = ["mean", "min", "max", "std"], ["identity", "amplification", "attenuation"]


class MolecularProperty(Regression):
    """Molecules to one number each. Units are molecules."""

    def call_builder(self, build: Callable[..., nn.Module], outputs: int, arguments: dict[str, Any]) -> nn.Module:
        assert self.sets is not None
        return build(degrees=degrees_of(self.sets.train), **arguments)


def degrees_of(data: GraphData) -> Tensor:
    """How many atoms have 0, 1, 2, ... edges: [largest + 1]."""
    with torch.device("cpu"):
        shift = data.first_atom[:-1].repeat_interleave(data.first_edge.diff())
        return torch.bincount(torch.bincount(data.edges[1] + shift, minlength=len(data.atoms)))


class MeanOfAtoms(nn.Module):
    """A torch_geometric model of atoms as a plain function of a batch of molecules: [molecules]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        features = F.one_hot(inputs["atoms"], ATOM_TYPES).float()
        values = self.model(features, inputs["edges"]).squeeze(-1)
        return sum_by(values.float(), inputs["graph"], len(inputs["sizes"])) / inputs["sizes"]


def pna(degrees: Tensor, hidden: int, layers: int) -> nn.Module:
    """PNA (Corso et al. 2020), torch_geometric's implementation; ``degrees`` [largest + 1] counts atoms by degree."""
    models = library("torch_geometric.nn.models", "graphs")
    device = torch.get_default_device()
    with torch.device("cpu"):  # the library reads values of ``degrees`` while it builds, which "meta" has not
        model = models.PNA(
            in_channels=ATOM_TYPES,
            hidden_channels=hidden,
            num_layers=layers,
            out_channels=1,
            aggregators=AGGREGATORS,
            scalers=SCALERS,
            deg=degrees,
        )
    return MeanOfAtoms(model).to(device)


def sum_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sums of the rows of values [n, ...] that have the same number in ``group`` [n]: [groups, ...]."""
    return values.new_zeros(groups, *values.shape[1:]).index_add_(0, group, values)


# ---------------------------------------------------------------------------- DimeNet (Gasteiger et al. 2020)


def dimenet(
    degrees: Tensor, hidden: int, blocks: int, bilinear: int, spherical: int, radial: int, cutoff: float
) -> nn.Module:
    """DimeNet in plain torch: no compiled neighbour search, no sparse matrices."""
    return DimeNet(hidden, blocks, bilinear, spherical, radial, cutoff)


def triplets(edges: Tensor, atoms: int) -> tuple[Tensor, Tensor]:
    """Pairs of edges k -> j and j -> i with k other than i, as numbers of edges: (first [n], second [n])."""
    source, target = edges
    order = target.argsort(stable=True)  # the edges into each atom, side by side
    counts = torch.bincount(target, minlength=atoms)
    starts = counts.cumsum(0) - counts
    second = torch.arange(len(source), device=edges.device).repeat_interleave(counts[source])
    first = order[ragged(starts[source], counts[source])]
    kept = source[first] != target[second]
    return first[kept], second[kept]


def envelope(near: Tensor) -> Tensor:
    """u(d) / d for d in units of the cutoff: 1 / d - 28 d^5 + 48 d^6 - 21 d^7, smooth to 0 at 1 (equation 8, p = 6)."""
    fifth = near.pow(5)
    return (1 / near - 28 * fifth + 48 * fifth * near - 21 * fifth * near.square()) * (near < 1)


def bessel_roots(orders: int, count: int) -> np.ndarray:
    """The first roots of the spherical Bessel functions, [orders, count]; those of one order part those of the next."""
    between = np.pi * np.arange(1, orders + count + 1)
    roots = [between[:count]]
    for order in range(1, orders):
        found = [brentq(partial(spherical_jn, order), low, high) for low, high in pairwise(between)]
        between = np.array(found)
        roots.append(between[:count])
    return np.stack(roots)


class RadialBasis(nn.Module):
    """sqrt(2 / c) sin(f_n d / c) u(d) / d, with learned frequencies from n pi: distances [n] to [n, radial] (eq. 7)."""

    def __init__(self, radial: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.frequencies = nn.Parameter(math.pi * torch.arange(1.0, radial + 1))

    def forward(self, distances: Tensor) -> Tensor:
        near = (distances / self.cutoff).unsqueeze(-1)
        return envelope(near) * torch.sin(self.frequencies * near)


class SphericalBasis(nn.Module):
    """Spherical Bessel functions of a distance times Legendre polynomials of an angle (equation 6).

    distances [edges], cosines [triplets] and each triplet's first edge to [triplets, spherical * radial].
    """

    def __init__(self, spherical: int, radial: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        roots = bessel_roots(spherical, radial)
        norms = [np.sqrt(2) / np.abs(spherical_jn(order + 1, own)) for order, own in enumerate(roots)]
        device = torch.get_default_device()
        self.register_buffer("roots", torch.tensor(roots, device=device), persistent=False)
        self.register_buffer("norms", torch.tensor(np.stack(norms), device=device), persistent=False)

    def forward(self, distances: Tensor, cosines: Tensor, first: Tensor) -> Tensor:
        near = distances.double() / self.cutoff  # the recursion loses the small values of high orders in 32 bits
        roots, norms = self.roots, self.norms
        assert isinstance(roots, Tensor)
        assert isinstance(norms, Tensor)
        waves = spherical_bessel(near[:, None, None] * roots) * norms
        shaped = (envelope(near)[:, None, None] * waves).to(cosines.dtype)
        return (shaped[first] * harmonics(cosines, len(roots)).unsqueeze(-1)).flatten(1)


def spherical_bessel(x: Tensor) -> Tensor:
    """j_l(x[:, l]) for x [n, orders, radial]: j_0 = sin x / x, j_{l+1} = (2 l + 1) / x j_l - j_{l-1}."""
    rows = [torch.sin(x) / x]
    if x.shape[1] > 1:
        rows.append(torch.sin(x) / x.square() - torch.cos(x) / x)
    for order in range(1, x.shape[1] - 1):
        rows.append((2 * order + 1) / x * rows[-1] - rows[-2])
    return torch.stack([row[:, order] for order, row in enumerate(rows)], dim=1)


def harmonics(cosines: Tensor, orders: int) -> Tensor:
    """Y_l^0 = sqrt((2 l + 1) / 4 pi) P_l(cos a) for l < orders: [n, orders]."""
    rows = [torch.ones_like(cosines), cosines]
    for order in range(1, orders - 1):
        rows.append(((2 * order + 1) * cosines * rows[-1] - order * rows[-2]) / (order + 1))
    scales = [math.sqrt((2 * order + 1) / (4 * math.pi)) for order in range(orders)]
    return torch.stack([scale * row for scale, row in zip(scales, rows, strict=False)], dim=-1)


class Residual(nn.Module):
    """x + two layers of x."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())

    def forward(self, states: Tensor) -> Tensor:
        return states + self.layers(states)


class Interaction(nn.Module):
    """Updates the message of each edge j -> i from those of the edges k -> j, by angle and distance (figure 4)."""

    def __init__(self, hidden: int, bilinear: int, spherical: int, radial: int) -> None:
        super().__init__()
        self.radial = nn.Linear(radial, hidden, bias=False)
        self.angular = nn.Linear(spherical * radial, bilinear, bias=False)
        self.own, self.others = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.product = nn.Parameter(torch.empty(hidden, bilinear, hidden).normal_(std=2 / hidden))
        self.before, self.after = Residual(hidden), nn.Sequential(Residual(hidden), Residual(hidden))
        self.skip = nn.Linear(hidden, hidden)

    def forward(self, messages: Tensor, radial: Tensor, angular: Tensor, first: Tensor, second: Tensor) -> Tensor:
        others = F.silu(self.others(messages)) * self.radial(radial)
        joined = torch.einsum("tb,tl,ibl->ti", self.angular(angular), others[first], self.product)
        states = F.silu(self.own(messages)) + sum_by(joined, second, len(messages)).to(messages.dtype)
        return self.after(F.silu(self.skip(self.before(states))) + messages)


class Output(nn.Module):
    """The messages into each atom to a value of that atom, summed to one of the molecule."""

    def __init__(self, hidden: int, radial: int) -> None:
        super().__init__()
        self.radial = nn.Linear(radial, hidden, bias=False)
        layers = [part for _ in range(3) for part in (nn.Linear(hidden, hidden), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 1, bias=False))

    def forward(self, messages: Tensor, radial: Tensor, target: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        atoms = sum_by(self.radial(radial) * messages, target, len(inputs["atoms"]))
        values = self.layers(atoms).squeeze(-1).float()
        return sum_by(values, inputs["graph"], len(inputs["sizes"]))


class DimeNet(nn.Module):
    """Messages live on the directed edges between atoms nearer than ``cutoff``, and know the angles between edges."""

    def __init__(self, hidden: int, blocks: int, bilinear: int, spherical: int, radial: int, cutoff: float) -> None:
        super().__init__()
        self.radial = RadialBasis(radial, cutoff)
        self.spherical = SphericalBasis(spherical, radial, cutoff)
        self.atoms = nn.Embedding(95, hidden)  # as many as the library's
        self.edges = nn.Linear(radial, hidden)
        self.join = nn.Linear(3 * hidden, hidden)
        self.interactions = nn.ModuleList(Interaction(hidden, bilinear, spherical, radial) for _ in range(blocks))
        self.outputs = nn.ModuleList(Output(hidden, radial) for _ in range(blocks + 1))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """A batch of molecules to one number each, [molecules]."""
        edges, positions = inputs["edges"], inputs["positions"]
        source, target = edges
        first, second = triplets(edges, len(positions))
        along = positions[source] - positions[target]  # from i to j, for the edge j -> i
        distances = along.norm(dim=-1)
        cosines = F.cosine_similarity(-along[second], along[first], dim=-1)  # at j, between i and k
        radial, angular = self.radial(distances), self.spherical(distances, cosines, first)
        embedded = self.atoms(inputs["atoms"])
        known = torch.cat([embedded[source], embedded[target], F.silu(self.edges(radial))], dim=-1)
        messages = F.silu(self.join(known))
        value = self.outputs[0](messages, radial, target, inputs)
        for interaction, output in zip(self.interactions, list(self.outputs)[1:], strict=True):
            messages = interaction(messages, radial, angular, first, second)
            value = value + output(messages, radial, target, inputs)
        return value
