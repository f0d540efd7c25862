"""Calls to the user's own address at each change of a task: sent, and forgotten."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from batchgen.sandbox import wording
from batchgen.sandbox.weather import Act, Occasion

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.sandbox.bill import Bill
    from batchgen.sandbox.task import Task
    from batchgen.sandbox.weather import Forecast

_AT_ONCE = 32
_PATIENCE = aiohttp.ClientTimeout(total=5)


class Callbacks:
    """Follows the tasks that want to be called back, one small coroutine each, until they end."""

    def __init__(self, forecast: Forecast, bill: Bill, clock: Callable[[], int], origin: str) -> None:
        self._forecast = forecast
        self._bill = bill
        self._clock = clock
        self._origin = origin
        self._followers: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    def follow(self, task: Task, after: int) -> None:
        """Call at each change of the task that comes after this moment (Unix milliseconds)."""
        follower = asyncio.create_task(self._follow(task, after))
        self._followers.add(follower)
        follower.add_done_callback(self._followers.discard)

    async def close(self) -> None:
        """Make no more calls."""
        for follower in tuple(self._followers):
            follower.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _follow(self, task: Task, after: int) -> None:
        for moment in (task.created_at, task.begins_at, task.ends_at):
            if moment > after:
                await asyncio.sleep(max(0, moment - self._clock()) / 1000)
                await self._call(task, moment)

    async def _call(self, task: Task, moment: int) -> None:
        fault = self._forecast.next(Occasion.CALLBACK)
        if fault is not None:
            self._bill.count_fault(fault.name)
        if fault is not None and fault.act is Act.LOSE:
            return
        body = wording.task(task, moment, self._origin).encode()
        for _ in range(2 if fault is not None and fault.act is Act.REPEAT else 1):
            await self._post(task.order.callback_url, body)

    async def _post(self, url: str, body: bytes) -> None:
        """One call. Whether anybody is there is not the gateway's business."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_PATIENCE)
        try:
            async with (
                self._slots,
                self._session.post(url, data=body, headers={"Content-Type": "application/json"}),
            ):
                pass
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return
