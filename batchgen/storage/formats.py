"""The formats of images: how each is recognised, and what its structure says of its size and its end.

PNG, JPEG and WebP are checked whole. Other formats are only checked from outside: the boxes fill the file, or its end
is there. The time is linear, and bounded by a number of parts that no honest image has.
"""

from __future__ import annotations

import re
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Literal
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class ImageFormat(StrEnum):
    """The formats that are kept."""

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
        """The extension of its files, with the dot."""
        return {"jpeg": ".jpg", "tiff": ".tif"}.get(self.value, f".{self.value}")

    @property
    def label(self) -> str:
        """Its name in a message."""
        return {"webp": "WebP", "jxl": "JPEG XL", "jp2": "JPEG 2000"}.get(self.value, self.value.upper())


class StructureError(Exception):
    """What is wrong with the structure; becomes part of a message and does not leave this package."""


class TooManyParts(Exception):
    """The image is not read to its end: that would take minutes."""


MAX_PARTS = 200_000  # chunks, segments or boxes: a PNG of 250 MB in parts of 4 KB has 64,000
Size = tuple[int, int]
NOT_KNOWN: Size = (0, 0)


def image_format(data: bytes) -> ImageFormat | None:
    """The format by the first bytes; None where it is no image."""
    return next((kind for kind, signature in _SIGNATURES if signature.match(data)), None) or _by_brand(data)


def read_structure(kind: ImageFormat, data: bytes) -> tuple[Size, int | None]:
    """The size in pixels, and how many bytes follow the end; None for a format that is not checked whole.

    Raises StructureError where it is not whole, and TooManyParts.
    """
    return _READERS[kind](data)


def cut_short(data: bytes) -> StructureError:
    """The error for an image whose end is missing."""
    return StructureError(f"it is cut short at {len(data)} bytes")


def _parts() -> Iterator[int]:
    """Count the parts of an image, up to a bound."""
    yield from range(MAX_PARTS)
    raise TooManyParts


def _big(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def _little(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


# --- PNG: chunks of length, type, data and CRC (W3C PNG, section 5) -----------------------------------------

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def _png(data: bytes) -> tuple[Size, int]:
    """Walk all chunks and compute each checksum, up to `IEND`; its size, and how many bytes follow."""
    view = memoryview(data)  # a chunk can be all of the file: it is not copied
    position, kinds = len(_PNG_MAGIC), set()
    for _ in _parts():
        if position + 12 > len(data):
            break
        after = position + 12 + _big(data, position)
        if after > len(data):
            break
        if crc32(view[position + 4 : after - 4]) != _big(data, after - 4):
            raise StructureError(f"the checksum of its part at byte {position} is wrong")
        kind = data[position + 4 : position + 8]
        kinds.add(kind)
        position = after
        if kind == b"IEND":
            return _png_size(data, pixels=b"IDAT" in kinds), len(data) - position
    raise cut_short(data)


def _png_size(data: bytes, *, pixels: bool) -> Size:
    if data[8:16] != b"\x00\x00\x00\x0dIHDR":
        raise StructureError("it does not begin with its size")
    if not pixels:
        raise StructureError("it holds no pixels")
    return _big(data, 16), _big(data, 20)


# --- JPEG: segments of marker and length, with scans of coded pixels between them (ITU T.81, annex B) -------

_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
# FF 00 and RSTn belong to the scan. One FF, not `+`: a literal first byte lets the search run ten times faster.
_AFTER_SCAN = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_SOS, _EOI, _APP2 = 0xDA, 0xD9, 0xE2
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those three are no frames


_MPF = b"MPF\0"  # of a file that holds more pictures behind the first (CIPA DC-007): a gain map, a preview


def _jpeg(data: bytes) -> tuple[Size, int]:
    """Walk segments and scans to the end marker; the size, and how many bytes follow.

    An end marker inside a segment, as of an EXIF thumbnail, is stepped over with it. Zero bytes after
    the end are taken: stores that pad to whole blocks add them, and every decoder ignores them. Pictures that the
    first one announces have to be whole too.
    """
    parts = _parts()
    size, end, has_more = _jpeg_picture(data, 0, parts)
    while has_more and data.startswith(b"\xff\xd8\xff", end):
        _, end, _ = _jpeg_picture(data, end, parts)
    return size, len(data[end:].rstrip(b"\0"))


def _jpeg_picture(data: bytes, start: int, parts: Iterator[int]) -> tuple[Size, int, bool]:
    """The size of the picture that begins here, where it ends, and whether it announces others."""
    position, size, in_scan, has_more = start + 2, None, False, False
    for _ in parts:
        marker, position = _jpeg_marker(data, position, in_scan=in_scan)
        if marker == _EOI:
            break
        if marker in _ALONE:
            continue
        if marker in _FRAMES:
            size = _jpeg_size(data, position)
        in_scan = in_scan or marker == _SOS
        has_more = has_more or (marker == _APP2 and data.startswith(_MPF, position + 2))
        position = _jpeg_after(data, position)
    if size is None or not in_scan:
        raise StructureError("it holds no pixels")
    return size, position, has_more


def _jpeg_marker(data: bytes, position: int, *, in_scan: bool) -> tuple[int, int]:
    """The next marker and the position after it."""
    found = (_AFTER_SCAN.search if in_scan else _MARKER.match)(data, position)
    if found is not None:
        return found[1][0], found.end()
    if in_scan or not data[position:].strip(b"\xff"):
        raise cut_short(data)
    raise StructureError(f"its structure is lost at byte {position}")


def _jpeg_after(data: bytes, position: int) -> int:
    """The position after a segment, whose length counts itself."""
    length = int.from_bytes(data[position : position + 2], "big")
    if position + max(length, 2) > len(data):
        raise cut_short(data)
    if length < 2:
        raise StructureError(f"its structure is lost at byte {position}")
    return position + length


def _jpeg_size(data: bytes, position: int) -> tuple[int, int]:
    height, width = data[position + 3 : position + 5], data[position + 5 : position + 7]
    return int.from_bytes(width, "big"), int.from_bytes(height, "big")


# --- WebP: RIFF chunks of type, length, data, padded to even (RFC 9649) -------------------------------------


def _webp(data: bytes) -> tuple[Size, int]:
    """Walk the chunks, which must fill the length that the file states of itself; what follows is counted."""
    end = 8 + _little(data, 4)
    end += end % 2
    if end > len(data):
        raise cut_short(data)
    position, size, has_pixels = 12, None, False
    for _ in _parts():
        if position + 8 > end:
            break
        kind = data[position : position + 4]
        length = _little(data, position + 4)
        has_pixels = has_pixels or kind in _WEBP_PIXELS
        if kind in _WEBP_SIZES:
            found = _WEBP_SIZES[kind](data[position + 8 : position + 18])
            size = size or found  # the canvas, where there is one, comes first
        position += 8 + length + length % 2
    if position != end:
        raise StructureError("its parts do not fill its stated length")
    if size is None or not has_pixels:
        raise StructureError("it holds no pixels")
    return size, len(data) - end


def _webp_lossy(head: bytes) -> tuple[int, int]:
    """VP8 key frame: 3 bytes, the start code, then 14 bits each of width and height (RFC 6386, 9.1)."""
    if head[3:6] != b"\x9d\x01\x2a":
        raise StructureError("its pixels do not begin as they must")
    return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF


def _webp_lossless(head: bytes) -> tuple[int, int]:
    """VP8L: a signature byte, then 14 bits each of width and height, less one."""
    if head[:1] != b"\x2f":
        raise StructureError("its pixels do not begin as they must")
    bits = int.from_bytes(head[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _webp_canvas(head: bytes) -> tuple[int, int]:
    """VP8X: 4 bytes of flags, then 24 bits each of width and height, less one."""
    return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1


_WEBP_SIZES = {b"VP8 ": _webp_lossy, b"VP8L": _webp_lossless, b"VP8X": _webp_canvas}
_WEBP_PIXELS = {b"VP8 ", b"VP8L", b"ANMF"}


# --- formats that are not checked whole ---------------------------------------------------------------------


def _gif(data: bytes) -> tuple[Size, None]:
    if not data.rstrip(b"\0").endswith(b"\x3b"):
        raise cut_short(data)
    return (int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")), None


def _bmp(data: bytes) -> tuple[Size, None]:
    if _little(data, 2) > len(data) or len(data) < 54:
        raise cut_short(data)
    return (_little(data, 18), abs(int.from_bytes(data[22:26], "little", signed=True))), None


def _tiff(data: bytes) -> tuple[Size, None]:
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
    return (size.get(256, 0), size.get(257, 0)), None


# --- boxes of length and type: ISO 14496-12, of which AVIF, HEIC, JPEG XL and JPEG 2000 are made --------------------

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})


def _by_brand(data: bytes) -> ImageFormat | None:
    if data[4:8] != b"ftyp":
        return None
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(_big(data, 0), 256), 4))}
    if brands & _AVIF_BRANDS:
        return ImageFormat.AVIF
    return ImageFormat.HEIC if brands & _HEIC_BRANDS else None


def _boxed(data: bytes) -> tuple[Size, None]:
    boxes = _boxes(data)
    if not {b"mdat", b"meta"} <= boxes:
        raise StructureError("it holds no pixels")
    return max(islice(_extents(data), 64), default=NOT_KNOWN), None


def _jp2(data: bytes) -> tuple[Size, None]:
    if b"jp2c" not in _boxes(data):
        raise StructureError("it holds no pixels")
    at = data.find(b"ihdr") + 4
    return (_big(data, at + 4), _big(data, at)), None


def _jxl(data: bytes) -> tuple[Size, None]:
    if data[:2] != b"\xff\x0a" and not _boxes(data) & {b"jxlc", b"jxlp"}:
        raise StructureError("it holds no pixels")
    return NOT_KNOWN, None


def _boxes(data: bytes) -> set[bytes]:
    """The types of the outer boxes, which must fill the file."""
    kinds: set[bytes] = set()
    at = 0
    for _ in _parts():
        if at >= len(data):
            break
        size = _big(data, at)
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        elif size == 0:  # to the end of the file
            size = len(data) - at
        if size < 8 or at + size > len(data):
            raise cut_short(data)
        kinds.add(data[at + 4 : at + 8])
        at += size
    return kinds


def _extents(data: bytes) -> Iterator[Size]:
    """Width and height of each picture in the file: of tiles too, and the whole is the largest."""
    at = data.find(b"ispe")
    while at >= 0:
        yield _big(data, at + 8), _big(data, at + 12)
        at = data.find(b"ispe", at + 4)


# --- the table ----------------------------------------------------------------------------------------------

_FORMATS: tuple[tuple[ImageFormat, bytes, Callable[[bytes], tuple[Size, int | None]]], ...] = (
    (ImageFormat.PNG, rb"\x89PNG\r\n\x1a\n", _png),
    (ImageFormat.JPEG, rb"\xff\xd8\xff", _jpeg),
    (ImageFormat.WEBP, rb"RIFF.{4}WEBP", _webp),
    (ImageFormat.GIF, rb"GIF8[79]a", _gif),
    (ImageFormat.TIFF, rb"II\*\0|MM\0\*", _tiff),
    (ImageFormat.BMP, rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", _bmp),  # the lengths of its headers
    (ImageFormat.JXL, rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", _jxl),
    (ImageFormat.JP2, rb"\0\0\0\x0cjP  \r\n\x87\n", _jp2),
)
_SIGNATURES = [(kind, re.compile(signature, re.DOTALL)) for kind, signature, _ in _FORMATS]
_READERS = {kind: read for kind, _, read in _FORMATS} | dict.fromkeys((ImageFormat.AVIF, ImageFormat.HEIC), _boxed)
