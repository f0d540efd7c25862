"""Brings the images of a finished task into the tree: download, check, hash, record, put into place.

A download is free to repeat, a create is not: whatever goes wrong here is answered with a new query for a
new link, never with a new task.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING

from batchgen.engine.retry import query_timeout, soon
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
    TooFewDescriptors,
    Unclear,
)
from batchgen.jobs import ImageFile, Status, is_inline
from batchgen.ledger.events import Fetched, HostRefused, Relinked, Relocated
from batchgen.reconcile import reconcile
from batchgen.storage import paths
from batchgen.storage.tree import finish, write_slab

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.engine.attempt import Work
    from batchgen.engine.context import Context
    from batchgen.jobs import ImageLink
    from batchgen.providers.base import Task
    from batchgen.providers.validated import ValidatedProvider
    from batchgen.storage.tree import WholeFile

_TRIES = 6
_ABSENT = 3  # so often must the gateway say that it has an image no more
GONE_AFTER_MS = 60 * 60 * 1000  # a younger task or image that is not there may only be late
_REFUSED_MS = 24 * 60 * 60 * 1000  # so long has a host to refuse what the gateway names before it is gone
_SAID = 5  # warnings about single images; the index has them all
_SLAB = 8 * 1024 * 1024  # a body up to this size takes one hop to a thread

Key = tuple[str, int, int, int]


class ImagesGone(BatchgenError):
    """The images are not to be had; `certain` where time cannot bring them back.

    `by_host`: the gateway still names them, and it is only the images' host that does not hand them out.
    """

    def __init__(self, message: str, *, certain: bool = False, by_host: bool = False) -> None:
        self.certain = certain
        self.by_host = by_host
        super().__init__(message)


class Found(Enum):
    """What one more question for the images of an earlier run found."""

    ALL = auto()
    TASK = auto()  # the task itself, which the gateway did not know before
    NO_MORE = auto()  # by the gateway's own word
    NO_ANSWER = auto()


class Fetcher:
    """Downloads for one account; all lanes share the run's bound on downloads at a time."""

    def __init__(self, context: Context, provider: ValidatedProvider) -> None:
        self._context = context
        self._provider = provider
        self.is_starved = False  # downloads fail, for this process may open no more files

    async def fetch(self, work: Work, *, tries: int = _TRIES) -> None:
        """Fetch every image of a made task that is not here yet.

        Raises ImagesGone where the gateway has them no more; Unclear, NotSent, ImageBroken or LinkRefused where
        they may come another time; RunStopped where the disk refuses.
        """
        context = self._context
        if work.attempt > 1:
            await self._make_room(work)
        links = context.reader.links_to_fetch(work.job.id, work.attempt)
        errors = [error for error in await self._all(work, links, tries) if error is not None]
        stops = [error for error in errors if isinstance(error, RunStopped)]
        may_come = [error for error in errors if not isinstance(error, ImagesGone) or error.by_host]
        for error in stops or may_come or errors:  # gone is only what has nothing left that may still come
            raise error

    async def look_again(self, work: Work) -> Found:
        """Ask once for a task whose images were not to be had, and fetch what it names now. Raises RunStopped."""
        reader, job_id = self._context.reader, work.job.id
        try:
            if self._provider.can_query:
                task = await self._provider.query(work.task_id, work.id_to_echo)
                if not reader.links_of(job_id, work.attempt):
                    return Found.TASK
                await self._relink(work, task)
            await self.fetch(work, tries=1)
        except TaskNotFound:
            return Found.NO_MORE
        except RunStopped:
            raise
        except BatchgenError:
            return Found.NO_ANSWER
        return Found.ALL if reader.attempt_of(job_id).status is Status.DONE else Found.NO_MORE

    async def may_come(self, work: Work, error: BatchgenError) -> bool:
        """Whether images that are not to be had now may be another time, so that nothing is to be ended yet."""
        now = self._context.now_ms()
        if isinstance(error, ImagesGone) and error.by_host:  # the gateway has them, by its own word
            await self._context.record(HostRefused(job_id=work.job.id, attempt=work.attempt, at=now))
            since = self._context.reader.refused_since(work.job.id, work.attempt)
            return since is None or now - since < _REFUSED_MS
        is_certain = isinstance(error, ImagesGone) and error.certain
        return not (is_certain or work.remake) and now - work.accepted_at < GONE_AFTER_MS

    async def _all(self, work: Work, links: list[tuple[ImageLink, bool]], tries: int) -> list[BatchgenError | None]:
        if len(links) == 1:
            ((link, marked),) = links
            return [await self._until_whole(work, link, tries, marked=marked)]
        async with asyncio.TaskGroup() as group:
            downloads = [
                group.create_task(self._until_whole(work, link, tries, marked=marked)) for link, marked in links
            ]
        return [download.result() for download in downloads]

    async def _make_room(self, work: Work) -> None:
        """Images of an earlier attempt are kept under `retired/`: nothing paid for is overwritten."""
        context = self._context
        for image in context.reader.earlier_images(work.job.id, work.attempt):
            path = reconcile.retired_path(image)
            if context.tree.lift(image.key, image.path):
                job_id, attempt, index, marked = image.key
                await context.record(
                    Relocated(job_id=job_id, attempt=attempt, index=index, marked=bool(marked), path=path)
                )
                context.tree.place(image.key, path)

    async def _until_whole(self, work: Work, link: ImageLink, most: int, *, marked: bool) -> BatchgenError | None:
        """Fetch one image, trying again as often as it makes sense; an error is returned, for siblings go on.

        After each failure the task is asked for a new link: the old one may have expired, or name a host that
        is no longer there. Where a task cannot be asked for, the same link is tried again; what came inside the
        create's answer is the same each time.
        """
        context = self._context
        key = (work.job.id, work.attempt, link.index, int(marked))
        url = link.url
        problem: BatchgenError | None = None
        absent = 0
        for tries in range(1, most + 1):
            try:
                await self._record(work, key, await self._as_paid(url, key, query_timeout(tries - 1)))
            except RunStopped as error:
                return error
            except (LinkExpired, LinkRefused, ImageBroken, Unclear, NotSent) as error:
                problem = error
            else:
                return None
            if is_inline(url) and not self._provider.can_query:
                problem = ImagesGone(str(problem), certain=True)
                break
            if tries < most:
                await context.sleep(soon(tries, context.chance))
                try:
                    url = await self._new_link(work, link, marked=marked)
                except AccountStopped as final:
                    return final
                except ImagesGone as gone:
                    absent += 1
                    if absent >= _ABSENT:
                        problem = gone
                        break
                except (Throttled, Unclear, NotSent, JobError) as later:
                    problem = later
        if isinstance(problem, LinkExpired):
            return ImagesGone(f"The image's host does not have the image: {problem}", by_host=True)
        return problem

    async def _as_paid(self, url: str, key: Key, idle: float) -> WholeFile:
        """Fetch one image; one that is odd is fetched twice: what comes twice the same is what was paid for.

        Raises ImageBroken where it does not.
        """
        whole = await self._whole(url, key, idle)
        if whole.info.warning and not is_inline(url):
            again = await self._whole(url, key, idle)
            if again.sha256 != whole.sha256:
                raise ImageBroken(f"The image is odd, and another one each time it is fetched. {whole.info.warning}")
        return whole

    async def _whole(self, url: str, key: Key, idle: float) -> WholeFile:
        """Fetch one image to the disk, however long this process may open no files: that is no fault of the image.

        Raises RunStopped where that lasts.
        """
        context = self._context
        ends = context.clock() + context.rules.give_up_after
        while True:
            try:
                whole = await self._once(url, key, idle)
            except TooFewDescriptors as error:
                self.is_starved = True
                if context.clock() >= ends:
                    raise RunStopped(
                        f"Images cannot be fetched, for this process may open too few files: {error} Nothing more is"
                        " sent. Raise the limit (ulimit -n), then run again to go on."
                    ) from error
                await context.sleep(soon(3, context.chance))
            else:
                self.is_starved = False
                return whole

    async def _once(self, url: str, key: Key, idle: float) -> WholeFile:
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
        async with self._context.downloader.image(url, base_url=base_url, idle_timeout=idle) as body:
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
        warning = self._warning(key, whole)
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
                warning=warning,
            ),
            then=partial(context.tree.place, key, path),  # a rename waits for the disk's journal
        )
        context.counters.images_done += not marked
        if warning:
            context.stats.warned += 1
            if context.stats.warned <= _SAID:
                context.say(f"{path}: {warning}")

    def _warning(self, key: Key, whole: WholeFile) -> str:
        """What is odd about a file, by itself and against the one that stood there before it was lost."""
        before = self._context.reader.lost_sha256(key)
        if before is None or before == whole.sha256:
            return whole.info.warning
        differs = f"It is not the image that was lost, whose sha256 was {before}: the gateway sends other bytes now."
        return f"{differs} {whole.info.warning}".strip()

    async def _new_link(self, work: Work, link: ImageLink, *, marked: bool) -> str:
        if not self._provider.can_query:
            return link.url
        try:
            task = await self._provider.query(work.task_id, work.id_to_echo)
        except TaskNotFound as error:
            raise ImagesGone("The gateway no longer knows the task, and the image's link has expired.") from error
        await self._relink(work, task)
        for fresh, is_marked in self._context.reader.links_to_fetch(work.job.id, work.attempt):
            if (fresh.index, is_marked) == (link.index, marked) and self._names(task, fresh.url):
                return fresh.url
        raise ImagesGone("The gateway's task no longer names the image.")

    async def _relink(self, work: Work, task: Task) -> None:
        """Take over the links that a task names now, each for the image that it was before."""
        known = self._context.reader.links_of(work.job.id, work.attempt)
        if links := task.images(work.units, known):
            await self._context.record(Relinked(job_id=work.job.id, attempt=work.attempt, links=links))

    @staticmethod
    def _names(task: Task, url: str) -> bool:
        return any(url in {link.url, link.watermark_url} for link in task.links)
