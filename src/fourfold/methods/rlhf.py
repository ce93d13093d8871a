"""Reinforcement learning of a language model against a reward model, by proximal policy optimisation.

Ziegler et al. 2019 (2.2), Stiennon et al. 2020 (appendix B.1), Ouyang et al. 2022 (appendix C.4); PPO: Schulman et al.
2017; advantages: Schulman et al. 2016. All is counted in tokens of the answer: [batch, length].
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark, Term
from fourfold.experience import Experience, Run
from fourfold.methods.finetune import Finetune
from fourfold.randomness import seed_of
from fourfold.settings.stream import Observation, View


class Judge(nn.Module):
    """A language model's body with one number for each token instead of scores: [batch, length] -> [batch, length]."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(self.body.config.hidden_size, 1, bias=False)
        nn.init.normal_(self.head.weight, std=(self.head.in_features + 1) ** -0.5)  # Stiennon et al. 2020

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(input_ids=tokens, use_cache=False).last_hidden_state).squeeze(-1)


class Learner(nn.Module):
    """What learns: the policy and, in a network of its own, the value of each token's situation."""

    def __init__(self, policy: nn.Module, value: Judge) -> None:
        super().__init__()
        self.policy, self.value = policy, value

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """Tokens to the policy's scores; {"tokens": prompts and answers, "answer": answers} to the log probability of
        each token of the answer and the value of the situation that it was written in, both [batch, answer]."""
        if isinstance(inputs, Tensor):
            return self.policy(inputs)
        tokens, answer = inputs["tokens"], inputs["answer"]
        before = slice(-answer.shape[1] - 1, -1)  # a token's scores and value are at the token before it
        return {
            "log_probabilities": log_probabilities(self.policy(tokens)[:, before], answer),
            "values": self.value(tokens)[:, before].float(),
        }

    def generate(self, prompts: Tensor, count: int) -> Tensor:
        return self.policy.generate(prompts, count, sample=True)  # type: ignore[operator]


class Rlhf(Finetune):
    """A step: the policy answers a batch of prompts; the answers are rewarded; some passes of PPO over them.

    Policy and the frozen first policy start equal; reward and value models are of the same shape, with weights of their
    own. The reward model's is a seeded initialisation: the work is that of a trained one. Units are tokens written.
    """

    def __init__(
        self,
        new_tokens: int,
        passes: int,
        minibatches: int,
        penalty: float,
        discount: float,
        trace: float,
        clip: float,
        value_clip: float,
        value_weight: float,
    ) -> None:
        self.new_tokens, self.passes, self.minibatches = new_tokens, passes, minibatches
        self.penalty, self.discount, self.trace = penalty, discount, trace
        self.loss = PpoLoss(clip, value_clip, value_weight)

    def build_network(self, benchmark: Benchmark, view: View, device: torch.device) -> nn.Module:
        stored = self.run.engine.stored
        self.first_policy = frozen(stored(super().build_network(benchmark, view, self.device)))
        self.reward_model = frozen(stored(self.judge(benchmark, view, self.device, "reward model")))
        value = self.judge(benchmark, view, device, "value model")
        return Learner(super().build_network(benchmark, view, device), value)

    def judge(self, benchmark: Benchmark, view: View, device: torch.device, name: str) -> Judge:
        """A model of the benchmark's shape, with weights that its name decides."""
        seed, build_on = seed_of(self.run.seed, name), "meta" if device.type == "meta" else "cpu"
        body: Any = benchmark.network(seed, build_on, outputs=view.outputs).model.base_model  # type: ignore[union-attr]
        with torch.random.fork_rng(devices=[]), torch.device(build_on):
            torch.manual_seed(seed_of(seed, "head"))
            made = Judge(body)
        return made if build_on == "meta" else made.to(device)

    def learn(self, experience: Experience, run: Run) -> None:
        for step in experience:
            prompts = step.reveal()
            loss = self.observe(prompts)
            step.units = float(len(prompts.inputs) * self.new_tokens * run.engine.parts)
            run.tick(step, loss)

    def terms(self, observation: Observation) -> Iterator[Term]:
        texts = self.rollout(observation.inputs)
        for _ in range(self.passes):
            order = torch.randperm(len(texts["tokens"]), device=self.device)
            for chosen in order.chunk(self.minibatches):
                part = {name: values[chosen] for name, values in texts.items()}
                inputs = {"tokens": part.pop("tokens"), "answer": part.pop("answer")}
                yield Term("all", inputs, part, self.loss)

    @torch.no_grad()
    def rollout(self, prompts: Tensor) -> dict[str, Tensor]:
        """Answers to the prompts and all that PPO learns from: tokens, answer, log_probabilities, values (of the policy
        that wrote them), advantages, returns."""
        self.mode(training=False)
        with self.run.engine.autocast():
            with self.run.meter.phase("rollout"):
                tokens = self.network.generate(prompts, self.new_tokens)  # type: ignore[operator]
            answer = tokens[:, prompts.shape[1] :]
            before = self.network({"tokens": tokens, "answer": answer})
            first = log_probabilities(self.first_policy(tokens)[:, prompts.shape[1] - 1 : -1], answer)
            score = self.reward_model(tokens)[:, -1].float()
        self.mode(training=True)
        rewards = token_rewards(score, before["log_probabilities"], first, self.penalty)
        advantages = generalised_advantages(rewards, before["values"], self.discount, self.trace)
        returns = advantages + before["values"]
        return {
            "tokens": tokens,
            "answer": answer,
            **before,
            "advantages": standardised(advantages),
            "returns": returns,
        }


def frozen(network: nn.Module) -> nn.Module:
    """The network, never to be trained."""
    return network.eval().requires_grad_(False)


def log_probabilities(scores: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(scores)[token]: scores [batch, length, vocabulary], tokens [batch, length] -> [batch, length]."""
    return -F.cross_entropy(scores.float().flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape)


def token_rewards(score: Tensor, policy: Tensor, first: Tensor, penalty: float) -> Tensor:
    """r_t = -penalty (log policy_t - log first_t), and the text's score [batch] at its last token (Ziegler et al. 2019,
    eq. 2, spread over tokens)."""
    rewards = -penalty * (policy - first)
    rewards[:, -1] += score
    return rewards


def generalised_advantages(rewards: Tensor, values: Tensor, discount: float, trace: float) -> Tensor:
    """A_t = d_t + discount trace A_{t+1} with d_t = r_t + discount V_{t+1} - V_t; after the last token V is 0
    (Schulman et al. 2016, eq. 16)."""
    following = F.pad(values[:, 1:], (0, 1))
    differences = rewards + discount * following - values
    advantages, later = torch.empty_like(differences), torch.zeros_like(differences[:, 0])
    for at in reversed(range(differences.shape[1])):
        later = differences[:, at] + discount * trace * later
        advantages[:, at] = later
    return advantages


def standardised(values: Tensor) -> Tensor:
    """Mean 0 and variance 1 over all tokens of all texts."""
    return (values - values.mean()) * torch.rsqrt(values.var(unbiased=False) + 1e-8)


class PpoLoss:
    """The clipped loss of the policy + value_weight times the clipped loss of the values."""

    def __init__(self, clip: float, value_clip: float, value_weight: float) -> None:
        self.clip, self.value_clip, self.value_weight = clip, value_clip, value_weight

    def __call__(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], reduction: str = "mean") -> Tensor:
        losses = self.policy(outputs, targets) + self.value_weight * self.values(outputs, targets)
        return losses.mean() if reduction == "mean" else losses.mean(1)

    def policy(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """max(-A q, -A clip(q, 1 - clip, 1 + clip)) with q = policy / old policy (Schulman et al. 2017, eq. 7)."""
        ratio = (outputs["log_probabilities"] - targets["log_probabilities"]).exp()
        gain = targets["advantages"]
        return torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - self.clip, 1 + self.clip))

    def values(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """max((V - R)^2, (clip(V, old V -+ value_clip) - R)^2) / 2."""
        old, wanted = targets["values"], targets["returns"]
        near = outputs["values"].clamp(old - self.value_clip, old + self.value_clip)
        return torch.maximum((outputs["values"] - wanted) ** 2, (near - wanted) ** 2) / 2
