"""What a downloaded body is: its format by content, its size, and whether it is whole.

The check is of structure, without decoding: it is fifty times faster than decoding (1 ms against 50 for a PNG of 1.5
MB) and finds what a decoder overlooks, such as a JPEG that was cut short. Damage inside the pixels of a JPEG or WebP
cannot be found without the server's digest; a PNG has checksums of its own, and they are computed.

An image may be odd and paid for all the same: another format, or bytes after its end. Such an image has a `warning`,
and the caller downloads it twice to decide whether it is what the gateway made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from batchgen.errors import ImageBroken
from batchgen.storage.formats import (
    MAX_PARTS,
    NOT_KNOWN,
    ImageFormat,
    StructureError,
    TooManyParts,
    image_format,
    read_structure,
)

MAX_PIXELS = 1_000_000_000  # few programs can open a larger image, or it is made to harm them


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """An image; width and height in pixels, as stored (an EXIF rotation is not applied), 0 where they are not known.

    `warning` says what is odd about it, or could not be checked; empty where it is valid.
    """

    format: ImageFormat
    width: int
    height: int
    warning: str = ""


def inspect(data: bytes) -> ImageInfo:
    """What image this is. Raises `ImageBroken` when it is none, or not a whole one."""
    kind = image_format(data)
    if kind is None:
        raise ImageBroken(_refusal(data))
    try:
        (width, height), extra = read_structure(kind, data)
        warning = f"{extra} bytes follow its end." if extra else ""
        if extra is None:
            warning = f"It is a {kind.label} image, which could not be checked to be whole."
    except StructureError as error:
        raise ImageBroken(f"The {kind.label} image is broken: {error}.") from None
    except TooManyParts:
        (width, height), warning = NOT_KNOWN, f"It has more than {MAX_PARTS} parts, and was not checked to be whole."
    if not (warning or (width and height)):
        raise ImageBroken(f"The {kind.label} image is broken: its size is {width} × {height} pixels.")
    if width * height > MAX_PIXELS:
        warning = f"Its header says {width} × {height} pixels. {warning}".strip()
    return ImageInfo(format=kind, width=width, height=height, warning=warning)


# --- what is no image ------------------------------------------------------------------------------------------

_HEAD = 1024  # bytes of a body that are decoded
_SHOWN = 80  # characters of it that a message shows
_HTML = re.compile(r"<!doctype html|.{,200}<html", re.IGNORECASE | re.DOTALL)
_TITLE = re.compile(r"<title[^>]*>([^<]*)", re.IGNORECASE)
_OTHERS = (  # offset, bytes, name
    (4, b"ftyp", "a video"),
    (0, b"%PDF", "a PDF file"),
    (0, b"PK\x03\x04", "a ZIP file"),
    (0, b"\x1f\x8b", "a gzip file"),
)


def _refusal(data: bytes) -> str:
    """The message about a body that is in no format of images."""
    if not data:
        return "The download is empty: the gateway sent no image."
    if name := next((n for at, magic, n in _OTHERS if data[at : at + len(magic)] == magic), None):
        return f"The download is {name}, not an image."
    text = _text(data[:_HEAD])
    if text is None:
        return f"The download is not an image: its {len(data)} bytes begin with {data[:8].hex(' ')}."
    return f"The download is {'an HTML page' if _HTML.match(text) else 'text'}, not an image. It says: {_excerpt(text)}"


def _text(head: bytes) -> str | None:
    """The head as text; None where it is none. Its last character may be cut."""
    text = head.decode("utf-8-sig", errors="replace").rstrip("\ufffd").strip()
    return None if not text or "\ufffd" in text or "\0" in text else text


def _excerpt(text: str) -> str:
    """One line of a text: a page's title where it has one."""
    title = _TITLE.search(text)
    line = " ".join((title[1] if title else text).split())
    return "".join(c for c in line if c.isprintable())[:_SHOWN]
