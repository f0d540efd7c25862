"""Unpacks a body that a host sent packed though it was asked not to, a bounded part at a time."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from batchgen.errors import ImageBroken

if TYPE_CHECKING:
    from collections.abc import Iterator

CODINGS = frozenset({"gzip", "x-gzip", "deflate"})  # of `Content-Encoding`
_BEGINNINGS = (b"\x1f", b"\x78")  # of gzip and zlib, and of no image
_MOST = 1024 * 1024  # bytes that one step gives


class Unpacking:
    """One body that was packed by gzip or deflate, or was only said to be: some stores say it of every file."""

    def __init__(self) -> None:
        self._inflater: zlib._Decompress | None = None
        self._is_plain = False

    @property
    def is_unfinished(self) -> bool:
        """Whether more was to come."""
        return self._inflater is not None and not self._inflater.eof

    def parts(self, piece: bytes) -> Iterator[bytes]:
        """What a piece becomes, a bounded part at a time: a few packed bytes can be gigabytes.

        Raises ImageBroken where it cannot be unpacked.
        """
        if self._inflater is None and not self._is_plain:
            self._is_plain = not piece.startswith(_BEGINNINGS)
            self._inflater = None if self._is_plain else zlib.decompressobj(wbits=47)  # gzip or zlib, as it begins
        if self._inflater is None:
            yield piece
            return
        try:
            while piece and not self._inflater.eof:
                yield self._inflater.decompress(piece, _MOST)
                piece = self._inflater.unconsumed_tail
        except zlib.error as error:
            raise ImageBroken("The image's download was packed, and cannot be unpacked.") from error
