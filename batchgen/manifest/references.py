"""Reference images: links, and files that are checked against the API's rules before anything is sent.

Each file is read once, however many jobs name it, and not kept; its size in pixels comes from its header.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from batchgen.catalog.load import builtin
from batchgen.jobs import Reference
from batchgen.manifest.diagnostics import cut, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.manifest.diagnostics import Faults
    from batchgen.manifest.model import NodePath

_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_OTHERS = {
    b"GIF8": "a GIF", b"RIFF": "a WebP or another RIFF file", b"BM": "a BMP", b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF", b"<svg": "an SVG", b"%PDF": "a PDF",
}  # fmt: skip


class _Refused(Exception):
    def __init__(self, message: str, hint: str) -> None:
        self.message, self.hint = message, hint
        super().__init__(message)


class References:
    """The reference images of one manifest, by what is written."""

    def __init__(self, folder: Path, faults: Faults) -> None:
        self._folder = folder
        self._faults = faults
        self._known: dict[str, Reference | _Refused] = {}

    def reporting_to(self, faults: Faults) -> References:
        """The same images, for another file that names them."""
        other = References(self._folder, faults)
        other._known = self._known
        return other

    def get(self, written: str, path: NodePath) -> Reference | None:
        """The reference image, or None where it cannot be used, which is then among the faults."""
        if written not in self._known:
            try:
                self._known[written] = self._find(written)
            except _Refused as refused:
                self._known[written] = refused
        found = self._known[written]
        if isinstance(found, _Refused):
            self._faults.add(path, found.message, found.hint)
            return None
        return found

    def identities(self) -> list[str]:
        """What each is known by, for the manifest's digest."""
        return [f"{w}={r.identity}" for w, r in self._known.items() if isinstance(r, Reference)]

    def _find(self, written: str) -> Reference:
        scheme = written.partition(":")[0].casefold()
        if written.casefold().startswith(("http://", "https://")):
            if any(character.isspace() for character in written) or len(written.partition("//")[2]) == 0:
                raise _Refused(f'"{cut(written)}" is not a link.', "Write it without blanks.")
            return Reference(url=written)
        if scheme == "data":
            raise _Refused("An image cannot be written into the manifest.", "Save it as a file and name the file.")
        if "://" in written:
            raise _Refused(f'"{cut(written)}" is no link that a gateway can reach.', "Use http, https or a file.")
        if len(written) > 1024:
            raise _Refused("This is too long for a file's name.", "Save the image as a file and name the file.")
        file = self._folder / written
        return Reference(path=str(file.absolute()), sha256=_checked(file, written))


def _checked(file: Path, written: str) -> str:
    """The sha256 of a file that keeps to the API's rules."""
    limits = builtin().limits
    name = cut(written)
    try:
        if not file.is_file():
            raise _Refused(*_absent(file, name))
        if (size := file.stat().st_size) > limits.image_bytes:
            raise _Refused(f"{name} has {size / 1e6:.1f} MB.", "An image may have at most 10 MB; save it smaller.")
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        raise _Refused(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.", "") from error
    width, height = _pixels(data, name)
    if min(width, height) < limits.image_side_pixels:
        raise _Refused(
            f"{name} is {width} x {height} pixels.",
            f"Each side must have at least {limits.image_side_pixels} pixels; use a larger image.",
        )
    if max(width, height) > limits.image_ratio * min(width, height):
        raise _Refused(
            f"{name} is {width} x {height} pixels, which is too long and narrow.",
            "Width to height may be from 1:2.5 to 2.5:1; crop it.",
        )
    return hashlib.sha256(data).hexdigest()


def _absent(file: Path, name: str) -> tuple[str, str]:
    if file.is_dir():
        return f"{name} is a folder.", "Name one image of it."
    if file.exists():
        return f"{name} is no ordinary file.", "Name a .jpg or .png file."
    try:
        names = [other.name for other in file.parent.iterdir()]
    except OSError:
        return f"The file {name} does not exist.", "Its path is relative to the manifest."
    guess = nearest(file.name, names)
    hint = f"Did you mean {guess}?" if guess else "Its path is relative to the manifest."
    return f"The file {name} does not exist.", hint


def _pixels(data: bytes, name: str) -> tuple[int, int]:
    """Width and height, from the header."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 33 and data[12:16] == b"IHDR":
        width, height = struct.unpack(">II", data[16:24])
        return int(width), int(height)
    if data.startswith(b"\xff\xd8\xff"):
        size = _jpeg_pixels(data)
        if size is None:
            raise _Refused(f"{name} is a broken JPEG.", "Save it again.")
        return size
    what = next((words for magic, words in _OTHERS.items() if data.startswith(magic)), "")
    message = f"{name} is {what}, no jpg or png." if what else f"{name} is no jpg or png by its content."
    raise _Refused(message if data else f"{name} is empty.", "Save it as jpg or png.")


def _jpeg_pixels(data: bytes) -> tuple[int, int] | None:
    """Walk the segments to the first frame header."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _JPEG_FRAMES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return int(width), int(height)
        elif 0xD0 <= marker <= 0xD8 or marker == 0x01:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
