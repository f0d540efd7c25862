"""Paints what a task asked for, as well as paper can: the prompt's words over a scene in its own colours.

A picture follows from the order and the task's id alone, byte for byte, so that a sandbox that was killed
serves the same files again. It is marked SANDBOX and cannot be taken for a model's work.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from random import Random
from threading import Lock
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from batchgen.sandbox import colours, lettering, scenery
from batchgen.sandbox.formats import Format, encoded, numbered, padded

if TYPE_CHECKING:
    from batchgen.sandbox.rules import Order

# What 1k means here; the API's documents name no sizes. 2k is twice that.
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
_KEPT_BYTES = 32 * 1024 * 1024
_INK, _FAINT, _CARD, _CARD_EDGE = 252, 150, 14, 46  # tones
_REFERENCES = {"subject": "after a subject", "face": "after a face", "image": "after an image"}


def size_of(order: Order) -> tuple[int, int]:
    """Width and height in pixels."""
    if order.size:
        width, height = map(int, order.size.split("x"))
        return width, height
    width, height = SIZES[order.aspect_ratio]
    scale = 2 if order.resolution == "2k" else 1
    return width * scale, height * scale


def paint(order: Order, task_id: str, index: int, *, watermark: bool = False, kind: Format = Format.PNG) -> bytes:
    """One image of a task."""
    size = size_of(order)
    small = _painted_size(order, size)
    picture = scenery.paint(small, _chance(order.prompt, task_id, index))
    if size != small:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    _write(picture, order, index)
    if watermark:
        _mark(picture)
    picture.putpalette(colours.ramp(_chance(order.prompt, "colours", index)))
    return encoded(picture, kind)


def _painted_size(order: Order, size: tuple[int, int]) -> tuple[int, int]:
    """The size in which the scene is painted before it is enlarged: large ones would take seconds."""
    if not order.size:
        return SIZES[order.aspect_ratio]
    shrink = max(1, max(size) // 1200)
    return max(1, size[0] // shrink), max(1, size[1] // shrink)


def _chance(prompt: str, about: str, index: int) -> Random:
    """Chance that follows from its arguments; a prompt may hold what UTF-8 cannot."""
    return Random(f"{prompt}/{about}/{index}".encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measure:
    """Lengths in pixels that follow from the picture's size."""

    width: int
    height: int

    @property
    def unit(self) -> int:
        return round(min(self.width, self.height) / 48)

    @property
    def margin(self) -> int:
        return self.unit * 2

    @property
    def small(self) -> int:
        return round(self.unit * 1.5)

    @property
    def text_width(self) -> int:
        return self.width - 2 * self.margin - 4 * self.unit


def _write(picture: Image.Image, order: Order, index: int) -> None:
    """The card with the prompt, what was asked for below it, and the badge above."""
    measure = _Measure(width=picture.width, height=picture.height)
    unit = measure.unit
    canvas = ImageDraw.Draw(picture)
    room = measure.height - 2 * measure.margin - 11 * unit
    text = lettering.fit(
        order.prompt, measure.text_width, _share(len(order.prompt), room), largest=unit * 5, smallest=unit
    )
    notes = lettering.fit(_notes(order, index), measure.text_width, unit * 4, largest=measure.small, smallest=unit)
    bottom = measure.height - measure.margin
    top = bottom - text.height - notes.height - 5 * unit
    card = (measure.margin, top, measure.width - measure.margin, bottom)
    canvas.rounded_rectangle(card, radius=unit, fill=_CARD)
    left = measure.margin + 2 * unit
    lettering.draw(canvas, (left, top + 2 * unit - unit // 3), text, _INK, _FAINT)
    rule = top + 3 * unit + text.height
    canvas.line((left, rule, measure.width - left, rule), fill=_CARD_EDGE, width=max(1, unit // 12))
    lettering.draw(canvas, (left, rule + unit // 2), notes, 190, _FAINT)
    _badge(canvas, measure)


def _share(characters: int, room: int) -> int:
    """How much of the height the words may take: a short prompt leaves the scene its place."""
    return round(room * min(1.0, 0.34 + characters / 2200))


def _notes(order: Order, index: int) -> str:
    shape = [order.size] if order.size else [order.aspect_ratio, order.resolution]
    parts = [order.model, *shape, f"image {index + 1} of {order.n}"]
    if order.reference:
        parts.append(_REFERENCES[order.reference])
    return "   ·   ".join(parts).replace(" ", "\u00a0").replace("\u00a0·\u00a0\u00a0\u00a0", "\u00a0· ")


def _badge(canvas: ImageDraw.ImageDraw, measure: _Measure) -> None:
    """The word SANDBOX on a plate of its own, in the upper left corner."""
    unit, size = measure.unit, round(measure.unit * 1.5)
    width = lettering.line_width("SANDBOX", size)
    left = top = measure.margin
    box = (left, top, left + width + 2 * unit, top + size * 1.2 + unit)
    canvas.rounded_rectangle(box, radius=unit * 0.6, fill=_INK)
    canvas.text((left + unit, top + unit * 0.5), "SANDBOX", font=lettering.font(size), fill=_CARD)


def _mark(picture: Image.Image) -> None:
    """A watermark across the scene: the same picture, but nobody would print it."""
    size = picture.width // 12
    stamp = Image.new("L", (round(lettering.line_width("sandbox", size) * 1.2), size * 2), 0)
    ImageDraw.Draw(stamp).text((size // 4, size // 4), "sandbox", font=lettering.font(size), fill=150)
    stamp = stamp.rotate(20, Image.Resampling.BILINEAR, expand=True)
    for row in range(0, picture.height, stamp.height):
        for column in range(0, picture.width, stamp.width):
            picture.paste(_INK, (column, row), stamp)


@lru_cache(maxsize=32)
def plain(size: tuple[int, int], kind: Format = Format.PNG) -> bytes:
    """A flat image of this size in a few bytes: for benchmarks that are about something else."""
    if kind is not Format.PNG:
        return encoded(Image.new("L", size, 255), kind)
    file = BytesIO()
    Image.new("1", size, 1).save(file, "PNG", compress_level=9)
    return file.getvalue()


def damaged(content: bytes) -> bytes:
    """The same length, with bytes inside that are not what they were."""
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 0x55 for byte in content[middle : middle + 64]) + content[middle + 64 :]


class Gallery:
    """Pictures that were painted lately, so that fetching one again does not paint it again."""

    def __init__(self, *, painted: bool, kind: Format = Format.PNG, size: int = 0) -> None:
        self._painted = painted
        self._kind = kind
        self._size = size  # bytes that a file has at least
        self._kept: OrderedDict[tuple[str, int, bool], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()  # several threads paint

    def ready(self, order: Order, task_id: str, index: int, *, watermark: bool) -> bytes | None:
        """What can be given without painting."""
        if not self._painted:
            content = numbered(plain(size_of(order), self._kind), self._kind, f"{task_id}/{index}/{watermark}")
            return padded(content, self._kind, self._size)
        with self._lock:
            return self._kept.get((task_id, index, watermark))

    def make(self, order: Order, task_id: str, index: int, *, watermark: bool) -> bytes:
        """Paint and keep. Takes 15 to 60 ms: to be called in a thread."""
        content = paint(order, task_id, index, watermark=watermark, kind=self._kind)
        content = padded(content, self._kind, self._size)
        self._keep((task_id, index, watermark), content)
        return content

    def _keep(self, name: tuple[str, int, bool], content: bytes) -> None:
        """Keep a picture; the one that was painted first makes room."""
        with self._lock:
            if name in self._kept:
                return  # two callers wanted it at once: it is the same
            self._kept[name] = content
            self._bytes += len(content)
            while self._bytes > _KEPT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
