"""Injects the faults of a schedule into answers, tasks, downloads and callbacks."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import web

from batchgen.sandbox.api_error import ApiError
from batchgen.sandbox.callbacks import Callbacks
from batchgen.sandbox.faults.schedule import FaultSchedule
from batchgen.sandbox.faults.table import Act, Fault
from batchgen.sandbox.injector import InjectedAnswer, Injector, Occasion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchgen.sandbox.faults.schedule import FaultSettings
    from batchgen.sandbox.injector import Damage
    from batchgen.sandbox.tasks import Task

_HANG_SECONDS = 3600.0
_CALLBACK_DELAY = 1000  # milliseconds after the task's end
_PAGE = "<!doctype html><title>{status}</title><center><h1>{status}</h1><hr>proxy</center>\n"


class FaultInjector(Injector):
    """`closing` is set when the sandbox stops, which ends the requests that hang."""

    def __init__(self, settings: FaultSettings, seed: int, closing: asyncio.Event) -> None:
        super().__init__()
        self._schedule = FaultSchedule(settings, seed)
        self._closing = closing

    def inject(self, occasion: Occasion) -> Damage | None:
        """Raise what takes the place of the answer, or return the damage to a download."""
        fault = self._next(occasion)
        if fault is None:
            return None
        if fault.act in _DAMAGES:
            return _DAMAGES[fault.act]
        if fault.act is Act.REFUSE:
            raise ApiError(fault.code, retry_after=fault.retry_after)
        if fault.act in {Act.PAGE, Act.EXPIRE}:
            status = fault.code or 404
            raise InjectedAnswer(f"{status} page", lambda _request: _send_page(status))
        raise InjectedAnswer(str(fault.act), self._hang if fault.act is Act.HANG else _cut)

    def task_failure(self, number: int) -> str:
        return "an injected fault: the generation failed" if self._next(Occasion.TASK, number) else ""

    def callbacks(self, clock: Callable[[], int], body_of: Callable[[Task, int], bytes]) -> Callbacks:
        return FaultyCallbacks(clock, body_of, lambda: self._next(Occasion.CALLBACK))

    def _next(self, occasion: Occasion, number: int | None = None) -> Fault | None:
        fault = self._schedule.next(occasion, number)
        if fault is not None:
            self.counts[fault.name] += 1
        return fault

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


# --- damage to downloads --------------------------------------------------------------------------------------


async def _truncate(request: web.BaseRequest, content: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(headers={**headers, "Content-Length": str(len(content))})
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


async def _shorten(_request: web.BaseRequest, content: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    return web.Response(body=content[: len(content) // 2], headers=headers)


async def _corrupt(_request: web.BaseRequest, content: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    middle = len(content) // 2
    damaged = bytes(byte ^ 0x55 for byte in content[middle : middle + 64])
    return web.Response(body=content[:middle] + damaged + content[middle + 64 :], headers=headers)


_DAMAGES: Mapping[Act, Damage] = {Act.TRUNCATE: _truncate, Act.SHORTEN: _shorten, Act.CORRUPT: _corrupt}


class FaultyCallbacks(Callbacks):
    """Callbacks that are lost, repeated, late, in disorder or forged, as `next_fault` says."""

    def __init__(
        self,
        clock: Callable[[], int],
        body_of: Callable[[Task, int], bytes],
        next_fault: Callable[[], Fault | None],
    ) -> None:
        super().__init__(clock, body_of)
        self._next_fault = next_fault

    async def send_changes(self, task: Task, moments: list[int]) -> None:
        """Wait for each change, and send its callback as the fault wants it."""
        swapped: list[bytes] = []  # sent after the callback that follows them
        for moment in moments:
            await self.sleep_until(moment)
            fault = self._next_fault()
            act = fault and fault.act
            body = self.body_of(task, moment)
            bodies = [body, *swapped]
            swapped = []
            match act:
                case Act.SWAP:
                    bodies, swapped = bodies[1:], [body]
                case Act.LOSE:
                    del bodies[0]
                case Act.DELAY:
                    del bodies[0]
                    self.start(self._send_late(task, body))
                case Act.REPEAT:
                    bodies.insert(0, body)
                case Act.INVENT:
                    bodies.insert(0, self.body_of(replace(task, id=f"{task.id}0"), task.ends_at))
                case Act.LIE:
                    bodies.insert(0, self._false_end(task, moment))
            await self.post(task, *bodies)
        await self.post(task, *swapped)

    def _false_end(self, task: Task, moment: int) -> bytes:
        """The task's own end before its time for tasks with an even number; for others the opposite of its end."""
        if moment < task.ends_at and task.number % 2 == 0:
            return self.body_of(task, task.ends_at)
        failure = "" if task.failure else "nothing failed: this callback is forged"
        return self.body_of(replace(task, failure=failure), task.ends_at)

    async def _send_late(self, task: Task, body: bytes) -> None:
        await self.sleep_until(task.ends_at + _CALLBACK_DELAY)
        await self.post(task, body)
