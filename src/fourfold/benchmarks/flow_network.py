"""GFlowNet: a policy that builds objects step by step, as often as their reward says, by trajectory balance.

The object is a cell of a hyper-grid (Bengio et al. 2021), not a molecule: the structure of the work (sampling with the
network itself, then one update on what was sampled) is Milabench's, the chemistry is not.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark, SupervisedObjective, Term
from fourfold.randomness import generator
from fourfold.recipe import Recipe

REWARDS = (0.001, 0.5, 2.0)  # everywhere, in the outer plateaus, at their hearts (Bengio et al. 2021, section 4.1)


class TrajectoryBalance(Benchmark):
    """Units are trajectories."""

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.objective = BalanceObjective(recipe.model["dimensions"], recipe.model["side"], seed)


class BalanceObjective(SupervisedObjective):
    """Samples trajectories with the policy, then balances them. ``drawn`` is all the state."""

    def __init__(self, dimensions: int, side: int, seed: int) -> None:
        super().__init__(balance_loss)
        self.dimensions = dimensions
        self.side = side
        self.seed = seed
        self.drawn = 0

    def terms(self, network: nn.Module, batch: Any) -> Iterator[Term]:
        draw = generator(self.seed, "trajectories", self.drawn)
        self.drawn += 1
        longest = self.dimensions * (self.side - 1) + 1
        chance = torch.rand(longest, len(batch.targets), generator=draw).to(batch.targets.device)
        with torch.no_grad():
            states, actions = sample(network, chance, self.dimensions, self.side)
        targets = {
            "states": states,
            "actions": actions,
            "log_reward": reward(states[:, -1], self.side).log(),
            "side": torch.tensor(self.side),
        }
        yield Term("all", states, targets, self.loss_of)

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]


def reward(cells: Tensor, side: int) -> Tensor:
    """Of cells [..., dimensions]: high near the corners of the grid, highest in a band there."""
    away = (cells.float() / (side - 1) - 0.5).abs()
    outer, heart = (away > 0.25).all(-1), ((away > 0.3) & (away < 0.4)).all(-1)
    return REWARDS[0] + REWARDS[1] * outer + REWARDS[2] * heart


def sample(network: Any, chance: Tensor, dimensions: int, side: int) -> tuple[Tensor, Tensor]:
    """Trajectories from the origin by the policy, with uniform draws [longest, batch].

    states [batch, longest, dimensions]: the cell before each action; actions [batch, longest]: the coordinate that
    grows by one, or ``dimensions`` to stop, which then repeats.
    """
    cells = torch.zeros(chance.shape[1], dimensions, dtype=torch.long, device=chance.device)
    stopped = torch.zeros(len(cells), dtype=torch.bool, device=chance.device)
    states, actions = [], []
    for draw in chance:
        forward, _ = policies(network(cells)["logits"], cells, side)
        action = (forward.exp().cumsum(-1) < draw[:, None]).sum(-1).clamp(max=dimensions)
        blocked = forward.gather(-1, action[:, None]).squeeze(-1).isinf()  # a draw beyond the rounded sum
        action = torch.where(stopped | blocked, dimensions, action)
        states.append(cells)
        actions.append(action)
        stopped = stopped | (action == dimensions)
        cells = cells + F.one_hot(action, dimensions + 1)[:, :dimensions]
    return torch.stack(states, 1), torch.stack(actions, 1)


def policies(logits: Tensor, cells: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Log probabilities of growing each coordinate or stopping [..., dimensions + 1], and, backwards, of shrinking each
    [..., dimensions], from logits [..., 2 * dimensions + 1]. What leaves the grid has probability 0."""
    dimensions = cells.shape[-1]
    forward, backward = logits.float().split([dimensions + 1, dimensions], dim=-1)
    full = F.pad(cells == side - 1, (0, 1))
    forward = forward.masked_fill(full, -torch.inf).log_softmax(-1)
    at_origin = (cells == 0).all(-1, keepdim=True)  # has no parent: any finite value will do
    backward = backward.masked_fill((cells == 0) & ~at_origin, -torch.inf).log_softmax(-1)
    return forward, backward


def balance_loss(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], reduction: str = "mean") -> Tensor:
    """(log Z + sum log P_F - log R - sum log P_B)^2 of each trajectory (Malkin et al. 2022); [] or [batch]."""
    states, actions = targets["states"], targets["actions"]
    stop = states.shape[-1]
    forward, backward = policies(outputs["logits"], states, int(targets["side"]))
    growing = actions < stop
    first_stop = (~growing).cumsum(1) == 1
    chosen = forward.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    there = torch.where(growing | first_stop, chosen, 0.0).sum(1)
    undone = backward[:, 1:].gather(-1, actions[:, :-1].clamp(max=stop - 1).unsqueeze(-1)).squeeze(-1)
    back = torch.where(growing[:, :-1], undone, 0.0).sum(1)
    each = (outputs["log_total"] + there - targets["log_reward"] - back).square()
    return each if reduction == "none" else each.mean()


class Policy(nn.Module):
    """Cells [..., dimensions] to the logits of both policies, and the learned logarithm of the total reward."""

    def __init__(self, dimensions: int, side: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.side = side
        parts: list[nn.Module] = [nn.Linear(dimensions * side, hidden), nn.ReLU()]
        for _ in range(layers - 1):
            parts += [nn.Linear(hidden, hidden), nn.ReLU()]
        self.layers = nn.Sequential(*parts, nn.Linear(hidden, 2 * dimensions + 1))
        self.log_total = nn.Parameter(torch.zeros(()))

    def forward(self, cells: Tensor) -> Any:
        """Cells to logits and the total; the numbers of trials [batch] to as many sampled cells [batch, dimensions]."""
        if cells.dim() == 1:
            longest = self.dimensions * (self.side - 1) + 1
            states, _ = sample(self, torch.rand(longest, len(cells), device=cells.device), self.dimensions, self.side)
            return states[:, -1]
        known = F.one_hot(cells, self.side).flatten(-2).to(self.log_total.dtype)
        return {"logits": self.layers(known), "log_total": self.log_total}


def policy(dimensions: int, side: int, hidden: int, layers: int) -> nn.Module:
    """The policy of a hyper-grid of ``side`` cells in each of ``dimensions``."""
    return Policy(dimensions, side, hidden, layers)
