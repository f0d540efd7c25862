"""Fetches the images of a finished task, again and again where that helps, until they are kept or are gone.

A download is free to repeat, a create is not: the answer to every failure here is a new query for a new link, never a
new task.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import TYPE_CHECKING

from batchgen.engine.retry import query_timeout, short_backoff
from batchgen.errors import (
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
    Unkeepable,
)
from batchgen.jobs import ImageKey, Status, is_inline
from batchgen.ledger.events import HostRefused, Relinked

if TYPE_CHECKING:
    from batchgen.engine.attempt import Attempt
    from batchgen.engine.context import Context
    from batchgen.jobs import ImageLink, ReceivedImage
    from batchgen.providers.base import Task
    from batchgen.providers.validated import ValidatedProvider

_TRIES = 6
_ABSENT_ANSWERS = 3  # the gateway must say this often that it no longer has an image
GONE_AFTER_MS = 60 * 60 * 1000  # a younger task or image that is not there may only be late
_REFUSED_MS = 24 * 60 * 60 * 1000  # a host may refuse what the gateway names for so long before it counts as gone
_WARNINGS_SHOWN = 5  # warnings about single images; the index has them all


class ImagesGone(BatchgenError):
    """The images cannot be had; `certain` where time cannot bring them back.

    `by_host`: the gateway still names them, and only the images' host does not hand them out.
    """

    def __init__(self, message: str, *, certain: bool = False, by_host: bool = False) -> None:
        self.certain = certain
        self.by_host = by_host
        super().__init__(message)


class Found(Enum):
    """What one more query for the images of an earlier run found."""

    ALL = auto()
    TASK = auto()  # the task itself, which the gateway did not know before
    NO_MORE = auto()  # the gateway says so
    NO_ANSWER = auto()


class Fetcher:
    def __init__(self, context: Context, provider: ValidatedProvider) -> None:
        self._context = context
        self._provider = provider
        self.is_starved = False  # downloads fail because this process may open no more files

    async def fetch(self, attempt: Attempt, *, tries: int = _TRIES) -> None:
        """Fetch every image of a made task that is not here yet.

        Raises ImagesGone where the gateway no longer has them; Unclear, NotSent, ImageBroken or LinkRefused where
        they may come another time; RunStopped where the disk refuses; Unkeepable.
        """
        if attempt.number > 1:
            await self._context.storage.retire_earlier(attempt.job.id, attempt.number)
        links = self._context.reader.links_to_fetch(attempt.job.id, attempt.number)
        async with asyncio.TaskGroup() as group:
            downloads = [
                group.create_task(self._fetch_one(attempt, link, tries, watermarked=watermarked))
                for link, watermarked in links
            ]
        errors = [error for download in downloads if (error := download.result()) is not None]
        stops = [error for error in errors if isinstance(error, RunStopped | Unkeepable)]
        may_come = [error for error in errors if not isinstance(error, ImagesGone) or error.by_host]
        for error in stops or may_come or errors:  # gone only where nothing is left that may still come
            raise error

    async def look_again(self, attempt: Attempt) -> Found:
        """Query a task whose images could not be had, and fetch what it names now. Raises RunStopped.

        Once, for each later run does so too; what would be paid again, as often as an absence has to be stated.
        """
        for tries in range(1, (_ABSENT_ANSWERS if attempt.remake else 1) + 1):
            if tries > 1:
                await self._context.sleep(short_backoff(tries - 1, self._context.rng))
            if (found := await self._look_once(attempt)) is not Found.NO_MORE:
                break
        return found

    async def _look_once(self, attempt: Attempt) -> Found:
        reader, job_id = self._context.reader, attempt.job.id
        try:
            if self._provider.can_query:
                task = await self._provider.query(attempt.task_id, attempt.id_to_echo)
                if not reader.links_of(job_id, attempt.number):
                    return Found.TASK
                await self._record_links(attempt, task)
            await self.fetch(attempt, tries=1)
        except TaskNotFound:
            return Found.NO_MORE
        except RunStopped:
            raise
        except BatchgenError:
            return Found.NO_ANSWER
        return Found.ALL if reader.attempt_of(job_id).status is Status.DONE else Found.NO_MORE

    async def may_come(self, attempt: Attempt, error: BatchgenError) -> bool:
        """Whether images that cannot be had now may come later, so that the job must not end yet."""
        now = self._context.now_ms()
        if isinstance(error, ImagesGone) and error.by_host:  # the gateway says that it has them
            await self._context.record(HostRefused(job_id=attempt.job.id, attempt=attempt.number, at=now))
            since = self._context.reader.refused_since(attempt.job.id, attempt.number)
            return since is None or now - since < _REFUSED_MS
        is_certain = isinstance(error, ImagesGone) and error.certain
        return not (is_certain or attempt.remake) and now - attempt.accepted_at < GONE_AFTER_MS

    async def _fetch_one(
        self, attempt: Attempt, link: ImageLink, max_tries: int, *, watermarked: bool
    ) -> BatchgenError | None:
        """Fetch one image, as often as it makes sense; an error is returned, so that the siblings go on.

        After each failure the task is queried for a new link: the old one may have expired, or name a host that is no
        longer there. Where a task cannot be queried, the same link is tried again; an image that came inside the
        create's answer is the same each time.
        """
        context = self._context
        key = ImageKey(attempt.job.id, attempt.number, link.index, int(watermarked))
        url = link.url
        problem: BatchgenError | None = None
        absent = 0
        for tries in range(1, max_tries + 1):
            try:
                await self._keep(attempt, key, await self._confirmed(url, key, query_timeout(tries - 1)))
            except (RunStopped, Unkeepable) as error:
                return error
            except (LinkExpired, LinkRefused, ImageBroken, Unclear, NotSent) as error:
                problem = error
            else:
                return None
            if is_inline(url) and not self._provider.can_query:
                problem = ImagesGone(str(problem), certain=True)
                break
            if tries < max_tries:
                await context.sleep(short_backoff(tries, context.rng))
                try:
                    url = await self._new_link(attempt, link, watermarked=watermarked)
                except (RunStopped, Unkeepable) as final:
                    return final
                except ImagesGone as gone:
                    absent += 1
                    if absent >= _ABSENT_ANSWERS:
                        problem = gone
                        break
                except (Throttled, Unclear, NotSent, JobError) as later:
                    problem = later
        if isinstance(problem, LinkExpired):
            return ImagesGone(f"The image's host does not have the image: {problem}", by_host=True)
        return problem

    async def _confirmed(self, url: str, key: ImageKey, idle_timeout: float) -> ReceivedImage:
        """Fetch one image; an unusual one is fetched twice: what comes twice the same is what was paid for.

        Raises ImageBroken where it differs.
        """
        image = await self._received(url, key, idle_timeout)
        if image.warning and not is_inline(url):
            again = await self._received(url, key, idle_timeout)
            if again.sha256 != image.sha256:
                raise ImageBroken(f"The image is unusual, and each download brings another one. {image.warning}")
        return image

    async def _received(self, url: str, key: ImageKey, idle_timeout: float) -> ReceivedImage:
        """Fetch one image, waiting while this process may open no files: that is no fault of the image.

        Raises RunStopped where that lasts.
        """
        context = self._context
        ends = context.clock() + context.policy.give_up_after
        base_url = self._provider.account.base_url
        while True:
            try:
                image = await context.storage.fetch(url, key, base_url=base_url, idle_timeout=idle_timeout)
            except TooFewDescriptors as error:
                self.is_starved = True
                if context.clock() >= ends:
                    raise RunStopped(
                        f"Images cannot be fetched, because this process may open too few files: {error} Nothing more"
                        " is sent. Raise the limit (ulimit -n), then run again to go on."
                    ) from error
                await context.sleep(short_backoff(3, context.rng))
            else:
                self.is_starved = False
                return image

    async def _keep(self, attempt: Attempt, key: ImageKey, image: ReceivedImage) -> None:
        context = self._context
        warning = self._warning(key, image)
        path = await context.storage.keep(attempt.job, key, image, wanted=attempt.wanted, warning=warning)
        context.counters.images_done += not key.watermarked
        if warning:
            context.stats.warned += 1
            if context.stats.warned <= _WARNINGS_SHOWN:
                context.notify(f"{path}: {warning}")

    def _warning(self, key: ImageKey, image: ReceivedImage) -> str:
        """What is unusual about an image, by itself and against the one that stood there before it was lost."""
        before = self._context.reader.lost_sha256(key)
        if before is None or before == image.sha256:
            return image.warning
        differs = f"It is not the image that was lost, whose sha256 was {before}: the gateway sends other bytes now."
        return f"{differs} {image.warning}".strip()

    async def _new_link(self, attempt: Attempt, link: ImageLink, *, watermarked: bool) -> str:
        if not self._provider.can_query:
            return link.url
        try:
            task = await self._provider.query(attempt.task_id, attempt.id_to_echo)
        except TaskNotFound as error:
            raise ImagesGone("The gateway no longer knows the task, and the image's link has expired.") from error
        await self._record_links(attempt, task)
        named = {url for each in task.links for url in (each.url, each.watermark_url)}
        for new, is_watermarked in self._context.reader.links_to_fetch(attempt.job.id, attempt.number):
            if (new.index, is_watermarked) == (link.index, watermarked) and new.url in named:
                return new.url
        raise ImagesGone("The gateway's task no longer names the image.")

    async def _record_links(self, attempt: Attempt, task: Task) -> None:
        """Take over the links that a task names now, each for the image that it was before."""
        known = self._context.reader.links_of(attempt.job.id, attempt.number)
        if links := task.images(attempt.units, known):
            await self._context.record(Relinked(job_id=attempt.job.id, attempt=attempt.number, links=links))
