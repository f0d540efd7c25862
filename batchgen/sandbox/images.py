"""The image host: serves the images of tasks that have succeeded, each painted when it is downloaded."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from aiohttp import web

from batchgen.sandbox.api_error import ApiError
from batchgen.sandbox.formats import padded, with_comment
from batchgen.sandbox.injector import Occasion
from batchgen.sandbox.tasks import State, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.sandbox.injector import Injector
    from batchgen.sandbox.settings import Settings
    from batchgen.sandbox.task_store import TaskStore

PREFIX = "/images/"
_WATERMARK = "-watermark"
_PAINTERS = 2  # threads
_EXPIRED = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"  # as object stores say it


class ImageHost:
    """Gives links to images and answers them. `clock` gives Unix milliseconds."""

    def __init__(self, settings: Settings, store: TaskStore, clock: Callable[[], int], injector: Injector) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._injector = injector
        self._kind = settings.image_format
        self._ext = settings.image_format.ext
        self._link_ttl = settings.link_ttl
        self._painters = ThreadPoolExecutor(_PAINTERS, thread_name_prefix="painter")

    def close(self) -> None:
        self._painters.shutdown(wait=True, cancel_futures=True)

    def link(self, origin: str, task: Task, index: int, *, watermark: bool = False) -> str:
        """The link of an image, or of its watermarked copy; `origin` is the address at which the caller reaches us."""
        query = "" if self._link_ttl is None else f"?expires={self._clock() + round(self._link_ttl * 1000)}"
        return f"{origin}{PREFIX}{task.id}/{index}{_WATERMARK if watermark else ''}{self._ext}{query}"

    async def answer(self, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        """The image at this path. Raises ApiError (1203) where there is none."""
        task, index, watermark = self._find(path)
        if (response := self._expired_or_redirected(query)) is not None:
            return response
        damage = self._injector.inject(Occasion.IMAGE)
        content = await self.content(task, index, watermark=watermark)
        if damage is not None:
            return await damage(request, content, self._kind.headers)
        return web.Response(body=content, headers=self._kind.headers)

    async def content(self, task: Task, index: int, *, watermark: bool = False) -> bytes:
        """One image of a task as a file."""
        from batchgen.sandbox import painter  # noqa: PLC0415 - Pillow is loaded only where an image is served

        if self._settings.blank_images:
            flat = painter.blank(painter.size_of(task.request), self._kind)
            content = with_comment(flat, self._kind, f"{task.id}/{index}/{watermark}")  # no two files are the same
        else:
            content = await asyncio.get_running_loop().run_in_executor(
                self._painters,
                lambda: painter.paint(task.request, task.id, index, watermark=watermark, kind=self._kind),
            )
        return padded(content, self._kind, self._settings.image_bytes)

    def _find(self, path: str) -> tuple[Task, int, bool]:
        """Task, index and whether it is the watermarked copy. Raises ApiError (1203)."""
        task_id, _, name = path.removeprefix(PREFIX).partition("/")
        task = self._store.find(task_id, by_external_id=False)
        stem = name.removesuffix(self._ext)
        index = stem.removesuffix(_WATERMARK)
        watermark = index != stem
        is_known = stem != name and index in map(str, range(task.request.n))
        if task.state(self._clock()) is not State.SUCCEED or not is_known:
            raise ApiError(1203, f"there is no image {path}")
        if watermark and not task.request.watermark:
            raise ApiError(1203, f"task {task_id} was not asked for watermarked copies")
        ttl = self._settings.image_ttl
        if ttl is not None and self._clock() >= task.ends_at + ttl * 1000:
            raise ApiError(1203, f"the images of task {task_id} were deleted")
        return task, int(index), watermark

    def _expired_or_redirected(self, query: str) -> web.Response | None:
        """The answer to a link that has expired or redirects; None where it leads to its image."""
        redirects = self._settings.image_redirects
        if self._link_ttl is None and not redirects:
            return None
        values = dict(parse_qsl(query))
        numbers = {name: int(text[:20]) for name, text in values.items() if text.isdecimal()}
        hop = numbers.get("hop", 0)
        if self._link_ttl is not None and self._clock() >= numbers.get("expires", 0):
            return web.Response(status=403, text=_EXPIRED, content_type="application/xml")
        if hop >= redirects:
            return None
        return web.Response(status=302, headers={"Location": f"?{urlencode(values | {'hop': hop + 1})}"})
