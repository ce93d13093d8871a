"""Text to image: Stable Diffusion 2's U-Net in training, FLUX in generation and training. Models are diffusers'."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.benchmarks.interface import Benchmark, SupervisedObjective, Term
from fourfold.benchmarks.libraries import library
from fourfold.randomness import generator
from fourfold.recipe import Recipe

LATENT_PIXELS = 8  # pixels of a side that the autoencoder makes one
TIMES = 1000  # of Stable Diffusion's noise schedule
GUIDANCE = 3.5  # FLUX's default


class TextToImage(Benchmark):
    """Captioned pictures, by diffusion. Units are images."""

    flow = False

    def __init__(self, node: Mapping[str, Any], recipe: Recipe, data_dir: str, seed: int) -> None:
        super().__init__(node, recipe, data_dir, seed)
        self.objective = NoisyObjective(recipe.model["latent_channels"], self.flow, seed)


class FlowToImage(TextToImage):
    """The same along straight paths from noise to picture."""

    flow = True


class NoisyObjective(SupervisedObjective):
    """Draws, for each batch, the noise, the time of each sample and the autoencoder's sampling.

    It is drawn on the CPU, so that every device does the same work. ``flow``: times are in [0, 1], logit-normal (Esser
    et al. 2024); else uniform whole numbers below 1,000 (Ho et al. 2020). ``drawn`` is all the state.
    """

    def __init__(self, channels: int, flow: bool, seed: int) -> None:
        super().__init__(mean_squared_error)
        self.channels = channels
        self.flow = flow
        self.seed = seed
        self.drawn = 0

    def terms(self, network: nn.Module, batch: Any) -> Iterator[Term]:
        draw = generator(self.seed, "noise", self.drawn)
        self.drawn += 1
        pictures = batch.inputs["pictures"]
        side = pictures.shape[-1] // LATENT_PIXELS
        noise, sampling = torch.randn(2, len(pictures), self.channels, side, side, generator=draw)
        if self.flow:
            times = torch.sigmoid(torch.randn(len(pictures), generator=draw))
        else:
            times = torch.randint(0, TIMES, (len(pictures),), generator=draw)
        drawn = {"noise": noise, "sampling": sampling, "times": times}
        drawn = {name: values.to(pictures.device, non_blocking=True) for name, values in drawn.items()}
        yield Term("all", {**batch.inputs, **drawn}, None, self.loss_of)

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]


def mean_squared_error(outputs: tuple[Tensor, Tensor], targets: Any, reduction: str = "mean") -> Tensor:
    """Of (predicted, wanted), both [batch, ...], since what is wanted depends on the frozen encoder; [] or [batch]."""
    predicted, wanted = outputs
    each = (predicted.float() - wanted.float()).square().flatten(1).mean(1)
    return each if reduction == "none" else each.mean()


class LatentDiffusion(nn.Module):
    """Stable Diffusion 2: a U-Net in the latent space of a frozen autoencoder, told of a frozen text encoder's output.

    It predicts the velocity (Salimans & Ho 2022), as the published 768-pixel model does. With "times" among the inputs
    it is trained; without, it makes a picture for each caption in ``steps`` steps.
    """

    def __init__(self, unet: nn.Module, vae: nn.Module, text: nn.Module, image_size: int, steps: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.steps = steps
        self.unet = unet
        self.vae, self.text = vae.requires_grad_(False), text.requires_grad_(False)
        self.register_buffer("kept", kept_signal(), persistent=False)

    def train(self, mode: bool = True) -> "LatentDiffusion":
        """The frozen parts stay as they are."""
        super().train(mode)
        self.vae.eval()
        self.text.eval()
        return self

    def forward(self, inputs: Mapping[str, Tensor]) -> Any:
        """Pictures, tokens, noise, sampling and times to the predicted and the wanted velocity, [batch, 4, h, w]."""
        with torch.no_grad():
            told = self.text(input_ids=inputs["tokens"]).last_hidden_state
            if "times" not in inputs:
                return self.generate(told)
            latents = encode(self.vae, inputs["pictures"], inputs["sampling"])
            noisy, velocity = diffuse(latents, inputs["noise"], self.kept[inputs["times"]])  # type: ignore[index]
        return self.unet(noisy, inputs["times"], told).sample, velocity

    def generate(self, told: Tensor) -> Tensor:
        """Pictures [batch, 3, size, size] in [0, 1] from noise, without chance on the way (Song et al. 2021, DDIM)."""
        side = self.image_size // LATENT_PIXELS
        kept: Any = self.kept
        config: Any = self.vae.config
        latents = torch.randn(len(told), config.latent_channels, side, side, device=told.device)
        for time in range(TIMES - 1, -1, -(TIMES // self.steps)):
            now, then = kept[time], kept[max(time - TIMES // self.steps, 0)]
            velocity = self.unet(latents, time, told).sample
            signal, noise = undo(latents, velocity, now)
            latents = then.sqrt() * signal + (1 - then).sqrt() * noise
        return decode(self.vae, latents)


def undo(noisy: Tensor, velocity: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The signal and the noise that make ``noisy`` and its velocity: the inverse of ``diffuse``."""
    return kept.sqrt() * noisy - (1 - kept).sqrt() * velocity, (1 - kept).sqrt() * noisy + kept.sqrt() * velocity


def kept_signal() -> Tensor:
    """The share of the signal's variance left at each time, [1000]: betas are squares of an even grid (Rombach et al.
    2022: from 0.00085 to 0.012)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMES, dtype=torch.float64).square()
    return torch.cumprod(1 - betas, 0).float()


def diffuse(latents: Tensor, noise: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """x_t = sqrt(a) x + sqrt(1 - a) e and its velocity sqrt(a) e - sqrt(1 - a) x; a is ``kept`` [batch]."""
    signal, rest = kept.sqrt().view(-1, 1, 1, 1), (1 - kept).sqrt().view(-1, 1, 1, 1)
    return signal * latents + rest * noise, signal * noise - rest * latents


def encode(vae: Any, pictures: Tensor, sampling: Tensor) -> Tensor:
    """A sample of the autoencoder's latents for pictures in [0, 1], scaled as its configuration says."""
    found = vae.encode(pictures * 2 - 1).latent_dist
    latents = found.mean + found.std * sampling
    return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pictures in [0, 1] for scaled latents."""
    pictures = vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample
    return (pictures / 2 + 0.5).clamp(0, 1)


class Flux(nn.Module):
    """FLUX.1: a transformer that turns noise into latents along straight paths, told by two frozen text encoders.

    With "times" among the inputs it is trained; without, it makes pictures.
    """

    def __init__(
        self, transformer: nn.Module, vae: nn.Module, clip: nn.Module, t5: nn.Module, image_size: int, steps: int
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.vae, self.clip, self.t5 = (part.requires_grad_(False) for part in (vae, clip, t5))
        self.image_size = image_size
        self.steps = steps

    def train(self, mode: bool = True) -> "Flux":
        """The frozen parts stay as they are."""
        super().train(mode)
        for part in (self.vae, self.clip, self.t5):
            part.eval()
        return self

    def forward(self, inputs: Mapping[str, Tensor]) -> Any:
        with torch.no_grad():
            pooled = self.clip(input_ids=inputs["tokens"]).pooler_output
            told = self.t5(input_ids=inputs["long_tokens"]).last_hidden_state
            if "times" not in inputs:
                return self.generate(pooled, told)
            latents = encode(self.vae, inputs["pictures"], inputs["sampling"])
            times = inputs["times"].view(-1, 1, 1, 1)
            noisy, velocity = (1 - times) * latents + times * inputs["noise"], inputs["noise"] - latents
        return self.velocity(noisy, inputs["times"], pooled, told), velocity

    def velocity(self, latents: Tensor, times: Tensor, pooled: Tensor, told: Tensor) -> Tensor:
        """The transformer's output for latents [batch, channels, h, w] at times [batch]; squares of 2 are one token."""
        side = latents.shape[-1] // 2
        places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).to(latents.device)
        guidance = torch.full((len(latents),), GUIDANCE, device=latents.device)
        made = self.transformer(
            hidden_states=pack(latents),
            encoder_hidden_states=told,
            pooled_projections=pooled,
            timestep=times,
            guidance=guidance,
            img_ids=F.pad(places, (1, 0)).to(latents.dtype),
            txt_ids=torch.zeros(told.shape[1], 3, device=latents.device, dtype=latents.dtype),
        ).sample
        return unpack(made, side)

    def generate(self, pooled: Tensor, told: Tensor) -> Tensor:
        """Pictures [batch, 3, size, size] in [0, 1]: Euler steps from noise, then the autoencoder's decoder."""
        side = self.image_size // LATENT_PIXELS
        config: Any = self.vae.config
        latents = torch.randn(len(told), config.latent_channels, side, side, device=told.device)
        times = schedule(self.steps, (side // 2) ** 2).tolist()
        for now, then in zip(times, [*times[1:], 0.0], strict=True):
            at = torch.full((len(latents),), now, device=told.device)
            latents = latents + (then - now) * self.velocity(latents, at, pooled, told)
        return decode(self.vae, latents)


def schedule(steps: int, tokens: int) -> Tensor:
    """Times from 1 towards 0, later for larger pictures, where noise hides less (Esser et al. 2024, section 5.3.2)."""
    shift = math.exp(0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256))
    even = torch.linspace(1, 1 / steps, steps)
    return shift * even / (1 + (shift - 1) * even)


def pack(latents: Tensor) -> Tensor:
    """[batch, channels, 2 s, 2 s] to tokens [batch, s * s, 4 * channels]."""
    batch, channels, height, width = latents.shape
    squares = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(batch, (height // 2) * (width // 2), 4 * channels)


def unpack(tokens: Tensor, side: int) -> Tensor:
    """The inverse of ``pack`` for ``side`` squares a side."""
    batch, _, values = tokens.shape
    squares = tokens.view(batch, side, side, values // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(batch, values // 4, 2 * side, 2 * side)


def stable_diffusion(
    unet_widths: list[int],
    unet_layers: int,
    unet_heads: list[int],
    vae_widths: list[int],
    vae_layers: int,
    latent_channels: int,
    vocabulary: int,
    text_hidden: int,
    text_layers: int,
    text_heads: int,
    image_size: int,
    steps: int,
) -> nn.Module:
    """Stable Diffusion 2 (Rombach et al. 2022) with OpenCLIP-H's text encoder, of which the last layer is left out."""
    diffusers = library("diffusers", "diffusion")
    unet = diffusers.UNet2DConditionModel(
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(unet_widths),
        layers_per_block=unet_layers,
        attention_head_dim=tuple(unet_heads),  # the library's name for the number of heads
        cross_attention_dim=text_hidden,
        use_linear_projection=True,
    )
    vae = autoencoder(vae_widths, vae_layers, latent_channels, scaling_factor=0.18215)
    text = clip_text(vocabulary, text_hidden, text_layers, text_heads, "gelu")
    return LatentDiffusion(unet, vae, text, image_size, steps)


def flux(
    layers: int,
    single_layers: int,
    heads: int,
    head_size: int,
    axes: list[int],
    vae_widths: list[int],
    vae_layers: int,
    latent_channels: int,
    vocabulary: int,
    clip_hidden: int,
    clip_layers: int,
    clip_heads: int,
    t5_vocabulary: int,
    t5_hidden: int,
    t5_intermediate: int,
    t5_layers: int,
    t5_heads: int,
    image_size: int,
    steps: int,
) -> nn.Module:
    """FLUX.1-dev (Black Forest Labs 2024): transformer, autoencoder, CLIP-L and the encoder of T5-XXL."""
    from transformers import T5Config, T5EncoderModel

    diffusers = library("diffusers", "diffusion")
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=4 * latent_channels,
        num_layers=layers,
        num_single_layers=single_layers,
        num_attention_heads=heads,
        attention_head_dim=head_size,
        axes_dims_rope=tuple(axes),
        joint_attention_dim=t5_hidden,
        pooled_projection_dim=clip_hidden,
        guidance_embeds=True,
    )
    vae = autoencoder(vae_widths, vae_layers, latent_channels, 0.3611, 0.1159)
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=t5_vocabulary,
            d_model=t5_hidden,
            d_kv=64,
            d_ff=t5_intermediate,
            num_layers=t5_layers,
            num_heads=t5_heads,
            feed_forward_proj="gated-gelu",
        )
    )
    clip = clip_text(vocabulary, clip_hidden, clip_layers, clip_heads, "quick_gelu")
    return Flux(transformer, vae, clip, t5, image_size, steps)


def autoencoder(
    widths: list[int], layers: int, channels: int, scaling_factor: float, shift_factor: float | None = None
) -> nn.Module:
    """The variational autoencoder of both; each width after the first halves the picture. FLUX's has a shift and no
    1x1 convolutions around the latents."""
    return library("diffusers", "diffusion").AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        latent_channels=channels,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=shift_factor is None,
        use_post_quant_conv=shift_factor is None,
    )


def clip_text(vocabulary: int, hidden: int, layers: int, heads: int, activation: str) -> nn.Module:
    """CLIP's text encoder (Radford et al. 2021), transformers' implementation; captions end with the highest token."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=activation,
        eos_token_id=vocabulary - 1,
        bos_token_id=vocabulary - 2,
    )
    return CLIPTextModel(config)
