"""glyphs: pictures of characters, made when they are asked for. Any number of classes, no file, no network.

characters x hands (fonts, or writers of invented alphabets) x styles, each sample moved, turned, scaled and sheared at
random. In the manner of Synbols (Lacoste et al. 2020), with what installed packages ship.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fourfold.data.alphabets import HANDS, SIDE, Character, characters, hands_of, raster
from fourfold.data.tensors import Sets, TensorData
from fourfold.errors import Refused, nearest
from fourfold.randomness import generator

# What a style does to a picture [n, side, side] in [0, 1], besides moving it about.
STYLES = ("plain", "thick", "thin", "outlined", "inverted", "noisy", "striped", "turned")
AT_ONCE = 4096  # samples drawn together, for the memory's sake


@lru_cache(maxsize=8)
def _made(
    seed: int,
    alphabets: tuple[str, ...],
    characters_used: int | None,
    hands: tuple[str, ...] | None,
    styles: tuple[str, ...],
    domain: str,
    samples_a_class: int,
    test_samples_a_class: int,
    image_size: int,
) -> Sets:
    chosen = choose_characters(alphabets, characters_used, seed)
    parts = {}
    for name, count in (("train", samples_a_class), ("test", test_samples_a_class)):
        parts[name] = _drawn(chosen, hands, styles, domain, count, image_size, generator(seed, "glyphs", name))
    return Sets(parts["train"], parts["test"], len(chosen), (1, image_size, image_size))


def glyphs(
    data_dir: str,
    seed: int,
    alphabets: Sequence[str],
    characters: int | None = None,
    hands: Sequence[str] | None = None,
    styles: Sequence[str] = ("plain",),
    domain: str = "hand",
    samples_a_class: int = 100,
    test_samples_a_class: int = 20,
    image_size: int = 28,
) -> Sets:
    """Pictures [1, image_size, image_size] as bytes, ink is 255; the class of a picture is its character.

    ``characters``: a seeded choice of so many characters of these alphabets, None for all; a class is its place in the
    choice. ``hands``: which fonts (or writers, for invented alphabets) draw them, None for all that can. The samples of
    a class share hands and styles evenly. ``domain``: what the ``domains`` of the samples are: hand | style | alphabet.
    The same arguments give the same bytes; the last few sets made are kept in memory.

    Raises Refused for an alphabet, a hand or a style that there is not, too many characters, or a character that none
    of the hands can draw.
    """
    for key, values, choices in (("hands", hands or (), HANDS), ("styles", styles, STYLES)):
        wrong = next((value for value in values if value not in choices), None)
        if wrong is not None:
            raise Refused(f"benchmark.data.{key}={wrong}: choose from {', '.join(choices)}{nearest(wrong, choices)}")
    for key, values in (("alphabets", alphabets), ("styles", styles)):
        if not values:
            raise Refused(f"benchmark.data.{key}=[]: name at least one")
    return _made(
        seed,
        tuple(alphabets),
        characters,
        None if hands is None else tuple(hands),
        tuple(styles),
        domain,
        samples_a_class,
        test_samples_a_class,
        image_size,
    )


def choose_characters(alphabets: Sequence[str], count: int | None, seed: int) -> list[Character]:
    """A seeded choice of ``count`` characters of these alphabets, in their order; all for None."""
    every = [character for alphabet in dict.fromkeys(alphabets) for character in characters(alphabet)]
    if count is None or count == len(every):
        return every
    if count > len(every):
        raise Refused(
            f"benchmark.data.characters={count}: the alphabets {', '.join(alphabets)} have {len(every)}; "
            "choose fewer, or more alphabets"
        )
    kept = torch.randperm(len(every), generator=generator(seed, "characters"))[:count].sort().values
    return [every[index] for index in kept.tolist()]


def _drawn(
    chosen: list[Character],
    hands: Sequence[str] | None,
    styles: Sequence[str],
    domain: str,
    count: int,
    image_size: int,
    draw: torch.Generator,
) -> TensorData:
    """``count`` samples of each character, class after class."""
    rasters: list[Tensor] = []
    rows: list[tuple[int, int, int, int]] = []  # raster, class, style, domain of each sample
    names = {"hand": hands or HANDS, "style": styles, "alphabet": list(dict.fromkeys(name for name, _ in chosen))}
    for label, character in enumerate(chosen):
        own = [hand for hand in hands_of(character) if hands is None or hand in hands]
        if not own:
            able = ", ".join(hands_of(character))
            raise Refused(
                f"benchmark.data.hands={','.join(hands or ())}: none can draw {_named(character)}; {able} can"
            )
        first = len(rasters)
        rasters += [raster(character, hand) for hand in own]
        for number in range(count):
            hand, style = number % len(own), number // len(own) % len(styles)
            its = {"hand": own[hand], "style": styles[style], "alphabet": character[0]}[domain]
            rows.append((first + hand, label, style, list(names[domain]).index(its)))
    table = torch.tensor(rows)
    stack = torch.stack(rasters)
    pictures = [
        _styled(stack[part[:, 0]], part[:, 2], styles, image_size, draw).mul_(255).round_().to(torch.uint8)
        for part in table.split(AT_ONCE)
    ]
    return TensorData(torch.cat(pictures).unsqueeze(1), table[:, 1], domains=_compact(table[:, 3]))


def _named(character: Character) -> str:
    alphabet, code = character
    return f"{alphabet} {code}" if alphabet.startswith("invented") else f"{chr(code)} ({alphabet})"


def _compact(values: Tensor) -> Tensor:
    """The same values, numbered from 0 without gaps."""
    return values.unique(return_inverse=True)[1]


def _styled(rasters: Tensor, style_of: Tensor, styles: Sequence[str], image_size: int, draw: torch.Generator) -> Tensor:
    """Pictures [n, image_size, image_size] in [0, 1] of rasters [n, SIDE, SIDE], each under its style."""
    count = len(rasters)
    turned = torch.tensor([style == "turned" for style in styles])[style_of]
    moved = _moved(rasters, turned, draw)
    chance = torch.rand(count, 4, generator=draw)  # strength, direction, phase, frequency of what a style adds
    noise = torch.randn(count, SIDE, SIDE, generator=draw) if "noisy" in styles else None
    result = moved.clone()
    for number, style in enumerate(styles):
        own = (style_of == number).nonzero().flatten()
        if len(own):
            result[own] = _with_style(style, moved[own], chance[own], None if noise is None else noise[own])
    return F.interpolate(result.unsqueeze(1), size=image_size, mode="area").squeeze(1).clamp_(0, 1)


def _moved(rasters: Tensor, turned: Tensor, draw: torch.Generator) -> Tensor:
    """Turned by up to 12 (or 180) degrees, scaled by 0.8 to 1.15, sheared by up to 0.2, moved by up to a tenth."""
    uniform = torch.rand(len(rasters), 6, generator=draw) * 2 - 1
    angle = uniform[:, 0] * torch.where(turned, math.pi, math.radians(12))
    scale = 1 / (0.975 + 0.175 * uniform[:, 1:3])
    shear = 0.2 * uniform[:, 3]
    cos, sin = angle.cos(), angle.sin()
    affine = torch.stack(
        [
            torch.stack([scale[:, 0] * cos, scale[:, 0] * (shear * cos - sin), 0.1 * uniform[:, 4]], 1),
            torch.stack([scale[:, 1] * sin, scale[:, 1] * (shear * sin + cos), 0.1 * uniform[:, 5]], 1),
        ],
        1,
    )
    grid = F.affine_grid(affine, [len(rasters), 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(rasters.unsqueeze(1), grid, align_corners=False).squeeze(1)


def _with_style(style: str, pictures: Tensor, chance: Tensor, noise: Tensor | None) -> Tensor:
    """What a style does to pictures [n, SIDE, SIDE]; chance [n, 4] in [0, 1)."""
    if style == "thick":
        return _widened(pictures, 3)
    if style == "thin":
        return -_widened(-pictures, 3)
    if style == "outlined":
        return _widened(pictures, 5) - pictures
    if style == "inverted":
        return 1 - pictures
    if style == "noisy":
        assert noise is not None
        return (pictures + (0.2 + 0.3 * chance[:, 0, None, None]) * noise).clamp(0, 1)
    if style == "striped":
        return torch.maximum(pictures, 0.6 * _stripes(chance))
    return pictures


def _widened(pictures: Tensor, reach: int) -> Tensor:
    return F.max_pool2d(pictures.unsqueeze(1), reach, stride=1, padding=reach // 2).squeeze(1)


def _stripes(chance: Tensor) -> Tensor:
    """Waves [n, SIDE, SIDE] in [0, 1], of random direction, phase and frequency."""
    axis = torch.linspace(-1, 1, SIDE)
    vertical, horizontal = torch.meshgrid(axis, axis, indexing="ij")
    direction, phase = (2 * math.pi * chance[:, k, None, None] for k in (1, 2))
    frequency = 6 + 10 * chance[:, 3, None, None]
    along = horizontal * direction.cos() + vertical * direction.sin()
    return (1 + (frequency * along + phase).sin()) / 2
