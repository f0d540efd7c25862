"""Receives a body: in memory while it is small, else into its scratch file while it arrives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from batchgen.storage.tree import write_chunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_CHUNK = 8 * 1024 * 1024  # a body up to this size takes one hop to a thread


async def receive(body: AsyncIterator[bytes], path: Path) -> tuple[list[bytes], bool]:
    """The body's last chunks, and whether they are all of it; `tree.finish_file` takes both."""
    chunks: list[bytes] = []
    size, first = 0, True
    async for chunk in body:
        chunks.append(chunk)
        size += len(chunk)
        if size >= _CHUNK:
            await asyncio.to_thread(write_chunk, path, chunks, first=first)
            chunks, size, first = [], 0, False
    return chunks, first
