"""Speech: clips of log-mel features to a class or to text (Radford et al. 2023)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.benchmarks.classification import Classification
from fourfold.benchmarks.interface import SupervisedObjective, Term
from fourfold.benchmarks.language import CausalLanguageModelling
from fourfold.benchmarks.objectives import token_cross_entropy
from fourfold.data.tensors import Batch
from fourfold.recipe import Recipe


class AudioClassification(Classification):
    """Clips [batch, mels, frames] to scores [batch, classes]. Units are clips."""


class Transcription(CausalLanguageModelling):
    """Clips [batch, mels, frames] to the tokens said in them [batch, count]. Units are clips."""

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.objective = TranscriptionObjective(start=self.outputs - 1)

    def call_builder(self, build: Callable[..., nn.Module], outputs: int, arguments: dict[str, Any]) -> nn.Module:
        assert self.sets is not None
        return build(shape=self.sets.shape, **arguments)

    def units(self, batch: Batch) -> float:
        return float(len(batch.targets))

    def examination(self, batch: Batch) -> Batch:
        return Batch(with_previous(batch.inputs, batch.targets, self.outputs - 1), batch.targets)


class TranscriptionObjective(SupervisedObjective):
    """Cross entropy of each token, given the clip and the tokens before it; ``start`` comes before the first."""

    def __init__(self, start: int) -> None:
        super().__init__(token_cross_entropy)
        self.start = start

    def terms(self, network: nn.Module, batch: Any) -> Iterator[Term]:
        yield Term("all", with_previous(batch.inputs, batch.targets, self.start), batch.targets, self.loss_of)


def with_previous(features: Tensor, tokens: Tensor, start: int) -> dict[str, Tensor]:
    """The clips with what the decoder reads: the start token, then all tokens but the last, [batch, count]."""
    begin = torch.full_like(tokens[:, :1], start)
    return {"features": features, "previous": torch.cat([begin, tokens[:, :-1]], dim=1)}


class Classifier(nn.Module):
    """A transformers audio model as a plain function: clips [batch, mels, frames] to scores [batch, classes]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        return self.model(input_features=features).logits


class Transcriber(nn.Module):
    """Whisper as a plain function of clips: alone, the tokens written for them; with previous tokens, scores.

    ``start`` is the token that a transcript begins with, the highest of the vocabulary; ``written`` the tokens a clip.
    """

    def __init__(self, model: nn.Module, start: int, written: int) -> None:
        super().__init__()
        self.model = model
        self.start = start
        self.written = written

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        if isinstance(inputs, Tensor):
            return self.transcribe(inputs)
        features, previous = inputs["features"], inputs["previous"]
        return self.model(input_features=features, decoder_input_ids=previous, use_cache=False).logits

    def transcribe(self, features: Tensor) -> Tensor:
        """The likeliest token one at a time, with a cache: [batch, written]."""
        encoded = self.model.get_encoder()(features)  # type: ignore[operator]
        token = torch.full((len(features), 1), self.start, device=features.device)
        cache, tokens = None, []
        for _ in range(self.written):
            made = self.model(encoder_outputs=encoded, decoder_input_ids=token, past_key_values=cache, use_cache=True)
            cache, token = made.past_key_values, made.logits[:, -1:].argmax(-1)
            tokens.append(token)
        return torch.cat(tokens, dim=1)


def whisper_encoder(
    shape: tuple[int, ...], outputs: int, hidden: int, intermediate: int, layers: int, heads: int
) -> nn.Module:
    """Whisper's encoder with a classifier on its mean, transformers' implementation; ``outputs`` classes."""
    from transformers import WhisperForAudioClassification

    config = _configuration(shape, hidden, intermediate, layers, heads)
    config.num_labels = outputs
    return Classifier(WhisperForAudioClassification(config))


def whisper(
    shape: tuple[int, ...], vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int, written: int
) -> nn.Module:
    """Whisper, encoder and decoder, transformers' implementation."""
    from transformers import WhisperForConditionalGeneration

    config = _configuration(shape, hidden, intermediate, layers, heads, vocab_size=vocabulary)
    return Transcriber(WhisperForConditionalGeneration(config), start=vocabulary - 1, written=written)


def _configuration(shape: tuple[int, ...], hidden: int, intermediate: int, layers: int, heads: int, **more: Any) -> Any:
    """Two frames make one position of the encoder."""
    from transformers import WhisperConfig

    return WhisperConfig(
        num_mel_bins=shape[0],
        max_source_positions=shape[1] // 2,
        d_model=hidden,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=intermediate,
        decoder_ffn_dim=intermediate,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
        **more,
    )
