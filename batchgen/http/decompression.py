"""Decompresses a body, a bounded part at a time.

aiohttp's own decompression fails at a body that is labelled gzip but is not, and at one of several gzip members; it
reads what was cut off as if it were whole. Each of these three happens with gateways or image stores.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterator

LARGEST_ANSWER = 8 * 1024 * 1024  # bytes, decompressed; the caller allows more for an answer that holds images
CODINGS = frozenset({"gzip", "x-gzip", "deflate"})  # of `Content-Encoding`
_BEGINNINGS = (b"\x1f", b"\x78")  # of gzip and zlib, and of no image
_GZIP_OR_ZLIB = 47  # zlib detects which
_MAX_PART = 1024 * 1024  # bytes that one step gives
_MAX_MEMBERS = 64


class BodyRefused(Exception):
    """A body that is too large or cannot be decompressed; the text says which, as a part of a sentence."""


class BodyCutOff(BodyRefused):
    """A compressed body that ended too soon."""


async def decompressed(pieces: AsyncIterable[bytes], coding: str, max_bytes: int) -> AsyncIterator[bytes]:
    """The decompressed body, in parts. `coding`: its `Content-Encoding`, `max_bytes`: its largest size.

    Raises BodyRefused, at the first byte too many.
    """
    decompressor = _Decompressor() if coding in CODINGS else None
    size = 0
    async for piece in pieces:
        for part in decompressor.parts(piece) if decompressor else (piece,):
            size += len(part)
            if size > max_bytes:
                raise BodyRefused(f"it is larger than {max_bytes} bytes")
            yield part
    if decompressor and decompressor.is_unfinished:
        raise BodyCutOff("it was cut off")


class _Decompressor:
    """One body compressed by gzip or deflate, or only labelled so: some stores label every file."""

    def __init__(self) -> None:
        self._inflater: zlib._Decompress | None = None
        self._is_plain = False
        self._members = 1

    @property
    def is_unfinished(self) -> bool:
        """Whether more was to come."""
        return self._inflater is not None and not self._inflater.eof

    def parts(self, piece: bytes) -> Iterator[bytes]:
        """The decompressed piece, a bounded part at a time: a few bytes can become gigabytes.

        Raises BodyRefused where it cannot be decompressed.
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
                yield self._inflater.decompress(piece, _MAX_PART)
                piece = self._inflater.unconsumed_tail or self._inflater.unused_data
        except zlib.error as error:
            raise BodyRefused("it is compressed, and cannot be decompressed") from error

    def _has_another(self, piece: bytes) -> bool:
        """Whether one more member follows (RFC 1952, 2.2): some gateways send several."""
        if not piece.startswith(_BEGINNINGS):
            return False
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise BodyRefused(f"it has more than {_MAX_MEMBERS} gzip members")
        self._inflater = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
        return True
