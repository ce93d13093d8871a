"""Models of pictures and text: LLaVA."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.benchmarks.interface import SupervisedObjective, Term
from fourfold.benchmarks.language import CausalLanguageModelling
from fourfold.benchmarks.objectives import token_cross_entropy
from fourfold.data.tensors import Batch
from fourfold.recipe import Recipe


class VisualInstruction(CausalLanguageModelling):
    """Write the text that belongs to a picture. Units are images."""

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.objective = VisualObjective(token_cross_entropy)

    def units(self, batch: Batch) -> float:
        return float(len(batch.targets))

    def examination(self, batch: Batch) -> Batch:
        return Batch(*next_token(batch.inputs))


class VisualObjective(SupervisedObjective):
    """Cross entropy of each token of the text, given the picture and the tokens before it."""

    def terms(self, network: nn.Module, batch: Any) -> Iterator[Term]:
        yield Term("all", *next_token(batch.inputs), self.loss_of)


def next_token(inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Pictures with all tokens of their text but the last, and all but the first."""
    tokens = inputs["tokens"]
    return {"pictures": inputs["pictures"], "tokens": tokens[:, :-1]}, tokens[:, 1:]


class Llava(nn.Module):
    """Pictures [batch, 3, size, size] and tokens [batch, length] to scores [batch, length, vocabulary].

    ``places`` tokens stand for the picture, before the text; ``mark`` is the token that they are.
    """

    def __init__(self, model: nn.Module, places: int, mark: int) -> None:
        super().__init__()
        self.model = model
        self.places = places
        self.mark = mark

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        tokens = inputs["tokens"]
        picture = torch.full((len(tokens), self.places), self.mark, device=tokens.device)
        return self.model(
            input_ids=torch.cat([picture, tokens], dim=1),
            pixel_values=inputs["pictures"],
            logits_to_keep=tokens.shape[1],
            use_cache=False,
        ).logits


def llava(
    vocabulary: int,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    positions: int,
    image_size: int,
    patch: int,
    vision_hidden: int,
    vision_intermediate: int,
    vision_layers: int,
    vision_heads: int,
) -> nn.Module:
    """LLaVA-1.5 (Liu et al. 2023): CLIP's vision encoder, two linear layers, Llama; transformers' implementation.

    The highest token marks the places of the picture.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=vision_hidden,
        intermediate_size=vision_intermediate,
        num_hidden_layers=vision_layers,
        num_attention_heads=vision_heads,
        image_size=image_size,
        patch_size=patch,
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=positions,
    )
    mark = vocabulary - 1
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=mark)
    model = LlavaForConditionalGeneration(config)
    tower: Any = model.model.vision_tower
    for unused in (tower.encoder.layers[-1], tower.post_layernorm):  # Llama is shown the layer before the last
        unused.requires_grad_(False)
    return Llava(model, (image_size // patch) ** 2, mark)
