"""Brings the images of a finished task into the tree: download, check, hash, record, put into place.

A download is free to repeat, a create is not: whatever goes wrong here is answered with a new query for a
new link, never with a new task.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from batchgen import paths
from batchgen.engine.retry import patience, soon
from batchgen.errors import (
    AccountStopped,
    BatchgenError,
    ImageBroken,
    JobError,
    LinkExpired,
    LinkRefused,
    NotSent,
    RunStopped,
    TaskNotFound,
    Throttled,
    Unclear,
)
from batchgen.jobs import ImageFile, is_inline
from batchgen.ledger.events import Fetched, Relinked, Relocated
from batchgen.outputs import settle
from batchgen.outputs.tree import finish, write_slab

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.engine.context import Context
    from batchgen.engine.work import Work
    from batchgen.jobs import ImageLink
    from batchgen.outputs.tree import WholeFile
    from batchgen.providers.base import Provider

_TRIES = 6
_SLAB = 8 * 1024 * 1024  # a body up to this size takes one hop to a thread

Key = tuple[str, int, int, int]


class ImagesGone(BatchgenError):
    """The gateway has the images no more; `certain` where time cannot bring them back."""

    def __init__(self, message: str, *, certain: bool = False) -> None:
        self.certain = certain
        super().__init__(message)


class Fetcher:
    """Downloads for one account; all lanes share the run's bound on downloads at a time."""

    def __init__(self, context: Context, provider: Provider) -> None:
        self._context = context
        self._provider = provider

    async def fetch(self, work: Work) -> None:
        """Fetch every image of a made task that is not here yet.

        Raises ImagesGone where the gateway has them no more; Unclear, NotSent, ImageBroken or LinkRefused where
        they may come another time; RunStopped where the disk refuses.
        """
        context = self._context
        if work.attempt > 1:
            await self._make_room(work)
        links = context.reader.links_to_fetch(work.job.id, work.attempt)
        errors = [error for error in await self._all(work, links) if error is not None]
        stops = [error for error in errors if isinstance(error, RunStopped)]
        may_come = [error for error in errors if not isinstance(error, ImagesGone)]
        for error in stops or may_come or errors:  # gone is only what has nothing left that may still come
            raise error

    async def _all(self, work: Work, links: list[tuple[ImageLink, bool]]) -> list[BatchgenError | None]:
        if len(links) == 1:
            ((link, marked),) = links
            return [await self._until_whole(work, link, marked=marked)]
        async with asyncio.TaskGroup() as group:
            downloads = [group.create_task(self._until_whole(work, link, marked=marked)) for link, marked in links]
        return [download.result() for download in downloads]

    async def _make_room(self, work: Work) -> None:
        """Images of an earlier attempt are kept under `retired/`: nothing paid for is overwritten."""
        context = self._context
        for image in context.reader.earlier_images(work.job.id, work.attempt):
            path = settle.retired_path(image)
            if context.tree.lift(image.key, image.path):
                job_id, attempt, index, marked = image.key
                await context.record(
                    Relocated(job_id=job_id, attempt=attempt, index=index, marked=bool(marked), path=path)
                )
                context.tree.place(image.key, path)

    async def _until_whole(self, work: Work, link: ImageLink, *, marked: bool) -> BatchgenError | None:
        """Fetch one image, trying again as often as it makes sense; an error is returned, for siblings go on.

        After each failure the task is asked for a new link: the old one may have expired, or name a host that
        is no longer there. Where a task cannot be asked for, the same link is tried again; what came inside the
        create's answer is the same each time.
        """
        context = self._context
        key = (work.job.id, work.attempt, link.index, int(marked))
        url = link.url
        problem: BatchgenError | None = None
        for tries in range(1, _TRIES + 1):
            try:
                await self._record(work, key, await self._whole(url, key, patience(tries - 1)))
            except RunStopped as error:
                return error
            except (LinkExpired, LinkRefused, ImageBroken, Unclear, NotSent) as error:
                problem = error
            else:
                return None
            if is_inline(url) and not self._provider.asks:
                return ImagesGone(str(problem), certain=True)
            if tries < _TRIES:
                await context.sleep(soon(tries, context.chance))
                try:
                    url = await self._new_link(work, link, marked=marked)
                except (ImagesGone, AccountStopped) as final:
                    return final
                except (Throttled, Unclear, NotSent, JobError) as later:
                    problem = later
        if isinstance(problem, LinkExpired):
            return ImagesGone(f"The gateway has the image no more: {problem}")
        return problem

    async def _whole(self, url: str, key: Key, idle: float) -> WholeFile:
        """Fetch one image to the disk. The next one is fetched while the disk is at this one, if it is not behind."""
        self._context.writer.check_takes()
        self._context.tree.check_in_place()
        path = self._context.tree.scratch_path(key)
        async with AsyncExitStack() as stack:
            async with self._context.downloads:
                pieces, first = await self._download(url, path, idle)
                await stack.enter_async_context(self._context.writes)
            return await asyncio.to_thread(finish, path, pieces, first=first)

    async def _download(self, url: str, path: Path, idle: float) -> tuple[list[bytes], bool]:
        """The body's last pieces, and whether they are all of it: what is large was written on the way."""
        pieces: list[bytes] = []
        size, first = 0, True
        base_url = self._provider.account.base_url
        async with self._context.image_hosts.image(url, base_url=base_url, idle=idle) as body:
            async for piece in body:
                pieces.append(piece)
                size += len(piece)
                if size >= _SLAB:
                    await asyncio.to_thread(write_slab, path, pieces, first=first)
                    pieces, size, first = [], 0, False
        return pieces, first

    async def _record(self, work: Work, key: Key, whole: WholeFile) -> None:
        """First the ledger learns what the file is and where it belongs, then the file moves there."""
        context = self._context
        context.tree.check_in_place()  # else the next run would look for the file in vain
        job_id, attempt, index, marked = key
        path = context.template.render(work.job, index, whole.info.ext)
        if marked:
            path = paths.watermarked(path)
        if not work.wanted:  # its name may be another job's by now
            path = paths.retired(path, job_id)
        image = ImageFile(
            index=index,
            path=path,
            sha256=whole.sha256,
            bytes=whole.bytes,
            width=whole.info.width,
            height=whole.info.height,
        )
        await context.record(
            Fetched(
                job_id=job_id,
                attempt=attempt,
                image=image,
                marked=bool(marked),
                mtime_ns=whole.mtime_ns,
                at=context.now_ms(),
            ),
            then=partial(context.tree.place, key, path),  # a rename waits for the disk's journal
        )
        context.counters.images_done += not marked

    async def _new_link(self, work: Work, link: ImageLink, *, marked: bool) -> str:
        if not self._provider.asks:
            return link.url
        try:
            task = await self._provider.query(work.task_id)
        except TaskNotFound as error:
            raise ImagesGone("The gateway no longer knows the task, and the image's link has expired.") from error
        for fresh in task.links:
            url = fresh.watermark_url if marked else fresh.url
            if fresh.index == link.index and url:
                await self._context.record(Relinked(job_id=work.job.id, attempt=work.attempt, links=(fresh,)))
                return url
        raise ImagesGone("The gateway's task no longer names the image.")
