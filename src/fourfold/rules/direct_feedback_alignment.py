"""Direct feedback alignment: the output's error is sent straight to each layer by a fixed random map (Nokland 2016)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.benchmarks.interface import LossOf
from fourfold.hardware.engine import Engine
from fourfold.rules.interface import Rule
from fourfold.rules.layers import blocks_of, grown, on_one_device, random_stream


class DirectFeedbackAlignment(Rule):
    """The error of block n's output h_n is e B_n, e = dl/do [batch, outputs], B_n [outputs, size of h_n].

    Within a block the error goes back exactly: for h = phi(W x + b), the error of z is phi'(z) * (e B). B_n is uniform
    within scale / sqrt(outputs).
    """

    name = "direct_feedback_alignment"

    def __init__(self, engine: Engine, scale: float) -> None:
        super().__init__(engine)
        self.scale = scale

    def prepare(self, network: nn.Module) -> None:
        on_one_device(self.engine, self.name)
        self.blocks = blocks_of(network, self.name)
        self.feedback: dict[str, Tensor] = {}

    def gradients(
        self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf, outputs: Any = None
    ) -> tuple[Any, Tensor]:
        return self.found(network, inputs, targets, loss_of, learning=True)

    def gradients_beside(self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf) -> tuple[Any, Tensor]:
        return self.found(network, inputs, targets, loss_of, learning=False)

    def found(
        self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf, learning: bool
    ) -> tuple[Any, Tensor]:
        """Adds the gradients; ``learning``: after the maps have learned from this batch, if they do."""
        with self.engine.autocast():
            hidden, below = [], inputs
            for block in self.blocks[:-1]:
                hidden.append(block(below))
                below = hidden[-1].detach()
            outputs = self.blocks[-1](below)
            scores = outputs.detach().to(next(network.parameters()).dtype).requires_grad_()
            loss = loss_of(scores, targets)
            (error,) = torch.autograd.grad(loss, scores, retain_graph=True)
            if learning:
                with self.engine.full_precision():
                    self.train_feedback([h.detach().to(error.dtype) for h in hidden], scores.detach())
            # The graph is in pieces, one a block: each piece's loss has the wanted error as its gradient.
            errors = [*(self.sent(n, error, h) for n, h in enumerate(hidden)), error]
            pieces = [(h * e).sum() for h, e in zip([*hidden, outputs], errors, strict=True) if h.requires_grad]
        self.engine.backward(torch.stack([loss.float(), *(piece.float() for piece in pieces)]).sum())
        return scores.detach(), loss.detach()

    def train_feedback(self, hidden: list[Tensor], outputs: Tensor) -> None:
        """Called once a step, for rules whose direct maps learn."""

    def sent(self, number: int, error: Tensor, hidden: Tensor) -> Tensor:
        """The error of a block's output, of its shape; the map is drawn when its size is first known."""
        known = self.map_to(number, hidden, error.shape[1])
        return (error @ known.to(error.dtype)).view_as(hidden)

    def map_to(self, number: int, hidden: Tensor, outputs: int) -> Tensor:
        """The map [outputs, size of one sample's ``hidden``] to a block."""
        name, known = str(number), self.feedback.get(str(number))
        if known is None or known.shape[0] < outputs:
            fresh = self.draw(name, (outputs, hidden[0].numel())).to(next(self.blocks[-1].parameters()).detach())
            self.feedback[name] = known = fresh if known is None else grown(known, fresh)
        return known

    def draw(self, name: str, size: tuple[int, int]) -> Tensor:
        bound = self.scale / size[0] ** 0.5
        stream = random_stream("cpu", "feedback", name, size[0])
        return torch.empty(size).uniform_(-bound, bound, generator=stream)

    def grow(self, network: nn.Module) -> None:
        self.blocks = blocks_of(network, self.name)

    def state_dict(self) -> dict[str, Any]:
        return {"feedback": dict(self.feedback)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.feedback = {name: torch.clone(value) for name, value in state["feedback"].items()}
