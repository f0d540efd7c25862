"""The engine's image storage on a local disk: download, check, record, then move into place."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from time import time
from typing import TYPE_CHECKING

from batchgen.ledger.events import Fetched, Relocated
from batchgen.storage import paths
from batchgen.storage.tree import finish_file, write_chunk

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.http.downloads import Downloader
    from batchgen.jobs import ImageKey, Job, ReceivedImage
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.writer import Writer
    from batchgen.storage.paths import PathTemplate
    from batchgen.storage.tree import Tree

_CHUNK = 8 * 1024 * 1024  # a body up to this size takes one hop to a thread


class ImageStore:
    """The images of one output folder; `at_once` downloads at a time, whatever account they are of."""

    def __init__(
        self,
        tree: Tree,
        template: PathTemplate,
        *,
        writer: Writer,
        reader: LedgerReader,
        downloader: Downloader,
        at_once: int,
    ) -> None:
        self._tree = tree
        self._template = template
        self._writer = writer
        self._reader = reader
        self._downloader = downloader
        self._downloads = asyncio.Semaphore(at_once)
        self._writes = asyncio.Semaphore(at_once)  # images that have arrived and are being written

    async def fetch(self, url: str, key: ImageKey, *, base_url: str, idle_timeout: float) -> ReceivedImage:
        """Download an image into the scratch folder and check it; see `engine.context.ImageStorage`.

        The next one is downloaded while the disk is busy with this one, unless the disk has fallen behind.
        """
        self._writer.check_accepts()
        self._tree.check_in_place()
        path = self._tree.scratch_path(key)
        async with AsyncExitStack() as stack:
            async with self._downloads:
                chunks, first = await self._download(url, path, base_url, idle_timeout)
                await stack.enter_async_context(self._writes)
            return await asyncio.to_thread(finish_file, path, chunks, first=first)

    async def _download(self, url: str, path: Path, base_url: str, idle_timeout: float) -> tuple[list[bytes], bool]:
        """The body's last chunks, and whether they are all of it: a large body is written while it arrives."""
        chunks: list[bytes] = []
        size, first = 0, True
        async with self._downloader.image(url, base_url=base_url, idle_timeout=idle_timeout) as body:
            async for chunk in body:
                chunks.append(chunk)
                size += len(chunk)
                if size >= _CHUNK:
                    await asyncio.to_thread(write_chunk, path, chunks, first=first)
                    chunks, size, first = [], 0, False
        return chunks, first

    async def keep(self, job: Job, key: ImageKey, image: ReceivedImage, *, wanted: bool, warning: str) -> str:
        """Record what the file is and where it belongs, then move it there; see `engine.context.ImageStorage`."""
        self._tree.check_in_place()  # else the next run would look for the file in vain
        path = self._template.render(job, key.image_index, image.ext)
        if key.watermarked:
            path = paths.watermarked(path)
        if not wanted:
            path = paths.retired(path, job.id)
        fetched = Fetched(key=key, path=path, image=replace(image, warning=warning), at=int(time() * 1000))
        await self._writer.record(fetched, after_commit=partial(self._tree.place, key, path))
        return path

    async def retire_earlier(self, job_id: str, attempt: int) -> None:
        for image in self._reader.earlier_images(job_id, attempt):
            path = replace(image, last_attempt=False).retired_path()  # a later remake retires one of the same name
            if self._tree.move_to_scratch(image.key, image.path):
                await self._writer.record(Relocated(key=image.key, path=path))
                self._tree.place(image.key, path)
