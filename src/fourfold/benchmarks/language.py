"""Language models: next-token and masked-token training on real text, generation token by token."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.text import Perplexity

from fourfold.benchmarks.interface import Benchmark, SupervisedObjective, Term
from fourfold.benchmarks.objectives import token_cross_entropy
from fourfold.data.tensors import Batch
from fourfold.randomness import generator
from fourfold.recipe import Recipe


class LanguageModel(nn.Module):
    """A transformers model as a plain function: tokens [batch, length] to scores [batch, length, vocabulary]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, use_cache=False).logits

    def generate(self, tokens: Tensor, count: int) -> Tensor:
        """The prompts [batch, length] with ``count`` more tokens each, the likeliest one at a time, with a cache."""
        return self.model.generate(  # type: ignore[operator]
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )


class EncoderModel(LanguageModel):
    """The same for an encoder, which has no cache."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens).logits


class CausalLanguageModelling(Benchmark):
    """Predict the next token of real text. Units are tokens; there is no padding."""

    metric_name = "perplexity"

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.objective = SupervisedObjective(token_cross_entropy)

    @property
    def outputs(self) -> int:
        return self.recipe.model["vocabulary"]

    def units(self, batch: Batch) -> float:
        return float(batch.targets.numel())

    def metric(self) -> Perplexity:
        return Perplexity(ignore_index=-100)


class MaskedLanguageModelling(CausalLanguageModelling):
    """Predict hidden tokens (Devlin et al. 2019): 15 % of them, of which 80 % are masked and 10 % replaced."""

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.objective = MaskedObjective(self.outputs, seed)

    def units(self, batch: Batch) -> float:
        return float(len(batch.targets))

    def examination(self, batch: Batch) -> Batch:
        return Batch(*hide(batch.inputs, self.outputs, generator(self.seed, "hide for testing")))


class MaskedObjective(SupervisedObjective):
    """Cross entropy on a seeded choice of hidden tokens. The highest token of the vocabulary is the mask.

    ``drawn`` counts the batches hidden so far: it is all the state there is.
    """

    def __init__(self, vocabulary: int, seed: int) -> None:
        super().__init__(token_cross_entropy)
        self.vocabulary = vocabulary
        self.seed = seed
        self.drawn = 0

    def terms(self, network: nn.Module, batch: Any) -> Iterator[Term]:
        inputs, targets = hide(batch.inputs, self.vocabulary, generator(self.seed, "hide", self.drawn))
        self.drawn += 1
        yield Term("all", inputs, targets, self.loss_of)

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]


def hide(tokens: Tensor, vocabulary: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens with some hidden, and what they were (-100 elsewhere), both [batch, length]."""
    chance = torch.rand(2, *tokens.shape, generator=draw).to(tokens.device)
    other = torch.randint(0, vocabulary, tokens.shape, generator=draw).to(tokens.device)
    chosen = chance[0] < 0.15
    targets = torch.where(chosen, tokens, torch.full_like(tokens, -100))
    masked = torch.where(chosen & (chance[1] < 0.8), torch.full_like(tokens, vocabulary - 1), tokens)
    replaced = chosen & (chance[1] >= 0.8) & (chance[1] < 0.9)
    return torch.where(replaced, other, masked), targets


def llama(
    vocabulary: int,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    positions: int,
    rope_base: float,
    tied: bool,
) -> nn.Module:
    """Llama (Touvron et al. 2023; Grattafiori et al. 2024), transformers' implementation."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=positions,
        rope_parameters={"rope_type": "default", "rope_theta": rope_base},
        tie_word_embeddings=tied,
    )
    return LanguageModel(LlamaForCausalLM(config))


def bert(vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int, positions: int) -> nn.Module:
    """BERT with its masked-language-model head (Devlin et al. 2019), transformers' implementation."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=positions,
    )
    return EncoderModel(BertForMaskedLM(config))
