"""Decompresses a body, a bounded part at a time.

aiohttp's own decompression fails at a body that is labelled gzip but is not, and at one of several gzip members; it
reads what was cut off as if it were whole. Each of these three happens with gateways or image stores.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

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
    """The decompressed body, a bounded part at a time: a few bytes can become gigabytes.

    `coding`: its `Content-Encoding`, `max_bytes`: its largest size. Raises BodyRefused, at the first byte too many.
    """
    inflater: zlib._Decompress | None = None
    is_plain = coding not in CODINGS
    members = size = 0
    async for piece in pieces:
        if inflater is None and not piece.startswith(_BEGINNINGS):
            is_plain = True  # some stores label every file
        rest = piece
        while rest:
            if is_plain:
                part, rest = rest, b""
            else:
                if inflater is None or inflater.eof:
                    if not rest.startswith(_BEGINNINGS):
                        break  # no other member follows (RFC 1952, 2.2); some gateways send several
                    members += 1
                    inflater = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
                part, rest = _inflated(inflater, rest, members)
            size += len(part)
            if size > max_bytes:
                raise BodyRefused(f"it is larger than {max_bytes} bytes")
            yield part
    if inflater is not None and not inflater.eof:
        raise BodyCutOff("it was cut off")


def _inflated(inflater: zlib._Decompress, piece: bytes, members: int) -> tuple[bytes, bytes]:
    """The next part, and the bytes that are not decompressed yet."""
    if members > _MAX_MEMBERS:
        raise BodyRefused(f"it has more than {_MAX_MEMBERS} gzip members")
    try:
        part = inflater.decompress(piece, _MAX_PART)
    except zlib.error as error:
        raise BodyRefused("it is compressed, and cannot be decompressed") from error
    return part, inflater.unconsumed_tail or inflater.unused_data
