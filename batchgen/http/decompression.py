"""Unpacks a body that a host sent packed though it was asked not to, a bounded part at a time."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterator

CODINGS = frozenset({"gzip", "x-gzip", "deflate"})  # of `Content-Encoding`
_BEGINNINGS = (b"\x1f", b"\x78")  # of gzip and zlib, and of no image
_GZIP_OR_ZLIB = 47  # as it begins
_MOST = 1024 * 1024  # bytes that one step gives
_MOST_MEMBERS = 64


class BodyRefused(Exception):
    """A body that is larger than it may be, or cannot be unpacked; the text says which, as a part of a sentence."""


class BodyCutOff(BodyRefused):
    """A packed body that ended too soon."""


async def unpacked(pieces: AsyncIterable[bytes], coding: str, most: int) -> AsyncIterator[bytes]:
    """A body as it was before it was packed, in parts. `coding`: its `Content-Encoding`, `most`: bytes it may have.

    Raises BodyRefused, at the first byte too many.
    """
    unpacking = Unpacking() if coding in CODINGS else None
    size = 0
    async for piece in pieces:
        for part in unpacking.parts(piece) if unpacking else (piece,):
            size += len(part)
            if size > most:
                raise BodyRefused(f"it is larger than {most} bytes")
            yield part
    if unpacking and unpacking.is_unfinished:
        raise BodyCutOff("it was cut off")


class Unpacking:
    """One body that was packed by gzip or deflate, or was only said to be: some stores say it of every file."""

    def __init__(self) -> None:
        self._inflater: zlib._Decompress | None = None
        self._is_plain = False
        self._members = 1

    @property
    def is_unfinished(self) -> bool:
        """Whether more was to come."""
        return self._inflater is not None and not self._inflater.eof

    def parts(self, piece: bytes) -> Iterator[bytes]:
        """What a piece becomes, a bounded part at a time: a few packed bytes can be gigabytes.

        Raises BodyRefused where it cannot be unpacked.
        """
        if self._inflater is None and not self._is_plain:
            self._is_plain = not piece.startswith(_BEGINNINGS)
            self._inflater = None if self._is_plain else zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
        if self._inflater is None:
            yield piece
            return
        try:
            while piece:
                if self._inflater.eof and not self._has_another(piece):
                    return
                yield self._inflater.decompress(piece, _MOST)
                piece = self._inflater.unconsumed_tail or self._inflater.unused_data
        except zlib.error as error:
            raise BodyRefused("it is packed, and cannot be unpacked") from error

    def _has_another(self, piece: bytes) -> bool:
        """Whether what follows a packed part is one more of them (RFC 1952, 2.2): some gateways send several."""
        if not piece.startswith(_BEGINNINGS):
            return False
        self._members += 1
        if self._members > _MOST_MEMBERS:
            raise BodyRefused(f"it is packed in more than {_MOST_MEMBERS} parts")
        self._inflater = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
        return True
