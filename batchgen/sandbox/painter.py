"""Paints a placeholder image: the prompt in large letters on a landscape in colours that follow from it.

The same task paints the same bytes, so a sandbox that was killed serves the same files again. Every image says SANDBOX,
so that nobody takes it for a model's work. Pillow's built-in font knows Latin letters; a character of another script
shows as an empty box.
"""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
from colorsys import hls_to_rgb
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from batchgen.sandbox.formats import Format, encode

if TYPE_CHECKING:
    from batchgen.sandbox.tasks import CreateRequest

# Width and height of 1k images; the API's documents name no sizes. 2k is twice that.
SIZES = {
    "16:9": (1360, 768),
    "9:16": (768, 1360),
    "1:1": (1024, 1024),
    "4:3": (1184, 888),
    "3:4": (888, 1184),
    "3:2": (1248, 832),
    "2:3": (832, 1248),
    "21:9": (1568, 672),
}
_DARK, _MUTED, _LIGHT = 0, 220, 255  # grey levels, which the palette turns into colours
_LANDSCAPE_SIDE = 1600  # pixels of the longer side; scaled to the image, which smooths its edges
_LINE_HEIGHT = 1.3  # font sizes
_INVISIBLE = {"Mn", "Me", "Cf", "Cc"}  # Unicode categories: combining marks, format and control characters
_SPELT_OUT = str.maketrans(
    {"–": "-", "—": "-", "×": "x", "→": ">", "€": "EUR", "ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe"}
    | {"ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "ð": "d", "þ": "th", "ı": "i"}
)


def size_of(request: CreateRequest) -> tuple[int, int]:
    if request.size:
        width, height = map(int, request.size.split("x"))
        return width, height
    if request.aspect_ratio not in SIZES:  # of a declared API
        return _size_of_ratio(request.aspect_ratio)
    width, height = SIZES[request.aspect_ratio]
    scale = 2 if request.resolution == "2k" else 1
    return width * scale, height * scale


def _size_of_ratio(ratio: str) -> tuple[int, int]:
    """About a megapixel in this ratio; a square for what is none."""
    found = re.fullmatch(r"([1-9]\d?):([1-9]\d?)", ratio)
    factor = int(found[1]) / int(found[2]) if found else 1.0
    return round(1024 * math.sqrt(factor)), round(1024 / math.sqrt(factor))


def paint(
    request: CreateRequest, task_id: str, index: int, *, watermark: bool = False, kind: Format = Format.PNG
) -> bytes:
    """One image of a task as a file. Takes 15 to 60 ms."""
    image = _landscape(size_of(request), _random(request.prompt, task_id, index))
    draw = ImageDraw.Draw(image)
    if watermark:
        _draw_watermark(draw, image.size)
    _draw_caption(draw, image.size, request, index)
    image.putpalette(_palette(_random(request.prompt, "colours", index)))
    return encode(image, kind)


@lru_cache(maxsize=32)
def blank(size: tuple[int, int], kind: Format = Format.PNG) -> bytes:
    """A white image of this size in a few bytes: for benchmarks."""
    return encode(Image.new("1" if kind is Format.PNG else "L", size, "white"), kind, compress_level=9)


def _random(prompt: str, topic: str, index: int) -> Random:
    """A generator seeded by its arguments; a prompt may hold what UTF-8 cannot."""
    return Random(f"{prompt}/{topic}/{index}".encode("utf-8", "surrogatepass"))


def _landscape(size: tuple[int, int], rng: Random) -> Image.Image:
    """The sun over ranges of hills, in grey levels."""
    scale = _LANDSCAPE_SIDE / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    image = Image.linear_gradient("L").point(lambda level: 140 + level // 3).resize((width, height))
    draw = ImageDraw.Draw(image)
    sun = (width * rng.uniform(0.2, 0.8), height * rng.uniform(0.2, 0.36))
    for radius, level in ((rng.uniform(0.16, 0.24), 212), (rng.uniform(0.1, 0.15), 244)):
        reach = min(width, height) * radius
        draw.ellipse((sun[0] - reach, sun[1] - reach, sun[0] + reach, sun[1] + reach), fill=level)
    for hills in range(5):
        waves = [(rng.uniform(0.6, 1.4) * 2**k, rng.uniform(0, math.tau), 0.55**k) for k in range(3)]
        top, swing = height * (0.4 + 0.12 * hills), min(width, height) * (0.12 - 0.012 * hills)
        ridge = [
            (x, top - swing * sum(part * math.sin(math.tau * pace * x / width + phase) for pace, phase, part in waves))
            for x in range(0, width + 20, 20)
        ]
        draw.polygon([*ridge, (width, height), (0, height)], fill=150 - 28 * hills)
    return image.resize(size, Image.Resampling.BILINEAR)


def _palette(rng: Random) -> bytes:
    """256 colours from nearly black through two hues to nearly white."""
    hue, shift, saturation = rng.random(), rng.choice((-0.28, -0.16, 0.16, 0.28, 0.45)), rng.uniform(0.5, 0.8)
    colours = bytearray()
    for level in range(256):
        part = level / 255
        lightness = 0.05 + 0.93 * part**1.15
        colours += bytes(round(255 * c) for c in hls_to_rgb((hue + shift * part) % 1, lightness, saturation))
    return bytes(colours)


def _draw_caption(draw: ImageDraw.ImageDraw, size: tuple[int, int], request: CreateRequest, index: int) -> None:
    """The prompt and the parameters on a dark card at the bottom; a badge at the top."""
    width, height = size
    unit = max(1, min(size) // 48)
    margin, small = 2 * unit, max(1, round(1.8 * unit))
    inner = max(1, width - 8 * unit)
    share = min(1.0, 0.36 + len(request.prompt) / 2200)  # a short prompt leaves the landscape visible
    prompt = fit(request.prompt, inner, max(1, round((height - 17 * unit) * share)), largest=6 * unit, smallest=unit)
    parameters = fit(_parameters(request, index), inner, 4 * unit, largest=small, smallest=unit)
    top = height - margin - 4 * unit - prompt.height - parameters.height
    draw.rounded_rectangle((margin, top, max(margin, width - margin), height - margin), unit, fill=_DARK)
    prompt.draw(draw, (4 * unit, top + round(1.2 * unit)), _LIGHT)
    parameters.draw(draw, (4 * unit, top + round(2.6 * unit) + prompt.height), _MUTED)
    plate = (margin, margin, margin + 2 * unit + font(small).getlength("SANDBOX"), margin + round(3.4 * unit))
    draw.rounded_rectangle(plate, round(0.6 * unit), fill=_LIGHT)
    draw.text((margin + unit, margin + round(1.7 * unit)), "SANDBOX", _DARK, font(small), anchor="lm")


def _parameters(request: CreateRequest, index: int) -> str:
    shape = [request.size] if request.size else [request.aspect_ratio, request.resolution]
    reference = [f"after a reference ({request.reference})"] if request.reference else []
    return "  ·  ".join([request.model, *shape, f"image {index + 1} of {request.n}", *reference])


def _draw_watermark(draw: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
    step = max(1, min(size) // 6)
    for row, y in enumerate(range(step, size[1], step)):
        for x in range(-step * (row % 2), size[0], 2 * step):
            draw.text((x, y), "watermark", _LIGHT, font(max(1, step // 4)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedText:
    """A text in the size and the lines in which it fits its box."""

    size: int  # of the font, in pixels
    lines: tuple[str, ...]

    @property
    def height(self) -> int:
        return round(len(self.lines) * self.size * _LINE_HEIGHT)

    def draw(self, draw: ImageDraw.ImageDraw, place: tuple[int, int], level: int) -> None:
        """Draw the lines from this corner down."""
        for number, line in enumerate(self.lines):
            y = place[1] + round(number * self.size * _LINE_HEIGHT)
            draw.text((place[0], y), line, level, font(self.size))


def fit(text: str, width: int, height: int, *, largest: int, smallest: int) -> FittedText:
    """The text in the largest size at which it fits; at the smallest it is cut with an ellipsis."""
    shown = drawable(text)
    area = max(1.0, font(100).getlength(shown) * 100 * _LINE_HEIGHT)  # of one long line in size 100
    size = max(smallest, min(largest, int(100 * math.sqrt(width * height / area))))
    while True:
        lines = _wrap(shown, size, width)
        rows = max(1, int(height / (size * _LINE_HEIGHT)))
        if len(lines) <= rows:
            return FittedText(size=size, lines=tuple(lines))
        if size <= smallest:
            return FittedText(size=size, lines=(*lines[: rows - 1], f"{lines[rows - 1][:-1]}…"))
        size = max(smallest, min(size - 1, int(size * 0.96)))


def _wrap(text: str, size: int, width: int) -> list[str]:
    """Lines no wider than `width` pixels, unless a single character is."""
    columns = max(1, int(len(text) * width / max(1.0, font(size).getlength(text))))
    while True:
        lines = textwrap.wrap(text, columns)
        widest = max(map(font(size).getlength, lines), default=0.0)
        if widest <= width or columns == 1:
            return lines
        columns = max(1, min(columns - 1, int(columns * width / widest)))


def drawable(text: str) -> str:
    """The text without accents and invisible characters, which the font lacks."""
    plain = unicodedata.normalize("NFKD", " ".join(text.split()).translate(_SPELT_OUT))
    kept = "".join(character for character in plain if unicodedata.category(character) not in _INVISIBLE)
    return kept.encode("utf-8", "replace").decode()


@lru_cache(maxsize=128)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow, so that an image is the same on every machine."""
    return ImageFont.load_default(size)
