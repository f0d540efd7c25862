"""The image host: serves the images of finished tasks for as long as it is told, and damages them on bad days."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from batchgen.sandbox import links, painter
from batchgen.sandbox.api_error import Refusal
from batchgen.sandbox.faults.schedule import Act, Fault, Occasion
from batchgen.sandbox.links import Links
from batchgen.sandbox.task import State, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from batchgen.sandbox.register import Register
    from batchgen.sandbox.settings import Settings

_PAINTERS = 2
_EXPIRED = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"  # as object stores say it


class _Weather(Protocol):
    """Gives the fault that strikes on an occasion where the caller can bear it; any other is raised."""

    def __call__(self, occasion: Occasion, bearable: Collection[Act] = ()) -> Fault | None: ...


class ImageHost:
    """Gives links to images and answers them. `clock` gives Unix milliseconds."""

    def __init__(self, settings: Settings, register: Register, clock: Callable[[], int], weather: _Weather) -> None:
        self._settings = settings
        self._register = register
        self._clock = clock
        self._weather = weather
        self._kind = settings.image_format
        self._gallery = painter.Gallery(painted=settings.paint, kind=self._kind, size=settings.image_bytes)
        self._painters = ThreadPoolExecutor(_PAINTERS, thread_name_prefix="painter")

    def close(self) -> None:
        """Let the painters finish what they are at."""
        self._painters.shutdown(wait=True, cancel_futures=True)

    def links(self, origin: str) -> Links:
        """The links that an answer gives now; `origin` is where the caller finds this server."""
        life = self._settings.link_ttl
        expires = None if life is None else self._clock() + round(life * 1000)
        return Links(origin=origin, ext=self._kind.ext, expires=expires)

    async def answer(self, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        """The image at this path, whole or damaged. Raises Refusal (1203) where there is none."""
        task, index, watermark = self._find(path)
        if self._settings.link_ttl is not None and links.has_expired(query, self._clock()):
            return web.Response(status=403, text=_EXPIRED, content_type="application/xml")
        if (hop := _hops(query)) < self._settings.image_redirects:
            rest = "&".join(part for part in query.split("&") if part and not part.startswith("hop="))
            return web.Response(status=302, headers={"Location": f"?{rest}{'&' if rest else ''}hop={hop + 1}"})
        damage = self._weather(Occasion.IMAGE, bearable=_DAMAGES)
        content = await self.content(task, index, watermark=watermark)
        if damage is not None:
            content = _DAMAGES[damage.act](content)
        if damage is not None and damage.act is Act.TRUNCATE:
            return await _break_off(request, content, self._kind.headers)
        return web.Response(body=content, headers=self._kind.headers)

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
        task_id, number, marked = links.read(path, self._kind.ext)
        task = self._register.find(task_id, by_external_id=False)
        if task.state(self._clock()) is not State.SUCCEED or number not in map(str, range(task.order.n)):
            raise Refusal(1203, f"there is no image {path}")
        if marked and not task.order.watermark:
            raise Refusal(1203, f"task {task_id} was not asked for watermarked copies")
        kept = self._settings.image_ttl
        if kept is not None and self._clock() >= task.ends_at + kept * 1000:
            raise Refusal(1203, f"the images of task {task_id} are no longer kept")
        return task, int(number), marked


def _hops(query: str) -> int:
    """How often this link was redirected before."""
    hop = next((part.removeprefix("hop=") for part in query.split("&") if part.startswith("hop=")), "0")
    return int(hop[:9]) if hop.isascii() and hop.isdecimal() else 0


async def _break_off(request: web.BaseRequest, half: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    """Announce twice as much as there is, and leave after it."""
    response = web.StreamResponse(headers={**headers, "Content-Length": str(2 * len(half))})
    await response.prepare(request)
    await response.write(half)
    if request.transport is not None:
        request.transport.close()
    return response


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


_DAMAGES = {Act.TRUNCATE: _half, Act.SHORTEN: _half, Act.CORRUPT: painter.damaged}
