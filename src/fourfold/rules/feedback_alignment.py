"""Feedback alignment: errors travel back through fixed random weights (Lillicrap et al. 2016)."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.benchmarks.interface import LossOf
from fourfold.errors import Refused
from fourfold.rules.interface import Rule
from fourfold.rules.layers import LinearMap, grown, initial_weights, linear_maps, named, on_one_device, random_stream
from fourfold.rules.routed import routed

log = logging.getLogger(__name__)

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)  # their inputs are indices, which no error reaches


class FeedbackAlignment(Rule):
    """delta_{n-1} = phi'(z_{n-1}) * (delta_n B_n), with B_n drawn like W_n's initial values, and kept.

    B_n has the shape of W_n: [out, in], or [out, in / groups, height, width]. Each layer's own gradient is the usual
    product of its inputs and its error. Any network with linear layers and convolutions will do; through weights of
    another kind errors travel as in backprop, which the record and a warning tell.
    """

    name = "feedback_alignment"

    def prepare(self, network: nn.Module) -> None:
        on_one_device(self.engine, self.name)
        self.layers = routable(network)
        self.others = other_weights(network, self.layers)
        if not self.layers:
            raise Refused(
                f"rule {self.name} would be backprop by another name: no weights of this network are in a plain "
                f"nn.Linear or nn.Conv2d, but in {in_words(self.others) or 'none at all'}"
            )
        if self.others:
            log.warning("rule %s: errors travel as in backprop through %s", self.name, in_words(self.others))
        self.feedback = {name: self.first(name, layer.weight) for name, layer in self.layers.items()}

    def first(self, name: str, weight: Tensor) -> Tensor:
        """The feedback weights at the start."""
        return initial_weights(weight.detach(), random_stream("cpu", "feedback", name))

    def route(self) -> dict[LinearMap, Tensor]:
        """What each layer's errors travel through in the next step."""
        return {layer: self.feedback[name] for name, layer in self.layers.items()}

    def gradients(
        self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf, outputs: Any = None
    ) -> tuple[Any, Tensor]:
        # An earlier prediction's graph leads back through the forward weights: it cannot be used here.
        self.begin_update()
        return self.gradients_beside(network, inputs, targets, loss_of)

    def begin_update(self) -> None:
        """Called before an update's gradients are found."""

    def gradients_beside(self, network: nn.Module, inputs: Any, targets: Any, loss_of: LossOf) -> tuple[Any, Tensor]:
        with routed(self.route()), self.engine.autocast():
            outputs = network(inputs)
            loss = loss_of(outputs, targets)
        self.engine.backward(loss)
        return outputs, loss.detach()

    def findings(self) -> dict[str, Any]:
        return {"routed_layers": len(self.layers), "weights_not_routed": sorted(self.others)} if self.others else {}

    def feedback_pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        sent = self.route()
        return {name: (sent[layer], layer.weight) for name, layer in self.layers.items()}

    def grow(self, network: nn.Module) -> None:
        self.layers = routable(network)
        for name, layer in self.layers.items():
            old = self.feedback.get(name)
            if old is None or old.shape != layer.weight.shape:
                fresh = self.first(name, layer.weight)
                self.feedback[name] = fresh if old is None else grown(old, fresh)

    def state_dict(self) -> dict[str, Any]:
        return {"feedback": dict(self.feedback)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.feedback = {name: torch.clone(value) for name, value in state["feedback"].items()}


def routable(network: nn.Module) -> dict[str, LinearMap]:
    """The linear maps whose pass is torch's own and called as such: others' errors cannot be sent elsewhere."""
    own = (nn.Linear.forward, nn.Conv2d.forward)
    # nn.MultiheadAttention reads the weights of its last map and never calls it: a NonDynamicallyQuantizableLinear.
    read = nn.modules.linear.NonDynamicallyQuantizableLinear
    maps = linear_maps(network).items()
    return {name: layer for name, layer in maps if type(layer).forward in own and not isinstance(layer, read)}


def other_weights(network: nn.Module, layers: Mapping[str, LinearMap]) -> dict[str, str]:
    """The weights of two or more dimensions that belong to none of the layers: name -> what holds them."""
    known = {id(layer.weight) for layer in layers.values()}
    found = {}
    for name, module in network.named_modules():
        for own, weight in module.named_parameters(recurse=False):
            if weight.dim() > 1 and id(weight) not in known and not isinstance(module, EMBEDDINGS):
                found[f"{name}.{own}".lstrip(".")] = named(module)
    return found


def in_words(weights: Mapping[str, str]) -> str:
    """The kinds of module that hold weights, with how many each."""
    return ", ".join(f"{count} of {kind}" for kind, count in Counter(weights.values()).most_common())
