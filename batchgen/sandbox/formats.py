"""The formats of the sandbox's images: how each is encoded, and how it takes bytes that nobody sees."""

from __future__ import annotations

import zlib
from enum import StrEnum
from functools import lru_cache
from io import BytesIO
from random import Random
from struct import pack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

_MOST_IN_SEGMENT = 0xFFFF - 2


class Format(StrEnum):
    """What images are served as; the value is the option's."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def ext(self) -> str:
        """How a link ends, with the dot."""
        return ".jpg" if self is Format.JPEG else f".{self.value}"

    @property
    def headers(self) -> Mapping[str, str]:
        """What an answer says of it."""
        return {"Content-Type": f"image/{self.value}"}


_OPTIONS: dict[Format, dict[str, int]] = {
    Format.PNG: {"compress_level": 1},
    Format.JPEG: {"quality": 88},
    Format.WEBP: {"quality": 80, "method": 0},
}


def encoded(picture: Image.Image, kind: Format) -> bytes:
    """A picture as a file."""
    file = BytesIO()
    known = picture if kind is Format.PNG else picture.convert("RGB")
    known.save(file, kind.value, **_OPTIONS[kind])
    return file.getvalue()


def numbered(content: bytes, kind: Format, name: str) -> bytes:
    """The same image with a comment of its own, so that no two are the same file."""
    return _with(content, kind, _part(kind, b"tEXt", b"Comment\0" + name.encode()))


def padded(content: bytes, kind: Format, size: int) -> bytes:
    """The same image in a file of at least `size` bytes, and hardly more."""
    missing = size - len(content)
    return content if missing <= 0 else _with(content, kind, _padding(kind, missing))


@lru_cache(maxsize=16)
def _padding(kind: Format, size: int) -> bytes:
    """A part of at least this size, of noise: nothing on the way can make it small."""
    noise = Random(0).randbytes(size)
    if kind is not Format.JPEG:
        frame = len(_part(kind, b"paDd", b""))
        return _part(kind, b"paDd", noise[frame:])
    starts = range(0, size, _MOST_IN_SEGMENT)
    return b"".join(_part(kind, b"", noise[at : at + _MOST_IN_SEGMENT]) for at in starts)


def _part(kind: Format, name: bytes, data: bytes) -> bytes:
    """A part that decoders step over: a PNG's ancillary chunk, a JPEG's comment, an unknown chunk of a WebP."""
    if kind is Format.PNG:
        return pack(">I", len(data)) + name + data + pack(">I", zlib.crc32(name + data))
    if kind is Format.JPEG:
        return b"\xff\xfe" + pack(">H", len(data) + 2) + data
    return name + pack("<I", len(data)) + data + bytes(len(data) % 2)


def _with(content: bytes, kind: Format, part: bytes) -> bytes:
    if kind is Format.PNG:  # after the header, whose length is fixed
        return content[:33] + part + content[33:]
    if kind is Format.JPEG:  # after the first marker
        return content[:2] + part + content[2:]
    return content[:4] + pack("<I", len(content) - 8 + len(part)) + content[8:] + part
