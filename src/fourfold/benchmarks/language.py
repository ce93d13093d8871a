"""Language models: next-token, masked-token and text-to-text training on real text, generation token by token."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from inspect import signature
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

    def generate(
        self, tokens: Tensor, count: int, each: Callable[[], Any] | None = None, sample: bool = False
    ) -> Tensor:
        """The prompts [batch, length] and ``count`` more tokens each, with a cache: the likeliest one at a time, or
        one drawn from the scores. ``each`` is called when a token is there."""
        if tokens.is_meta:
            return self._shapes_of(tokens, count)
        return self.model.generate(  # type: ignore[operator]
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=0,
            eos_token_id=None,
            stopping_criteria=None if each is None else [_Told(each)],
            **({"do_sample": True, "top_k": 0} if sample else {"do_sample": False}),
        )

    def _shapes_of(self, tokens: Tensor, count: int) -> Tensor:
        """The same work where there are no values to ask whether a text has ended: the prompt, then token by token."""
        last_only = {"logits_to_keep": 1} if "logits_to_keep" in signature(self.model.forward).parameters else {}
        newest = tokens
        kept: dict[str, Any] = {}
        for _ in range(count):
            found = self.model(input_ids=newest, use_cache=True, **last_only, **kept)
            kept = {name: found[name] for name in ("past_key_values", "state") if name in found}
            newest = found.logits[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, newest], dim=1)
        return tokens


class _Told:
    """A stopping criterion of transformers that never stops: it tells of each token as soon as it is there."""

    def __init__(self, each: Callable[[], Any]) -> None:
        self.each = each

    def __call__(self, tokens: Tensor, scores: Any, **_: Any) -> Tensor:
        self.each()
        return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)


class EncoderModel(LanguageModel):
    """The same for an encoder, which has no cache."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens).logits


class EncoderDecoderModel(nn.Module):
    """A transformers encoder-decoder as a plain function: source and previous tokens to scores of the next ones.

    inputs: "source" [batch, length] and "previous" [batch, count], or windows of text, of which the first half is the
    source; scores: [batch, count, vocabulary].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        if isinstance(inputs, Tensor):
            inputs, _ = halves(inputs, inputs)
        source, previous = inputs["source"], inputs["previous"]
        return self.model(input_ids=source, decoder_input_ids=previous, use_cache=False).logits


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

    def generated_units(self, prompts: Tensor, written: Tensor) -> float:
        return float(written[:, prompts.shape[1] :].numel())

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


class TextToText(CausalLanguageModelling):
    """Read the first half of a window of text, write the second: prefix language modelling (Raffel et al. 2020, 3.3.1).

    Units are sequences: pairs of a source and a target.
    """

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.objective = TextToTextObjective(token_cross_entropy)

    def units(self, batch: Batch) -> float:
        return float(len(batch.targets))

    def examination(self, batch: Batch) -> Batch:
        return Batch(*halves(batch.inputs, batch.targets))


class TextToTextObjective(SupervisedObjective):
    """Cross entropy of the second half of each window, given the first."""

    def terms(self, network: nn.Module, batch: Any) -> Iterator[Term]:
        yield Term("all", *halves(batch.inputs, batch.targets), self.loss_of)


def halves(tokens: Tensor, following: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Windows [batch, 2 n] and the token that follows each, as an encoder-decoder is given them.

    The source is the first half; what the decoder reads begins with the source's last token, so that its targets
    [batch, n] are the second half.
    """
    half = tokens.shape[1] // 2
    written = slice(half - 1, 2 * half - 1)
    return {"source": tokens[:, :half], "previous": tokens[:, written]}, following[:, written]


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


def t5(
    vocabulary: int, hidden: int, key_size: int, intermediate: int, layers: int, heads: int, gated: bool
) -> nn.Module:
    """T5 (Raffel et al. 2020), transformers' implementation; ``layers`` in the encoder and as many in the decoder."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=vocabulary,
        d_model=hidden,
        d_kv=key_size,
        d_ff=intermediate,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu" if gated else "relu",
    )
    config.tie_word_embeddings = not gated
    return EncoderDecoderModel(T5ForConditionalGeneration(config))


def reformer(
    vocabulary: int,
    hidden: int,
    intermediate: int,
    heads: int,
    head_size: int,
    attention: list[str],
    chunk: int,
    buckets: int,
    axial_shape: list[int],
    axial_widths: list[int],
) -> nn.Module:
    """Reformer with local and locality-sensitive-hashing attention (Kitaev et al. 2020), transformers' implementation.

    It takes sequences of exactly the product of ``axial_shape`` tokens.
    """
    from transformers import ReformerConfig, ReformerForMaskedLM

    config = ReformerConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        feed_forward_size=intermediate,
        num_attention_heads=heads,
        attention_head_size=head_size,
        attn_layers=attention,
        local_attn_chunk_length=chunk,
        lsh_attn_chunk_length=chunk,
        num_buckets=buckets,
        axial_pos_shape=axial_shape,
        axial_pos_embds_dim=axial_widths,
        max_position_embeddings=axial_shape[0] * axial_shape[1],
        is_decoder=False,
    )
    model = ReformerForMaskedLM(config)
    model.lm_head.bias.requires_grad_(False)  # the library has it and does not use it
    for layer in model.reformer.encoder.layers:
        for seed in ("attention_seed", "feed_forward_seed"):
            setattr(layer, f"_init_{seed}", partial(_draw_seed, layer, seed))
    return EncoderModel(model)


def _draw_seed(layer: nn.Module, name: str) -> None:
    """For a reversible layer, which runs again in the backward pass: as the library does, but from the cell's random
    numbers. The library asks the operating system, so that no run was like another.
    """
    setattr(layer, name, int(torch.randint(2**62, ())))
    torch.manual_seed(getattr(layer, name))


def opt(vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int, positions: int) -> nn.Module:
    """OPT (Zhang et al. 2022), transformers' implementation."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        word_embed_proj_dim=hidden,
        ffn_dim=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=positions,
    )
    return LanguageModel(OPTForCausalLM(config))


def gpt_neox(
    vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int, positions: int, rotary_share: float
) -> nn.Module:
    """GPT-NeoX (Black et al. 2022) as Pythia has it, transformers' implementation."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=positions,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": rotary_share},
    )
    return LanguageModel(GPTNeoXForCausalLM(config))


def rwkv(vocabulary: int, hidden: int, layers: int, positions: int) -> nn.Module:
    """RWKV-4 (Peng et al. 2023), transformers' implementation; without its CUDA kernel, time is a loop in Python."""
    from transformers import RwkvConfig, RwkvForCausalLM

    config = RwkvConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        context_length=positions,
    )
    return LanguageModel(RwkvForCausalLM(config))


def mistral(
    vocabulary: int,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    head_size: int,
    positions: int,
    rope_base: float,
    window: int | None,
) -> nn.Module:
    """Mistral (Jiang et al. 2023), transformers' implementation; ``window`` tokens of sliding attention, or all."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_size,
        max_position_embeddings=positions,
        rope_parameters={"rope_type": "default", "rope_theta": rope_base},
        sliding_window=window,
    )
    return LanguageModel(MistralForCausalLM(config))


def llama4(
    vocabulary: int,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    head_size: int,
    experts: int,
    experts_a_token: int,
    positions: int,
    rope_base: float,
    chunk: int,
) -> nn.Module:
    """Llama 4's text part, a mixture of experts in each layer (Meta's model card 2025), transformers' implementation.

    Three layers of four attend within chunks of ``chunk`` tokens, the fourth to all, without positions.
    """
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    config = Llama4TextConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        intermediate_size_mlp=2 * intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_size,
        num_local_experts=experts,
        num_experts_per_tok=experts_a_token,
        max_position_embeddings=positions,
        rope_parameters={"rope_type": "default", "rope_theta": rope_base},
        attention_chunk_size=chunk,
    )
    return LanguageModel(Llama4ForCausalLM(config))
