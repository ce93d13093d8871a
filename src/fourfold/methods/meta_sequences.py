"""OML and ANML: representations meta-trained so that the last layer can learn classes one after another."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark
from fourfold.errors import Refused
from fourfold.experience import Experience, Run
from fourfold.methods.fast_weights import FastWeights
from fourfold.methods.inner_loop import head_of
from fourfold.methods.meta_training import Progress
from fourfold.settings.stream import Observation, View


class OML(FastWeights):
    """Online-aware meta-learning (Javed & White 2019).

    Before the stream: on a sequence of classes the last layer learns sample by sample, by ``inner_rate``; the loss on
    all samples of the sequence and others of its classes then trains everything through that. In the stream the
    representation stays as it is, and the last layer goes on learning batch by batch.
    """

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        super().setup(benchmark, view, run, rule)
        self.adapted = head_of(self.network)
        self.head_weight, self.head_bias = (self.slow[name] for name in self.adapted)

    def features(self, inputs: Tensor) -> Tensor:
        """What the last layer sees, [batch, features]."""
        layers = list(self.network.children())
        if not isinstance(self.network, nn.Sequential) or not isinstance(layers[-1], nn.Linear):
            raise Refused("benchmark.model: the method needs a plain sequence of layers that ends with a linear one")
        return nn.Sequential(*layers[:-1])(inputs)

    def pretrain(self, experience: Experience, run: Run) -> None:
        episodes, self.progress = experience.episodes, self.progress or Progress()
        losses, count = self.progress.scores, episodes.epochs * episodes.batches
        for number in run.keeper.counted(count):
            tasks = experience.tasks("train", number, self.plan.tasks, self.plan.queries)
            support, query = tasks.support, tasks.query
            self.outer.zero_grad(set_to_none=True)
            loss = torch.stack(
                [
                    self.sequence_loss(*each)
                    for each in zip(support.inputs, support.targets, query.inputs, query.targets, strict=True)
                ]
            ).mean()
            loss.backward()
            self.outer.step()
            losses.append(float(loss.detach()))
        last = losses[-20:]
        told = {"meta_batches": count, "first_loss": losses[0], "last_loss": sum(last) / len(last)}
        run.findings["pretraining"] = {**told, "early_stopping": "none: it is not judged; the last meta-batch stays"}
        self.progress = None
        self.restart()

    def sequence_loss(self, shown: Tensor, told: Tensor, asked: Tensor, answers: Tensor) -> Tensor:
        """The loss on a sequence and on other samples of its classes once the last layer has gone through it."""
        order = told.argsort(stable=True)  # class after class
        features = self.features(torch.cat([shown[order], asked]))
        weight, bias = self.learned_one_by_one(features[: len(shown)], told[order])
        return F.cross_entropy(F.linear(features, weight, bias), torch.cat([told[order], answers]))

    def learned_one_by_one(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The last layer after a step of gradient descent on each sample: W -= r (softmax(z) - onehot) f^T."""
        weight: Tensor = self.head_weight
        bias: Tensor = self.head_bias
        wanted = F.one_hot(targets, len(bias)).to(features.dtype)
        for feature, want in zip(features, wanted, strict=True):
            wrong = F.linear(feature, weight, bias).softmax(0) - want
            weight = weight - self.rate * torch.outer(wrong, feature)
            bias = bias - self.rate * wrong
        return weight, bias

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        inputs, targets, loss_of = self.told(observation)
        with torch.no_grad():
            features = self.features(inputs)
        outputs = F.linear(features, self.head_weight, self.head_bias)
        loss = loss_of(outputs, targets)
        found = torch.autograd.grad(loss, [self.head_weight, self.head_bias])
        with torch.no_grad():
            for parameter, gradient in zip((self.head_weight, self.head_bias), found, strict=True):
                parameter.sub_(self.rate * gradient)
        return loss.detach()

    def forward(self, values: Any, inputs: Tensor) -> Tensor:
        with self.run.engine.autocast():
            return F.linear(self.features(inputs), self.head_weight, self.head_bias)


class Gated(nn.Module):
    """A representation whose features a second network opens and shuts, and a last layer on top of it."""

    def __init__(self, representation: nn.Sequential, modulator: nn.Sequential, head: nn.Linear) -> None:
        super().__init__()
        self.representation, self.modulator, self.head = representation, modulator, head

    def features(self, inputs: Tensor) -> Tensor:
        gated: Tensor = self.representation(inputs) * self.modulator(inputs).sigmoid()
        return gated

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.features(inputs))
        return outputs


class ANML(OML):
    """A neuromodulated meta-learner (Beaulieu et al. 2020): OML whose features a second network gates."""

    def build_network(self, benchmark: Benchmark, view: View, device: torch.device) -> nn.Module:
        plain = benchmark.network(self.run.seed, device, outputs=view.outputs)
        other = benchmark.network(self.run.seed + 1, device, outputs=view.outputs)
        (*below, head), (*beside, _) = plain.children(), other.children()
        if not isinstance(plain, nn.Sequential) or not isinstance(head, nn.Linear):
            raise Refused("benchmark.model: the method needs a plain sequence of layers that ends with a linear one")
        return Gated(nn.Sequential(*below), nn.Sequential(*beside), head)

    def features(self, inputs: Tensor) -> Tensor:
        assert isinstance(self.network, Gated)
        return self.network.features(inputs)
