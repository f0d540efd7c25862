"""Lettering: a text of any length and script, set into a box as large as it fits.

Characters that the font cannot draw
become small blocks, so that a text in another script still shows its rhythm and nothing ever fails.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import ImageFont

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from PIL import ImageDraw

_MEASURED_AT = 20  # pixels
_LEADING = 1.28  # line height, in sizes
_BLOCK = "\ufffc"  # stands for one character that the font does not have
_BLOCK_WIDTH = 0.8  # in sizes
_NO_CHARACTER = "\U0010ffff"
# What has no decomposition of its own; the font is small.
_PLAIN = {
    "–": "-",
    "—": "-",
    "−": "-",
    "×": "x",
    "•": "·",
    "→": ">",
    "€": "EUR",
    "ß": "ss",
    "æ": "ae",
    "Æ": "AE",
    "œ": "oe",
    "ł": "l",
    "Ł": "L",
    "ø": "o",
    "Ø": "O",
    "đ": "d",
    "Đ": "D",
    "ð": "d",
    "þ": "th",
    "ı": "i",
}
_WORD = re.compile(rf"{_BLOCK}|[^\s{_BLOCK}]+")


@lru_cache(maxsize=128)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow, so that a picture is the same on every machine."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def _can_draw(character: str) -> bool:
    if character.isascii():
        return character.isprintable()
    if "\ud800" <= character <= "\udfff":
        return False
    small = font(20)
    return bytes(small.getmask(character)) != bytes(small.getmask(_NO_CHARACTER))


def drawable(text: str) -> str:
    """The text with a block for what cannot be drawn, and without marks that have no width."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


@lru_cache(maxsize=4096)
def _shown(character: str) -> str:
    """The character, or what stands for it: its letters without accents, else a block."""
    if character.isspace() or character == _BLOCK:
        return " "
    if _can_draw(character):
        return character
    plain = _PLAIN.get(character) or unicodedata.normalize("NFKD", character)
    if plain != character and (letters := "".join(filter(_can_draw, plain))):
        return letters
    return "" if unicodedata.category(character) in {"Mn", "Me", "Cf", "Cc"} else _BLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Something that is not broken: a word, or a block. `width` is in sizes."""

    text: str
    width: float
    glued: bool  # no space before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A text as it will be drawn: its size in pixels and its lines."""

    size: int
    lines: tuple[tuple[Piece, ...], ...]

    @property
    def height(self) -> int:
        """In pixels."""
        return _height(len(self.lines), self.size)


@lru_cache(maxsize=16384)
def _width(word: str, size: int = _MEASURED_AT) -> float:
    """In sizes. Letters do not scale exactly: hinting makes small ones wider."""
    return _BLOCK_WIDTH if word == _BLOCK else font(size).getlength(word) / size


def fit(text: str, width: int, height: int, *, largest: int, smallest: int) -> Setting:
    """The text in the largest size at which it fits; at the smallest it is cut with an ellipsis.

    The size is searched by arithmetic on widths measured once; only the last steps measure again.
    """
    shown = drawable(text)
    rough = _pieces(shown, _MEASURED_AT)
    size = largest
    while size > smallest and _height(len(list(_lines(rough, width / size, _MEASURED_AT))), size) > height:
        size = max(smallest, min(size - 1, round(size * 0.93)))
    while True:
        lines = tuple(_lines(_pieces(shown, size), width / size, size))
        if size <= smallest or _height(len(lines), size) <= height:
            return Setting(size=size, lines=_cut(lines, max(1, int(height / (size * _LEADING))), size))
        size -= 1


def _height(lines: int, size: int) -> int:
    return round(lines * size * _LEADING)


def _cut(lines: tuple[tuple[Piece, ...], ...], most: int, size: int) -> tuple[tuple[Piece, ...], ...]:
    if len(lines) <= most:
        return lines
    end = Piece(text="…", width=_width("…", size), glued=True)
    return (*lines[: most - 1], (*lines[most - 1][:-1], end))


def _pieces(text: str, size: int) -> list[Piece]:
    pieces = []
    end = -1
    for match in _WORD.finditer(text):
        word = match.group()
        pieces.append(Piece(text=word, width=_width(word, size), glued=match.start() == end))
        end = match.end()
    return pieces


def _lines(pieces: Iterable[Piece], room: float, size: int) -> Iterator[tuple[Piece, ...]]:
    """Fill lines of `room` (in sizes) from left to right; a word wider than a line is broken."""
    space = _width(" ", size)
    line: list[Piece] = []
    used = 0.0
    for whole in pieces:
        for piece in _broken(whole, room, size):
            gap = 0.0 if piece.glued or not line else space
            if line and used + gap + piece.width > room:
                yield tuple(line)
                line, used, gap = [], 0.0, 0.0
            line.append(piece)
            used += gap + piece.width
    if line:
        yield tuple(line)


def _broken(piece: Piece, room: float, size: int) -> Iterator[Piece]:
    if piece.width <= room:
        yield piece
        return
    start, used = 0, 0.0
    for place, character in enumerate(piece.text):
        wide = _width(character, size)
        if used + wide > room and place > start:
            yield Piece(text=piece.text[start:place], width=used, glued=piece.glued or start > 0)
            start, used = place, 0.0
        used += wide
    yield Piece(text=piece.text[start:], width=used, glued=piece.glued or start > 0)


def draw(canvas: ImageDraw.ImageDraw, place: tuple[int, int], setting: Setting, tone: int, faint: int) -> None:
    """Draw the lines from this corner down; blocks are drawn in the `faint` tone."""
    x, y = place
    for number, line in enumerate(setting.lines):
        _draw_line(canvas, x, round(y + number * setting.size * _LEADING), setting.size, line, (tone, faint))


def _draw_line(
    canvas: ImageDraw.ImageDraw, x: int, y: int, size: int, line: tuple[Piece, ...], tones: tuple[int, int]
) -> None:
    """Words that stand side by side are drawn in one call: a call costs more than a letter."""
    at = float(x)
    for text in _runs(line):
        if text == _BLOCK:
            box = (at + size * 0.07, y + size * 0.28, at + size * (_BLOCK_WIDTH - 0.07), y + size * 0.94)
            canvas.rounded_rectangle(box, radius=size * 0.14, fill=tones[1])
            at += size * _BLOCK_WIDTH
        else:
            canvas.text((at, y), text, font=font(size), fill=tones[0])
            at += line_width(text, size)


def _runs(line: tuple[Piece, ...]) -> Iterator[str]:
    """The line as texts to draw from left to right: words joined by spaces, and single blocks."""
    run = ""
    for number, piece in enumerate(line):
        run += "" if piece.glued or not number else " "
        if piece.text == _BLOCK:
            if run:
                yield run
            yield _BLOCK
            run = ""
        else:
            run += piece.text
    if run:
        yield run


def line_width(text: str, size: int) -> float:
    """How wide one line of plain words is, in pixels."""
    return font(size).getlength(text)
