"""The forward-forward algorithm: each layer tells right labels from wrong ones by itself (Hinton 2022)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import LossOf
from fourfold.errors import Refused
from fourfold.hardware.engine import Engine
from fourfold.rules.interface import Rule
from fourfold.rules.layers import blocks_of, on_one_device, random_stream


class ForwardForward(Rule):
    """Label and input go in together; hidden block n maximises its goodness G_n = mean(h_n^2) for right labels.

    loss_n = < log(1 + exp(threshold - G_n(x, y))) + log(1 + exp(G_n(x, y') - threshold)) >, y' a wrong label among
    those seen. What goes on is h_n over its root mean square, without graph. The last block learns the wanted loss
    from the hidden activity for a neutral label, all classes alike.

    read: how predictions are made; goodness, the sum of G_n for every label tried in turn; outputs, the last block.
    The label takes the place of the first ``outputs`` values of the input.
    """

    name = "forward_forward"
    plain_forward = False

    def __init__(self, engine: Engine, threshold: float, read: str) -> None:
        super().__init__(engine)
        self.threshold = threshold
        self.read = read
        self.steps = 0
        self.seen: Tensor | None = None

    def prepare(self, network: nn.Module) -> None:
        on_one_device(self.engine, self.name)
        self.blocks = blocks_of(network, self.name)
        if len(self.blocks) < 2:
            raise Refused("rule forward_forward needs a hidden layer; the network has none")

    def gradients(
        self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf, outputs: Any = None
    ) -> tuple[Any, Tensor]:
        self.steps += 1
        return self.gradients_beside(network, inputs, targets, loss_of)

    def gradients_beside(self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf) -> tuple[Any, Tensor]:
        with self.engine.autocast():
            hidden = self.hidden(inputs, None)
            outputs = self.blocks[-1](standardised(hidden[-1]))
            loss = loss_of(outputs, targets)
            weights = sample_weights(loss_of, outputs, targets)
            both = torch.cat(
                [
                    overlaid(inputs, targets, outputs.shape[1]),
                    overlaid(inputs, self.wrong(outputs, targets), outputs.shape[1]),
                ]
            )
            total = loss
            for block in self.blocks[:-1]:
                h = block(standardised(both))
                right, wrong = goodness(h).chunk(2)
                local = F.softplus(self.threshold - right) + F.softplus(wrong - self.threshold)
                total = total + (weights * local).mean()
                both = h.detach()
        self.engine.backward(total)
        return outputs.detach(), loss.detach()

    @torch.no_grad()
    def hidden(self, inputs: Tensor, labels: Tensor | None) -> list[Tensor]:
        """The hidden blocks' activities with labels [batch]; None: the neutral label."""
        values, found = overlaid(inputs, labels, self.outputs_of()), []
        for block in self.blocks[:-1]:
            values = block(standardised(values))
            found.append(values)
        return found

    def outputs_of(self) -> int:
        """How many classes the network tells apart: the size of its last weights."""
        return [layer for layer in self.blocks[-1].modules() if isinstance(layer, nn.Linear)][-1].out_features

    def wrong(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A label [batch] that is not the right one: among those seen, if there are others."""
        if self.seen is None or len(self.seen) != outputs.shape[1]:
            self.seen = torch.zeros(outputs.shape[1], device=outputs.device)
        self.seen[targets] = 1.0
        chances = (self.seen + 1e-6).expand(len(targets), -1).clone()
        chances.scatter_(1, targets[:, None], 0.0)
        return torch.multinomial(chances, 1, generator=random_stream(outputs.device, "wrong labels", self.steps))[:, 0]

    def predict(self, network: nn.Module, inputs: Any) -> Any:
        if self.read == "outputs":
            return self.blocks[-1](standardised(self.hidden(inputs, None)[-1]))
        labels = torch.arange(self.outputs_of(), device=inputs.device)
        scores = [
            torch.stack([goodness(h) for h in self.hidden(inputs, label.expand(len(inputs)))]).sum(0)
            for label in labels
        ]
        return torch.stack(scores, 1)

    def grow(self, network: nn.Module) -> None:
        self.blocks = blocks_of(network, self.name)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.seen = None if state["seen"] is None else torch.clone(state["seen"])


def goodness(hidden: Tensor) -> Tensor:
    """The mean of the squared activities of each sample [batch]."""
    return hidden.flatten(1).square().mean(1)


def standardised(hidden: Tensor) -> Tensor:
    """Each sample over its root mean square, so that the goodness of the layer below is not seen."""
    return hidden / (goodness(hidden).view(-1, *[1] * (hidden.dim() - 1)) + 1e-8).sqrt()


def overlaid(inputs: Tensor, labels: Tensor | None, outputs: int) -> Tensor:
    """Inputs [batch, ...] with their first values replaced by the label, one-hot, or by 1/outputs where it is None."""
    if inputs[0].numel() < outputs:
        raise Refused(f"rule forward_forward: {inputs[0].numel()} inputs have no room for {outputs} labels")
    flat = inputs.flatten(1).clone()
    flat[:, :outputs] = 1 / outputs if labels is None else F.one_hot(labels, outputs).to(flat.dtype)
    return flat.view_as(inputs)


def sample_weights(loss_of: LossOf, outputs: Tensor, targets: Tensor) -> Tensor:
    """What each sample counts in the loss, relative to the mean [batch]: its share of the loss at equal scores.

    So the weights that a method gives to new and to remembered samples hold for the hidden layers as well.
    """
    with torch.no_grad():
        losses = loss_of(torch.zeros_like(outputs), targets, reduction="none").float()
        mean = losses.mean()
        return torch.where(mean > 0, losses / mean.clamp_min(1e-12), torch.ones_like(losses))
