"""The formats of the sandbox's images: how each is encoded, and how to add bytes that decoders skip."""

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

_MAX_SEGMENT_BYTES = 0xFFFF - 2


class Format(StrEnum):
    """The format of the images; the value of `--image-format`."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def ext(self) -> str:
        """The extension of a link, with the dot."""
        return ".jpg" if self is Format.JPEG else f".{self.value}"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Content-Type": f"image/{self.value}"}


_OPTIONS: dict[Format, dict[str, int]] = {
    Format.PNG: {"compress_level": 3},
    Format.JPEG: {"quality": 88},
    Format.WEBP: {"quality": 80, "method": 0},
}


def encode(image: Image.Image, kind: Format, **options: int) -> bytes:
    """The image as a file; `options` are Pillow's."""
    file = BytesIO()
    (image if kind is Format.PNG else image.convert("RGB")).save(file, kind.value, **(_OPTIONS[kind] | options))
    return file.getvalue()


def with_comment(content: bytes, kind: Format, comment: str) -> bytes:
    """The same image with this comment in its file."""
    return _insert(content, kind, _segment(kind, b"tEXt", b"Comment\0" + comment.encode()))


def padded(content: bytes, kind: Format, size: int) -> bytes:
    """The same image in a file of at least `size` bytes, and at most a few more."""
    missing = size - len(content)
    return content if missing <= 0 else _insert(content, kind, _padding(kind, missing))


@lru_cache(maxsize=16)
def _padding(kind: Format, size: int) -> bytes:
    """Segments of at least this size in all, of noise, which no compression makes smaller."""
    noise = Random(0).randbytes(size)
    if kind is not Format.JPEG:
        frame = len(_segment(kind, b"paDd", b""))
        return _segment(kind, b"paDd", noise[frame:])
    starts = range(0, size, _MAX_SEGMENT_BYTES)
    return b"".join(_segment(kind, b"", noise[at : at + _MAX_SEGMENT_BYTES]) for at in starts)


def _segment(kind: Format, name: bytes, data: bytes) -> bytes:
    """What decoders skip: an ancillary chunk of a PNG, a comment of a JPEG, an unknown chunk of a WebP."""
    if kind is Format.PNG:
        return pack(">I", len(data)) + name + data + pack(">I", zlib.crc32(name + data))
    if kind is Format.JPEG:
        return b"\xff\xfe" + pack(">H", len(data) + 2) + data
    return name + pack("<I", len(data)) + data + bytes(len(data) % 2)


def _insert(content: bytes, kind: Format, segment: bytes) -> bytes:
    if kind is Format.PNG:  # after the header, whose length is fixed
        return content[:33] + segment + content[33:]
    if kind is Format.JPEG:  # after the first marker
        return content[:2] + segment + content[2:]
    return content[:4] + pack("<I", len(content) - 8 + len(segment)) + content[8:] + segment
