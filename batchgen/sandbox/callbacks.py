"""Calls to the user's own address at each change of a task: sent, and forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp

from batchgen.sandbox import responses
from batchgen.sandbox.faults.schedule import Act, Occasion

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from batchgen.sandbox.faults.schedule import FaultSchedule
    from batchgen.sandbox.links import Links
    from batchgen.sandbox.task import Task
    from batchgen.sandbox.usage import Usage

_AT_ONCE = 32
_LATE_MS = 1000  # after the task's end
_PATIENCE = aiohttp.ClientTimeout(total=5)


class Callbacks:
    """Follows the tasks that want to be called back, one small coroutine each, until they end."""

    def __init__(
        self, forecast: FaultSchedule, bill: Usage, clock: Callable[[], int], links: Callable[[], Links]
    ) -> None:
        self._forecast = forecast
        self._bill = bill
        self._clock = clock
        self._links = links
        self._followers: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    def follow(self, task: Task, after: int) -> None:
        """Call at each change of the task that comes after this moment (Unix milliseconds)."""
        self._begin(self._follow(task, after))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        follower = asyncio.create_task(work)
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
        held: list[bytes] = []  # until the next call is made
        for moment in (task.created_at, task.begins_at, task.ends_at):
            if moment > after:
                await self._until(moment)
                held = await self._call(task, moment, held)
        await self._post(task, held)

    async def _call(self, task: Task, moment: int, held: list[bytes]) -> list[bytes]:
        """Make the call of one change and those that were held; what is to be held until the next one."""
        body = responses.task(task, moment, self._links()).encode()
        fault = self._forecast.next(Occasion.CALLBACK)
        if fault is not None:
            self._bill.count_fault(fault.name)
        bodies: list[bytes] = []
        match fault and fault.act:
            case Act.SWAP:
                await self._post(task, held)
                return [body]
            case Act.DELAY:
                self._begin(self._call_late(task, body))
            case Act.LOSE:
                pass
            case Act.REPEAT:
                bodies = [body, body]
            case Act.INVENT:
                bodies = [responses.task(replace(task, id=f"{task.id}0"), task.ends_at, self._links()).encode(), body]
            case Act.LIE:
                bodies = [self._false_end(task, moment), body]
            case _:
                bodies = [body]
        await self._post(task, [*bodies, *held])
        return []

    def _false_end(self, task: Task, moment: int) -> bytes:
        """An end that is not so: the other one than the task's, or its own before its time, by turns."""
        is_early = moment < task.ends_at and task.number % 2 == 0
        other = replace(task, failure="" if task.failure else "nothing failed: this call is forged")
        return responses.task(task if is_early else other, task.ends_at, self._links()).encode()

    async def _call_late(self, task: Task, body: bytes) -> None:
        await self._until(task.ends_at + _LATE_MS)
        await self._post(task, [body])

    async def _until(self, moment: int) -> None:
        await asyncio.sleep(max(0, moment - self._clock()) / 1000)

    async def _post(self, task: Task, bodies: list[bytes]) -> None:
        """One call after the other. Whether anybody is there is not the gateway's business."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_PATIENCE)
        for body in bodies:
            try:
                async with (
                    self._slots,
                    self._session.post(
                        task.order.callback_url, data=body, headers={"Content-Type": "application/json"}
                    ),
                ):
                    pass
            except (aiohttp.ClientError, TimeoutError, ValueError):
                continue
