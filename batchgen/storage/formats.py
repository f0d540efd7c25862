"""The formats of images: those that are checked (`images`), and others that are recognised by their structure alone.

An image of another format is no less paid for. It is kept where what came is what the format says it must be from
outside: its boxes fill the file, its end is there. Pages and texts pass none of that.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator


class ImageFormat(StrEnum):
    """The formats that are taken."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    GIF = "gif"
    AVIF = "avif"
    HEIC = "heic"
    JXL = "jxl"
    JP2 = "jp2"
    TIFF = "tiff"
    BMP = "bmp"

    @property
    def ext(self) -> str:
        """How its files end, with the dot."""
        return {"jpeg": ".jpg", "tiff": ".tif"}.get(self.value, f".{self.value}")

    @property
    def called(self) -> str:
        """How it is written in a sentence."""
        return {"webp": "WebP", "jxl": "JPEG XL", "jp2": "JPEG 2000"}.get(self.value, self.value.upper())


class StructureError(Exception):
    """What is wrong with the structure; becomes part of a sentence and does not leave this package."""


MOST_PARTS = 200_000  # chunks, segments or boxes: a PNG of 250 MB in parts of 4 KB has 64,000
Size = tuple[int, int]
NOT_KNOWN: Size = (0, 0)


def other(data: bytes) -> tuple[ImageFormat, Size] | None:
    """The format of an image that is neither PNG, JPEG nor WebP, with its size in pixels; None where it is no image.

    Raises StructureError where it begins as one and is not whole.
    """
    if data[:6] in {b"GIF87a", b"GIF89a"}:
        return ImageFormat.GIF, _gif(data)
    if data[:4] in {b"II*\0", b"MM\0*"}:
        return ImageFormat.TIFF, _tiff(data)
    if data[:2] == b"BM" and _little(data, 14) in _BMP_HEADERS:
        return ImageFormat.BMP, _bmp(data)
    if data[:2] == b"\xff\x0a":
        return ImageFormat.JXL, NOT_KNOWN
    kind = _boxed(data)
    return None if kind is None else (kind, _boxed_size(kind, data))


def _gif(data: bytes) -> Size:
    if not data.rstrip(b"\0").endswith(b"\x3b"):
        raise cut_short(data)
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


_BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})


def _bmp(data: bytes) -> Size:
    if _little(data, 2) > len(data) or len(data) < 54:
        raise cut_short(data)
    return _little(data, 18), abs(int.from_bytes(data[22:26], "little", signed=True))


def _tiff(data: bytes) -> Size:
    """The first directory: entries of 12 bytes, of which 256 and 257 are width and height."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    start = number(4, 4)
    if not 8 <= start <= len(data) - 6:
        raise cut_short(data)
    size = {}
    for entry in range(number(start, 2)):
        at = start + 2 + 12 * entry
        size[number(at, 2)] = number(at + 8, 2 if number(at + 2, 2) == 3 else 4)
    return size.get(256, 0), size.get(257, 0)


# --- boxes of length and type: ISO 14496-12, of which AVIF, HEIC, JPEG XL and JPEG 2000 are made --------------------

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})


def _boxed(data: bytes) -> ImageFormat | None:
    if data[:12] == b"\0\0\0\x0cJXL \r\n\x87\n":
        return ImageFormat.JXL
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":
        return ImageFormat.JP2
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
    if brands & _AVIF_BRANDS:
        return ImageFormat.AVIF
    return ImageFormat.HEIC if brands & _HEIC_BRANDS else None


def _boxed_size(kind: ImageFormat, data: bytes) -> Size:
    boxes = _boxes(data)
    needed = {ImageFormat.JXL: {b"jxlc", b"jxlp"}, ImageFormat.JP2: {b"jp2c"}}.get(kind, {b"mdat", b"meta"})
    if not boxes & needed or (b"mdat" in needed and b"meta" not in boxes):
        raise StructureError("it holds no pixels")
    if kind is ImageFormat.JP2:
        at = data.find(b"ihdr") + 4
        return int.from_bytes(data[at + 4 : at + 8], "big"), int.from_bytes(data[at : at + 4], "big")
    return NOT_KNOWN if kind is ImageFormat.JXL else max(islice(_extents(data), 64), default=NOT_KNOWN)


def _boxes(data: bytes) -> set[bytes]:
    """The types of the outer boxes, which must fill the file."""
    kinds: set[bytes] = set()
    at = 0
    for _ in range(MOST_PARTS):
        if at >= len(data):
            return kinds
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        elif size == 0:  # to the end of the file
            size = len(data) - at
        if size < 8 or at + size > len(data):
            raise cut_short(data)
        kinds.add(data[at + 4 : at + 8])
        at += size
    raise StructureError("it has too many parts")


def _extents(data: bytes) -> Iterator[Size]:
    """Width and height of each picture in the file: of tiles too, and the whole is the largest."""
    at = data.find(b"ispe")
    while at >= 0:
        yield int.from_bytes(data[at + 8 : at + 12], "big"), int.from_bytes(data[at + 12 : at + 16], "big")
        at = data.find(b"ispe", at + 4)


def _little(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def cut_short(data: bytes) -> StructureError:
    """The end of it has not come."""
    return StructureError(f"it is cut short at {len(data)} bytes")
