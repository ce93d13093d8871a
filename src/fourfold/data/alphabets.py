"""Characters as pictures: of alphabets drawn from fonts that are always here, and of alphabets that nobody knows.

A raster is a picture [SIDE, SIDE] of one character by one hand, float in [0, 1], ink is 1.
"""

import re
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fourfold.errors import Refused, nearest
from fourfold.randomness import generator

SIDE = 64  # pixels; samples are drawn from this
SIZE = 42  # of a font: pixels of its em square
INVENTED = 40  # characters of each invented alphabet
WRITERS = 8  # hands that write invented alphabets

# Ranges of code points, ends included. What no font of ours has is left out.
ALPHABETS: dict[str, tuple[tuple[int, int], ...]] = {
    "digits": ((0x30, 0x39),),
    "latin": ((0x41, 0x5A), (0x61, 0x7A)),
    "greek": ((0x391, 0x3A9), (0x3B1, 0x3C9)),
    "cyrillic": ((0x410, 0x44F),),
    "armenian": ((0x531, 0x556), (0x561, 0x586)),
    "georgian": ((0x10D0, 0x10F0),),
    "hebrew": ((0x5D0, 0x5EA),),
    "arabic": ((0x621, 0x63A), (0x641, 0x64A)),
    "tifinagh": ((0x2D30, 0x2D65),),
    "lao": ((0xE81, 0xEAE),),
    "syllabics": ((0x1401, 0x1676),),
}
# Files that matplotlib ships: DejaVu (its own licence, after Bitstream Vera) and STIX (SIL OFL).
FONTS = {
    "sans": "DejaVuSans.ttf",
    "sans_bold": "DejaVuSans-Bold.ttf",
    "sans_italic": "DejaVuSans-Oblique.ttf",
    "sans_bold_italic": "DejaVuSans-BoldOblique.ttf",
    "mono": "DejaVuSansMono.ttf",
    "mono_bold": "DejaVuSansMono-Bold.ttf",
    "mono_italic": "DejaVuSansMono-Oblique.ttf",
    "mono_bold_italic": "DejaVuSansMono-BoldOblique.ttf",
    "serif": "DejaVuSerif.ttf",
    "serif_bold": "DejaVuSerif-Bold.ttf",
    "serif_italic": "DejaVuSerif-Italic.ttf",
    "serif_bold_italic": "DejaVuSerif-BoldItalic.ttf",
    "times": "STIXGeneral.ttf",
    "times_bold": "STIXGeneralBol.ttf",
    "times_italic": "STIXGeneralItalic.ttf",
    "times_bold_italic": "STIXGeneralBolIta.ttf",
}
HANDS = (*FONTS, *(f"writer_{number}" for number in range(WRITERS)))

# A character: (alphabet, code point), or (invented alphabet, number).
Character = tuple[str, int]


def characters(alphabet: str) -> list[Character]:
    """All characters of an alphabet, in its order. ``invented_K`` is the K-th alphabet of made-up characters.

    Raises Refused if there is no such alphabet.
    """
    if re.fullmatch(r"invented_\d+", alphabet):
        return [(alphabet, number) for number in range(INVENTED)]
    if alphabet not in ALPHABETS:
        choices = ", ".join((*ALPHABETS, "invented_0, invented_1, ..."))
        raise Refused(f"benchmark.data.alphabets={alphabet}: choose from {choices}{nearest(alphabet, list(ALPHABETS))}")
    codes = (code for first, last in ALPHABETS[alphabet] for code in range(first, last + 1))
    known = frozenset().union(*map(_charmap, FONTS))
    return [(alphabet, code) for code in codes if code in known]


def hands_of(character: Character) -> list[str]:
    """The fonts, or for an invented character the writers, that can draw it."""
    alphabet, code = character
    if alphabet in ALPHABETS:
        return [font for font in FONTS if code in _charmap(font)]
    return [hand for hand in HANDS if hand not in FONTS]


@cache
def raster(character: Character, hand: str) -> Tensor:
    """A character as one of its hands draws it, [SIDE, SIDE]."""
    alphabet, code = character
    return _from_font(code, hand) if alphabet in ALPHABETS else _from_strokes(alphabet, code, hand)


# ---------------------------------------------------------------------------------------------- fonts


@cache
def _path(font: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", FONTS[font])


@cache
def _charmap(font: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(_path(font)).get_charmap())


def _from_font(code: int, font: str) -> Tensor:
    """Centred from left to right, all on one baseline, so that o and O differ in size; shrunk if it does not fit."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    size = SIZE
    while True:
        face = ImageFont.truetype(str(_path(font)), size, layout_engine=ImageFont.Layout.BASIC)
        left, top, right, bottom = map(round, face.getbbox(chr(code), anchor="ls"))
        if right - left <= SIDE - 6 and bottom - top <= SIDE - 6:
            break
        size -= 2
    baseline = SIDE // 2 + size * 3 // 8
    baseline = min(max(baseline, 3 - top), SIDE - 3 - bottom)
    canvas = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(canvas).text((SIDE / 2 - (left + right) / 2, baseline), chr(code), 255, face, anchor="ls")
    return torch.from_numpy(np.asarray(canvas).copy()).float().div_(255)


# -------------------------------------------------------------------------------------------- strokes

POINTS = 48  # at which a stroke is drawn
PEN = 2.6  # half of a stroke's width in pixels


def _from_strokes(alphabet: str, number: int, writer: str) -> Tensor:
    """Two to four strokes, each a quadratic Bezier curve; a writer moves their points and leans on the pen.

    The character depends on its alphabet and number alone; the hand on the writer alone.
    """
    draw = generator(0, "invented", alphabet, number)
    count = 2 + int(torch.randint(3, (1,), generator=draw))
    grid = torch.randint(0, 5, (count, 3, 2), generator=draw).float() / 4  # ends and control point of each stroke
    joined = torch.rand(count, generator=draw) < 0.6  # a stroke that begins where the last one ended
    for stroke in range(1, count):
        if joined[stroke]:
            grid[stroke, 0] = grid[stroke - 1, 2]
    hand = generator(0, "writer", writer)
    lean = (torch.rand(1, generator=hand) - 0.5) * 0.3
    width = PEN * (0.75 + 0.6 * torch.rand(1, generator=hand))
    shaken = grid + 0.05 * torch.randn(grid.shape, generator=generator(0, "writer", writer, alphabet, number))
    points = shaken * (SIDE - 24) + 12
    points[..., 0] += lean * (SIDE / 2 - points[..., 1])
    return _ink(points.clamp(5, SIDE - 5), float(width))


def _ink(strokes: Tensor, half_width: float) -> Tensor:
    """Curves [strokes, 3, 2] in pixels, drawn with a round pen: one minus the distance beyond its edge, in [0, 1]."""
    along = torch.linspace(0, 1, POINTS)[None, :, None]
    first, control, last = (strokes[:, k, None] for k in range(3))
    path = ((1 - along) ** 2 * first + 2 * along * (1 - along) * control + along**2 * last).flatten(0, 1)
    axis = torch.arange(SIDE) + 0.5
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    distance = torch.cdist(pixels, path).min(1).values.view(SIDE, SIDE)
    return (half_width + 0.5 - distance).clamp(0, 1)
