"""The image host: serves the images of finished tasks, and damages them where the weather says so."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from batchgen.sandbox import painter
from batchgen.sandbox.refusal import Refusal
from batchgen.sandbox.task import State, Task
from batchgen.sandbox.weather import Act, Fault, Occasion

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from batchgen.sandbox.register import Register
    from batchgen.sandbox.settings import Settings

_PAINTERS = 2
_PNG = {"Content-Type": "image/png"}


class _Weather(Protocol):
    """Gives the fault that strikes on an occasion where the caller can bear it; any other is raised."""

    def __call__(self, occasion: Occasion, bearable: Collection[Act] = ()) -> Fault | None: ...


class ImageHost:
    """Answers `/images/TASK/INDEX.png`, and `INDEX-watermark.png` for the copy. `clock` gives Unix milliseconds."""

    def __init__(self, settings: Settings, register: Register, clock: Callable[[], int], weather: _Weather) -> None:
        self._register = register
        self._clock = clock
        self._weather = weather
        self._gallery = painter.Gallery(painted=settings.paint)
        self._painters = ThreadPoolExecutor(_PAINTERS, thread_name_prefix="painter")

    def close(self) -> None:
        """Let the painters finish what they are at."""
        self._painters.shutdown(wait=True, cancel_futures=True)

    async def answer(self, request: web.BaseRequest, path: str, _query: str) -> web.StreamResponse:
        """The image at this path, whole or damaged. Raises Refusal (1203) where there is none."""
        task, index, watermark = self._find(path)
        damage = self._weather(Occasion.IMAGE, bearable=_DAMAGES)
        content = await self.content(task, index, watermark=watermark)
        if damage is not None:
            content = _DAMAGES[damage.act](content)
        if damage is not None and damage.act is Act.TRUNCATE:
            return await _break_off(request, content)
        return web.Response(body=content, headers=_PNG)

    async def content(self, task: Task, index: int, *, watermark: bool = False) -> bytes:
        """One image of a task, painted where it is not there yet."""
        content = self._gallery.ready(task.order, task.id, index, watermark=watermark)
        if content is None:
            content = await asyncio.get_running_loop().run_in_executor(
                self._painters, lambda: self._gallery.make(task.order, task.id, index, watermark=watermark)
            )
        return content

    def _find(self, path: str) -> tuple[Task, int, bool]:
        """The image behind the path, or its watermarked copy. Raises Refusal (1203)."""
        task_id, _, name = path.removeprefix("/images/").partition("/")
        stem = name.removesuffix(".png")
        number = stem.removesuffix("-watermark")
        task = self._register.find(task_id, by_external_id=False)
        ready = task.state(self._clock()) is State.SUCCEED
        marked = number != stem
        if not ready or stem == name or number not in map(str, range(task.order.n)):
            raise Refusal(1203, f"there is no image {path}")
        if marked and not task.order.watermark:
            raise Refusal(1203, f"task {task_id} was not asked for watermarked copies")
        return task, int(number), marked


async def _break_off(request: web.BaseRequest, half: bytes) -> web.StreamResponse:
    """Announce twice as much as there is, and leave after it."""
    response = web.StreamResponse(headers={**_PNG, "Content-Length": str(2 * len(half))})
    await response.prepare(request)
    await response.write(half)
    if request.transport is not None:
        request.transport.close()
    return response


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


_DAMAGES = {Act.TRUNCATE: _half, Act.SHORTEN: _half, Act.CORRUPT: painter.damaged}
