"""Reference images: links, and files that are checked against the API's rules before anything is sent.

Each file is read once, however many jobs name it, and not kept in memory.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from batchgen.catalog.load import builtin
from batchgen.errors import ImageBroken
from batchgen.jobs import Reference
from batchgen.manifest.diagnostics import cut
from batchgen.manifest.row_file import reason_missing
from batchgen.storage.images import inspect

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.manifest.diagnostics import Diagnostics
    from batchgen.manifest.model import NodePath


class _Refused(Exception):
    def __init__(self, message: str, hint: str) -> None:
        self.message, self.hint = message, hint
        super().__init__(message)


class References:
    """The reference images of one manifest, by what is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Reference | _Refused] = {}

    def get(self, written: str, path: NodePath, diagnostics: Diagnostics) -> Reference | None:
        """The reference image, or None where it cannot be used, which is then reported."""
        if written not in self._known:
            try:
                self._known[written] = self._find(written)
            except _Refused as refused:
                self._known[written] = refused
        found = self._known[written]
        if isinstance(found, _Refused):
            diagnostics.add(path, found.message, found.hint)
            return None
        return found

    def identities(self) -> list[str]:
        """What identifies each of them, for the manifest's digest."""
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
        file = self._folder / written
        return Reference(path=str(file.absolute()), sha256=_checked(file, written))


def _checked(file: Path, written: str) -> str:
    """The sha256 of a file that keeps to the API's rules."""
    limits = builtin().limits
    name = cut(written)
    if missing := reason_missing(file, name):
        raise _Refused(*missing)
    try:
        if (size := file.stat().st_size) > limits.image_bytes:
            raise _Refused(f"{name} has {size / 1e6:.1f} MB.", "An image may have at most 10 MB; save it smaller.")
        data = file.read_bytes()
    except OSError as error:
        raise _Refused(f"{name} cannot be read: {error.strerror or error}.", "") from error
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


def _pixels(data: bytes, name: str) -> tuple[int, int]:
    """Width and height of a JPEG or PNG."""
    try:
        image = inspect(data)
    except ImageBroken:
        raise _Refused(f"{name} is broken, or no jpg or png.", "Save it again as jpg or png.") from None
    if image.format.label not in {"JPEG", "PNG"}:
        raise _Refused(f"{name} is a {image.format.label} image, no jpg or png.", "Save it as jpg or png.")
    return image.width, image.height
