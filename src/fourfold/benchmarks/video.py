"""V-JEPA: predict, in the space of features, what is hidden in a video (Bardes et al. 2024)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark, SupervisedObjective, Term
from fourfold.benchmarks.teachers import averaged_copy, follow
from fourfold.randomness import generator
from fourfold.recipe import Recipe

# Bardes et al. 2024, section 3.2: short-range masks are 8 blocks of 0.15 of a frame, long-range ones 2 blocks of 0.7.
MASKS = ((8, 0.15), (2, 0.7))


class LatentPrediction(Benchmark):
    """V-JEPA's training. Units are clips. There is no held-out measure without a probe."""

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.objective = LatentObjective(recipe.model, seed)


class LatentObjective(SupervisedObjective):
    """Masks for each batch; after the update the target encoder follows. ``drawn`` is all the state."""

    def __init__(self, model: Mapping[str, Any], seed: int) -> None:
        super().__init__(latent_loss)
        self.model = model
        self.seed = seed
        self.drawn = 0

    def terms(self, network: nn.Module, batch: Any) -> Iterator[Term]:
        draw = generator(self.seed, "masks", self.drawn)
        self.drawn += 1
        clips, model = batch.inputs, self.model
        side, times = model["image_size"] // model["patch"], model["frames"] // model["tubelet"]
        inputs = {"clips": clips}
        for index, (blocks, share) in enumerate(MASKS):
            shown, hidden = block_masks(len(clips), side, times, blocks, share, draw)
            inputs[f"shown{index}"] = shown.to(clips.device, non_blocking=True)
            inputs[f"hidden{index}"] = hidden.to(clips.device, non_blocking=True)
        yield Term("all", inputs, None, self.loss_of)

    def after_update(self, network: nn.Module) -> None:
        follow(network.target, network.model.encoder, self.model["momentum"])  # type: ignore[arg-type, union-attr]

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]


def block_masks(
    batch: int, side: int, times: int, blocks: int, share: float, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """For each clip, the patches shown and those hidden, as sorted numbers: [batch, shown], [batch, hidden].

    Hidden is the union of ``blocks`` random blocks, each ``share`` of a frame and as long as the clip, with an aspect
    ratio between 3/4 and 3/2. Rows are cut to the shortest of the batch, as the paper's code does, so that they stack.
    """
    covered = torch.stack([_union_of_blocks(side, blocks, share, draw) for _ in range(batch)])
    covered = covered.flatten(1).repeat(1, times)
    shown, hidden = int((~covered).sum(1).min()), int(covered.sum(1).min())
    order = covered.int().argsort(dim=1, stable=True)  # the shown patches first, each part in its order
    return order[:, :shown].contiguous(), order[:, order.shape[1] - hidden :].contiguous()


def _union_of_blocks(side: int, blocks: int, share: float, draw: torch.Generator) -> Tensor:
    """[side, side], true where a block lies; at least one patch stays free."""
    covered = torch.zeros(side, side, dtype=torch.bool)
    for _ in range(blocks):
        chance = torch.rand(3, generator=draw).tolist()
        aspect = 0.75 + chance[0] * 0.75
        height = min(side, max(1, round(math.sqrt(share * aspect) * side)))
        width = min(side, max(1, round(math.sqrt(share / aspect) * side)))
        top, left = int(chance[1] * (side - height + 1)), int(chance[2] * (side - width + 1))
        block = torch.zeros_like(covered)
        block[top : top + height, left : left + width] = True
        if not (covered | block).all():
            covered |= block
    return covered


def latent_loss(outputs: Sequence[tuple[Tensor, Tensor]], targets: Any, reduction: str = "mean") -> Tensor:
    """The mean absolute difference between predicted and target features, averaged over masks (paper, equation 1).

    outputs: (predicted, target), each [batch, hidden, width], for each mask. "none" gives the loss of each clip.
    """
    each = torch.stack([(said.float() - wanted.float()).abs().mean((1, 2)) for said, wanted in outputs]).mean(0)
    return each if reduction == "none" else each.mean()


class PredictorAndTarget(nn.Module):
    """An encoder of what is shown, a predictor of what is hidden, and the target encoder that sees everything."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.target = averaged_copy(model.encoder)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> Any:
        """Clips [batch, frames, channels, size, size] and masks to (predicted, target) features for each mask.

        Clips alone to the target's features, the mean over patches [batch, width].
        """
        if isinstance(inputs, Tensor):
            return self.target(pixel_values_videos=inputs).last_hidden_state.mean(1)
        clips = inputs["clips"]
        with torch.no_grad():
            everything = self.target(pixel_values_videos=clips).last_hidden_state
            everything = F.layer_norm(everything, everything.shape[-1:])
        pairs = []
        for index in range(len(MASKS)):
            shown, hidden = inputs[f"shown{index}"], inputs[f"hidden{index}"]
            features = self.encode(clips, shown)
            said = self.model.predictor(features, context_mask=[shown], target_mask=[hidden])  # type: ignore[operator]
            pairs.append((said.last_hidden_state, _take(everything, hidden)))
        return pairs

    def encode(self, clips: Tensor, shown: Tensor) -> Tensor:
        """Features of the shown patches at their places, zero elsewhere: [batch, patches, width].

        The library encodes everything and hides afterwards, which would tell the encoder the answer: the hidden
        patches are taken out before the first layer here.
        """
        encoder: Any = self.model.encoder
        embedded = encoder.embeddings(clips)
        states = _take(embedded, shown)
        for layer in encoder.layer:
            states = layer(states, shown)[0]
        states = encoder.layernorm(states)
        whole = torch.zeros(embedded.shape, dtype=states.dtype, device=states.device)
        return whole.scatter(1, shown.unsqueeze(-1).expand_as(states), states)


def _take(features: Tensor, places: Tensor) -> Tensor:
    """Rows of features [batch, patches, width] at places [batch, count]."""
    return features.gather(1, places.unsqueeze(-1).expand(-1, -1, features.shape[-1]))


def vjepa(
    hidden: int,
    layers: int,
    heads: int,
    predictor_hidden: int,
    predictor_layers: int,
    predictor_heads: int,
    image_size: int,
    patch: int,
    frames: int,
    tubelet: int,
    momentum: float,
) -> nn.Module:
    """V-JEPA with the encoder and predictor of transformers, which have V-JEPA 2's rotary positions."""
    from transformers import VJEPA2Config, VJEPA2Model
    from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2PredictorEmbeddings

    class Places(VJEPA2PredictorEmbeddings):
        """What the library does without reading the largest place back from the device: as all mask tokens are alike,
        one is laid out at each hidden place."""

        def forward(self, hidden_states: Tensor, context_mask: Any, target_mask: Any, mask_index: int = 1) -> Any:
            (shown,), (hidden,) = context_mask, target_mask
            token = self.mask_tokens[mask_index % self.num_mask_tokens]
            context = self.predictor_embeddings(hidden_states)
            wanted = token.expand(*hidden.shape, -1).to(context.dtype)
            return torch.cat([context, wanted], dim=1), torch.cat([shown, hidden], dim=1)

    config = VJEPA2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        pred_hidden_size=predictor_hidden,
        pred_num_hidden_layers=predictor_layers,
        pred_num_attention_heads=predictor_heads,
        crop_size=image_size,
        patch_size=patch,
        frames_per_clip=frames,
        tubelet_size=tubelet,
    )
    model = VJEPA2Model(config)
    model.predictor.embeddings.__class__ = Places
    return PredictorAndTarget(model)
