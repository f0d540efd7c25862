"""What a downloaded body is: its format by content, its size, and whether it is whole.

The check is of structure, without decoding: it is fifty times faster than decoding and finds what a
decoder overlooks, as a JPEG that was cut short. Damage inside the pixels of a JPEG or WebP is seen by
nobody without the server's digest; a PNG brings its own checksums, and they are computed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from zlib import crc32

from batchgen.errors import ImageBroken

if TYPE_CHECKING:
    from pathlib import Path


class ImageFormat(StrEnum):
    """The formats that are taken."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


_EXTS = {ImageFormat.PNG: ".png", ImageFormat.JPEG: ".jpg", ImageFormat.WEBP: ".webp"}
_TITLES = {ImageFormat.PNG: "PNG", ImageFormat.JPEG: "JPEG", ImageFormat.WEBP: "WebP"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """A whole image; width and height in pixels, as stored (an EXIF rotation is not applied)."""

    format: ImageFormat
    width: int
    height: int

    @property
    def ext(self) -> str:
        """How its file ends, with the dot."""
        return _EXTS[self.format]


class _StructureError(Exception):
    """What is wrong with the structure; becomes part of a sentence and does not leave this module."""


def inspect(data: bytes) -> ImageInfo:
    """What image this is. Raises `ImageBroken` when it is none, or not a whole one."""
    kind = _format(data)
    if kind is None:
        raise ImageBroken(_refusal(data))
    try:
        width, height = _READERS[kind](data)
    except _StructureError as error:
        raise ImageBroken(f"The {_TITLES[kind]} image is broken: {error}.") from None
    if not (width and height):
        raise ImageBroken(f"The {_TITLES[kind]} image is broken: its size is {width} × {height} pixels.")
    return ImageInfo(format=kind, width=width, height=height)


def inspect_file(path: Path) -> ImageInfo:
    """What image a file holds. Raises `ImageBroken`, and `OSError` where the file cannot be read.

    Read whole, not mapped: a map of a file that someone shortens meanwhile kills the process.
    """
    return inspect(path.read_bytes())


def _format(data: bytes) -> ImageFormat | None:
    if data.startswith(_PNG_MAGIC):
        return ImageFormat.PNG
    if data.startswith(b"\xff\xd8\xff"):
        return ImageFormat.JPEG
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return ImageFormat.WEBP
    return None


# --- PNG: chunks of length, type, data and CRC (W3C PNG, section 5) -----------------------------------------

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def _png(data: bytes) -> tuple[int, int]:
    """Walk all chunks and compute each checksum; `IEND` must be the last thing."""
    view = memoryview(data)  # a chunk can be all of the file: it is not copied
    position, kinds = len(_PNG_MAGIC), set()
    while position + 12 <= len(data):
        after = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if after > len(data):
            break
        if crc32(view[position + 4 : after - 4]) != int.from_bytes(view[after - 4 : after], "big"):
            raise _StructureError(f"the checksum of its part at byte {position} is wrong")
        kind = data[position + 4 : position + 8]
        kinds.add(kind)
        position = after
        if kind == b"IEND":
            return _png_size(data, pixels=b"IDAT" in kinds, end=position)
    raise _cut_short(data)


def _png_size(data: bytes, *, pixels: bool, end: int) -> tuple[int, int]:
    if data[8:16] != b"\x00\x00\x00\x0dIHDR":
        raise _StructureError("it does not begin with its size")
    if not pixels:
        raise _StructureError("it holds no pixels")
    if extra := len(data) - end:
        raise _StructureError(f"{extra} bytes follow its end")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


# --- JPEG: segments of marker and length, with scans of coded pixels between them (ITU T.81, annex B) -------

_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
# FF 00 and RSTn belong to the scan. One FF, not `+`: a literal first byte lets the search run ten times faster.
_AFTER_SCAN = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_SOS, _EOI = 0xDA, 0xD9
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those three are no frames


def _jpeg(data: bytes) -> tuple[int, int]:
    """Walk segments and scans to the end marker.

    An end marker inside a segment, as of an EXIF thumbnail, is stepped over with it. Zero bytes after
    the end are taken: stores that pad to whole blocks add them, and every decoder ignores them. Anything
    else there is refused: the body is then not, or not only, the image that was sent.
    """
    position, size, scans = 2, None, 0
    while (found := _jpeg_marker(data, position, in_scan=scans > 0))[0] != _EOI:
        marker, position = found
        if marker in _ALONE:
            continue
        if marker in _FRAMES:
            size = _jpeg_size(data, position)
        scans += marker == _SOS
        position = _jpeg_after(data, position)
    if size is None or not scans:
        raise _StructureError("it holds no pixels")
    _nothing_but_zeros(data, found[1])
    return size


def _jpeg_marker(data: bytes, position: int, *, in_scan: bool) -> tuple[int, int]:
    """The next marker and the position after it."""
    found = (_AFTER_SCAN.search if in_scan else _MARKER.match)(data, position)
    if found is not None:
        return found[1][0], found.end()
    if in_scan or not data[position:].strip(b"\xff"):
        raise _cut_short(data)
    raise _StructureError(f"its structure is lost at byte {position}")


def _jpeg_after(data: bytes, position: int) -> int:
    """The position after a segment, whose length counts itself."""
    length = int.from_bytes(data[position : position + 2], "big")
    if position + max(length, 2) > len(data):
        raise _cut_short(data)
    if length < 2:
        raise _StructureError(f"its structure is lost at byte {position}")
    return position + length


def _jpeg_size(data: bytes, position: int) -> tuple[int, int]:
    height, width = data[position + 3 : position + 5], data[position + 5 : position + 7]
    return int.from_bytes(width, "big"), int.from_bytes(height, "big")


def _nothing_but_zeros(data: bytes, end: int) -> None:
    if extra := len(data[end:].rstrip(b"\0")):
        raise _StructureError(f"{extra} bytes follow its end")


# --- WebP: RIFF chunks of type, length, data, padded to even (RFC 9649) -------------------------------------


def _webp(data: bytes) -> tuple[int, int]:
    """Walk the chunks, which must fill the length that the file states of itself."""
    end = 8 + int.from_bytes(data[4:8], "little")
    end += end % 2
    if end > len(data):
        raise _cut_short(data)
    if end < len(data):
        raise _StructureError(f"{len(data) - end} bytes follow its end")
    position, kinds, sizes = 12, [], []
    while position + 8 <= end:
        kind = data[position : position + 4]
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        kinds.append(kind)
        if kind in _WEBP_SIZES:
            sizes.append(_WEBP_SIZES[kind](data[position + 8 : position + 18]))
        position += 8 + length + length % 2
    if position != end:
        raise _StructureError("its parts do not fill its stated length")
    if not sizes or not _WEBP_PIXELS.intersection(kinds):
        raise _StructureError("it holds no pixels")
    return sizes[0]  # the canvas, where there is one, comes first


def _webp_lossy(head: bytes) -> tuple[int, int]:
    """VP8 key frame: 3 bytes, the start code, then 14 bits each of width and height (RFC 6386, 9.1)."""
    if head[3:6] != b"\x9d\x01\x2a":
        raise _StructureError("its pixels do not begin as they must")
    return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF


def _webp_lossless(head: bytes) -> tuple[int, int]:
    """VP8L: a signature byte, then 14 bits each of width and height, less one."""
    if head[:1] != b"\x2f":
        raise _StructureError("its pixels do not begin as they must")
    bits = int.from_bytes(head[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _webp_canvas(head: bytes) -> tuple[int, int]:
    """VP8X: 4 bytes of flags, then 24 bits each of width and height, less one."""
    return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1


_WEBP_SIZES = {b"VP8 ": _webp_lossy, b"VP8L": _webp_lossless, b"VP8X": _webp_canvas}
_WEBP_PIXELS = {b"VP8 ", b"VP8L", b"ANMF"}

_READERS = {ImageFormat.PNG: _png, ImageFormat.JPEG: _jpeg, ImageFormat.WEBP: _webp}


def _cut_short(data: bytes) -> _StructureError:
    return _StructureError(f"it is cut short at {len(data)} bytes")


# --- what it is instead ---------------------------------------------------------------------------------------

_HEAD = 1024  # bytes of a body that are looked at
_SHOWN = 80  # characters of it that a message shows
_TITLE = re.compile(r"<title[^>]*>([^<]*)", re.IGNORECASE)
_OTHERS = (  # offset, bytes, name: of what else a gateway may serve as an image
    (0, b"GIF8", "a GIF"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftypavis", "an AVIF image"),
    (4, b"ftyphe", "a HEIC image"),
    (4, b"ftypmif1", "a HEIC image"),
    (4, b"ftypmsf1", "a HEIC image"),
    (4, b"ftyp", "a video"),
    (0, b"BM", "a BMP image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (4, b"JXL \r\n", "a JPEG XL image"),
    (4, b"jP  \r\n", "a JPEG 2000 image"),
    (0, b"%PDF", "a PDF file"),
    (0, b"PK\x03\x04", "a ZIP file"),
    (0, b"\x1f\x8b", "a gzip file"),
)


def _refusal(data: bytes) -> str:
    """The sentence about a body that begins as no format that is taken."""
    if not data:
        return "The download is empty: the gateway sent no image."
    if len(data) < 16 and any(magic.startswith(data[:8]) for magic in (_PNG_MAGIC, b"\xff\xd8\xff", b"RIFF")):
        return f"The image is broken: it is cut short at {len(data)} bytes."
    if name := next((n for at, magic, n in _OTHERS if data[at : at + len(magic)] == magic), None):
        return f"The download is {name}: only PNG, JPEG and WebP are taken."
    text = _text(data[:_HEAD])
    if text is None:
        return f"The download is not an image: its {len(data)} bytes begin with {data[:8].hex(' ')}."
    return f"The download is {_text_kind(text)}, not an image. It says: {_excerpt(text)}"


def _text(head: bytes) -> str | None:
    """The head as text; None where it is none. A character may be cut at its end."""
    text = head.decode("utf-8-sig", errors="replace").rstrip("\ufffd").strip()
    return None if not text or "\ufffd" in text or "\0" in text else text


def _text_kind(text: str) -> str:
    start = text[:200].lower()
    if "<html" in start or start.startswith("<!doctype html"):
        return "an HTML page"
    if "<svg" in start:
        return "an SVG drawing"
    if text[0] == "<":
        return "an XML document"
    return "a JSON answer" if text[0] in "{[" else "text"


def _excerpt(text: str) -> str:
    """One line of what a body says: a page's title where it has one."""
    title = _TITLE.search(text)
    line = " ".join((title[1] if title else text).split())
    return "".join(c for c in line if c.isprintable())[:_SHOWN]
