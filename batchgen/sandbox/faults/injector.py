"""Injects the faults of a schedule into answers, tasks and callbacks."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

from batchgen.sandbox.api_error import ApiError
from batchgen.sandbox.faults.callbacks import FaultyCallbacks
from batchgen.sandbox.faults.images import DAMAGES
from batchgen.sandbox.faults.schedule import FaultSchedule
from batchgen.sandbox.faults.table import Act, Fault, Occasion
from batchgen.sandbox.injector import InjectedAnswer, Injector

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.sandbox.callbacks import Callbacks
    from batchgen.sandbox.faults.schedule import FaultSettings
    from batchgen.sandbox.injector import Damage
    from batchgen.sandbox.tasks import Task

_HANG_SECONDS = 3600.0
_PAGE = "<!doctype html><title>{status}</title><center><h1>{status}</h1><hr>proxy</center>\n"


class FaultInjector(Injector):
    """`closing` is set when the sandbox stops, which ends the requests that hang."""

    def __init__(self, settings: FaultSettings, seed: int, closing: asyncio.Event) -> None:
        super().__init__()
        self._schedule = FaultSchedule(settings, seed)
        self._closing = closing

    def before_create(self) -> None:
        """Inject a fault of CREATE_BEFORE."""
        self._inject(self._next(Occasion.CREATE_BEFORE))

    def after_create(self) -> None:
        """Inject a fault of CREATE_AFTER."""
        self._inject(self._next(Occasion.CREATE_AFTER))

    def query(self) -> None:
        """Inject a fault of QUERY."""
        self._inject(self._next(Occasion.QUERY))

    def image(self) -> Damage | None:
        """Inject a fault of IMAGE; damage is done later, to the whole answer."""
        fault = self._next(Occasion.IMAGE)
        if fault is not None and fault.act in DAMAGES:
            return DAMAGES[fault.act]
        self._inject(fault)
        return None

    def task_failure(self, number: int) -> str:
        """Why the task with this number fails; empty for one that does not."""
        return "an injected fault: the generation failed" if self._next(Occasion.TASK, number) else ""

    def callbacks(self, clock: Callable[[], int], body_of: Callable[[Task, int], bytes]) -> Callbacks:
        """What sends the callbacks."""
        return FaultyCallbacks(clock, body_of, self._next_callback_act)

    def _next_callback_act(self) -> Act | None:
        fault = self._next(Occasion.CALLBACK)
        return fault.act if fault else None

    def _next(self, occasion: Occasion, number: int | None = None) -> Fault | None:
        fault = self._schedule.next(occasion, number)
        if fault is not None:
            self.counts[fault.name] += 1
        return fault

    def _inject(self, fault: Fault | None) -> None:
        """Raise what takes the place of the answer."""
        if fault is None:
            return
        if fault.act is Act.REFUSE:
            raise ApiError(fault.code, retry_after=fault.retry_after)
        if fault.act in {Act.PAGE, Act.EXPIRE}:
            status = fault.code or 404
            raise InjectedAnswer(f"{status} page", lambda _request: _send_page(status))
        raise InjectedAnswer(str(fault.act), self._hang if fault.act is Act.HANG else _cut)

    async def _hang(self, request: web.BaseRequest) -> web.StreamResponse:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), _HANG_SECONDS)
        return await _cut(request)


async def _send_page(status: int) -> web.StreamResponse:
    return web.Response(text=_PAGE.format(status=status), status=status, content_type="text/html")


async def _cut(request: web.BaseRequest) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()  # is not sent
