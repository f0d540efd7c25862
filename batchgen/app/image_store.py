"""The engine's image storage on a local disk: download, check, record, then move into place."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from time import time
from typing import TYPE_CHECKING

from batchgen.jobs import is_inline
from batchgen.ledger.events import Fetched, Relocated
from batchgen.storage import paths
from batchgen.storage.incoming import receive
from batchgen.storage.tree import finish_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from batchgen.app.elsewhere import Elsewhere
    from batchgen.http.downloads import Downloader
    from batchgen.http.network_policy import GatewayResolver
    from batchgen.jobs import ImageKey, Job, ReceivedImage
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.writer import Writer
    from batchgen.manifest.model import Manifest
    from batchgen.storage.paths import PathTemplate
    from batchgen.storage.tree import Tree


class ImageStore:
    """The images of one output folder; `at_once` downloads at a time in this process, whatever account they are of.

    With a dispatcher, workers download, and this process only what they could not.
    """

    def __init__(
        self,
        tree: Tree,
        template: PathTemplate,
        *,
        writer: Writer,
        reader: LedgerReader,
        downloader: Downloader,
        at_once: int,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._tree = tree
        self._template = template
        self._writer = writer
        self._reader = reader
        self._downloader = downloader
        self._downloads = asyncio.Semaphore(at_once)
        self._writes = asyncio.Semaphore(at_once)  # images that have arrived and are being written
        self._elsewhere = elsewhere

    async def fetch(self, url: str, key: ImageKey, *, base_url: str, idle_timeout: float) -> ReceivedImage:
        """Download an image into the scratch folder and check it; see `engine.context.ImageStorage`.

        What a worker says of a link proves nothing: its network may block what ours does not, and an image that counts
        as gone may be made again, which is paid again. So every failure there is followed by a try here.
        """
        self._writer.check_accepts()
        self._tree.check_in_place()
        if self._elsewhere is not None and not is_inline(url):
            reach = await self._downloader.reach(base_url)
            image = await self._elsewhere.fetch(key, url, reach, idle_timeout)
            if image is not None:
                return image
        return await self._fetch_here(url, key, base_url, idle_timeout)

    async def _fetch_here(self, url: str, key: ImageKey, base_url: str, idle_timeout: float) -> ReceivedImage:
        """The next one is downloaded while the disk is busy with this one, unless the disk has fallen behind."""
        path = self._tree.scratch_path(key)
        async with AsyncExitStack() as stack:
            async with self._downloads:
                async with self._downloader.image(url, base_url=base_url, idle_timeout=idle_timeout) as body:
                    chunks, first = await receive(body, path)
                await stack.enter_async_context(self._writes)
            return await asyncio.to_thread(finish_file, path, chunks, first=first)

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


@asynccontextmanager
async def open_image_store(
    tree: Tree,
    manifest: Manifest,
    *,
    writer: Writer,
    reader: LedgerReader,
    gateways: GatewayResolver,
    workers: str | int | None,
    notify: Callable[[str], None],
) -> AsyncIterator[ImageStore]:
    """The images of an output during one run. Raises CommandError where the workers cannot be used."""
    from batchgen.http.downloads import open_downloader  # noqa: PLC0415 - aiohttp takes 0.1 s to load

    at_once = manifest.run.downloads
    async with AsyncExitStack() as stack:
        elsewhere = None
        if workers is not None:
            from batchgen.app.elsewhere import open_elsewhere  # noqa: PLC0415 - only where it is asked for

            opening = open_elsewhere(workers, manifest.accounts.values(), tree, batch=at_once, notify=notify)
            elsewhere = await stack.enter_async_context(opening)
        yield ImageStore(
            tree,
            manifest.output_path,
            writer=writer,
            reader=reader,
            downloader=await stack.enter_async_context(open_downloader(at_once, gateways)),
            at_once=at_once,
            elsewhere=elsewhere,
        )
