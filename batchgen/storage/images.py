"""What a downloaded body is: its format by content, its size, and whether it is whole.

The check is of structure, without decoding: it is fifty times faster than decoding and finds what a
decoder overlooks, as a JPEG that was cut short. Damage inside the pixels of a JPEG or WebP is seen by
nobody without the server's digest; a PNG brings its own checksums, and they are computed.

What was paid for may be odd all the same: another format, or bytes after its end. Such an image has a `warning`, and
whoever fetches it decides, by fetching it twice. The time is linear: an image of more parts than any honest one has
is not read to its end, and has a warning too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING
from zlib import crc32

from batchgen.errors import ImageBroken
from batchgen.storage import formats
from batchgen.storage.formats import MOST_PARTS, NOT_KNOWN, ImageFormat, Size, StructureError, cut_short

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_PIXELS = 1_000_000_000  # a larger image is one that few programs can open, or that is made to harm them


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """An image; width and height in pixels, as stored (an EXIF rotation is not applied), 0 where they are not known.

    `warning` says what is odd about it, or could not be checked; empty where it is whole and nothing besides.
    """

    format: ImageFormat
    width: int
    height: int
    warning: str = ""

    @property
    def ext(self) -> str:
        """How its file ends, with the dot."""
        return self.format.ext


class _TooManyParts(Exception):
    """It is not read to its end: that would take minutes."""


def inspect(data: bytes) -> ImageInfo:
    """What image this is. Raises `ImageBroken` when it is none, or not a whole one."""
    kind = _format(data)
    try:
        size, warning = (0, 0), ""
        if kind is not None:
            size, extra = _READERS[kind](data)
            warning = f"{extra} bytes follow its end." if extra else ""
        elif (found := formats.other(data)) is not None:
            kind, size = found
            warning = f"It is a {kind.called} image, which could not be checked to be whole."
    except StructureError as error:
        raise ImageBroken(f"The {kind.called if kind else ''} image is broken: {error}.".replace("  ", " ")) from None
    except _TooManyParts:
        size, warning = NOT_KNOWN, f"It has more than {MOST_PARTS} parts, and was not checked to be whole."
    if kind is None:
        raise ImageBroken(_refusal(data))
    width, height = size
    if not (warning or (width and height)):
        raise ImageBroken(f"The {kind.called} image is broken: its size is {width} × {height} pixels.")
    if width * height > MOST_PIXELS:
        warning = f"It says that it has {width} × {height} pixels. {warning}".strip()
    return ImageInfo(format=kind, width=width, height=height, warning=warning)


def _parts() -> Iterator[int]:
    """Count the parts of an image, up to a bound."""
    for number in count():
        if number >= MOST_PARTS:
            raise _TooManyParts
        yield number


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


def _png(data: bytes) -> tuple[Size, int]:
    """Walk all chunks and compute each checksum, up to `IEND`; its size, and how many bytes follow."""
    view = memoryview(data)  # a chunk can be all of the file: it is not copied
    position, kinds = len(_PNG_MAGIC), set()
    for _ in _parts():
        if position + 12 > len(data):
            break
        after = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if after > len(data):
            break
        if crc32(view[position + 4 : after - 4]) != int.from_bytes(view[after - 4 : after], "big"):
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
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


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
    end = 8 + int.from_bytes(data[4:8], "little")
    end += end % 2
    if end > len(data):
        raise cut_short(data)
    position, size, has_pixels = 12, None, False
    for _ in _parts():
        if position + 8 > end:
            break
        kind = data[position : position + 4]
        length = int.from_bytes(data[position + 4 : position + 8], "little")
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

_READERS = {ImageFormat.PNG: _png, ImageFormat.JPEG: _jpeg, ImageFormat.WEBP: _webp}


# --- what it is instead ---------------------------------------------------------------------------------------

_HEAD = 1024  # bytes of a body that are looked at
_SHOWN = 80  # characters of it that a message shows
_TITLE = re.compile(r"<title[^>]*>([^<]*)", re.IGNORECASE)
_OTHERS = (  # offset, bytes, name: of what else a gateway may serve as an image
    (4, b"ftyp", "a video"),
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
        return f"The download is {name}, not an image."
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
