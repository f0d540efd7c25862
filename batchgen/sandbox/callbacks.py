"""Sends a callback at each change of a task. A callback that fails is not sent again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from batchgen.sandbox.tasks import Task

_MAX_CONCURRENT = 32
_TIMEOUT = aiohttp.ClientTimeout(total=5)
_HEADERS = {"Content-Type": "application/json"}


class Callbacks:
    """Follows tasks until they end. `clock` gives Unix milliseconds, `body_of` a callback's body at a moment."""

    def __init__(self, clock: Callable[[], int], body_of: Callable[[Task, int], bytes]) -> None:
        self._clock = clock
        self.body_of = body_of
        self._followers: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)
        self._session: aiohttp.ClientSession | None = None

    def follow(self, task: Task, after: int) -> None:
        """Send a callback at each change of the task after this moment."""
        moments = [moment for moment in (task.created_at, task.starts_at, task.ends_at) if moment > after]
        self.start(self.send_changes(task, moments))

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Run this beside everything else, until `close`."""
        follower = asyncio.create_task(work)
        self._followers.add(follower)
        follower.add_done_callback(self._followers.discard)

    async def close(self) -> None:
        for follower in tuple(self._followers):
            follower.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def send_changes(self, task: Task, moments: list[int]) -> None:
        """Wait for each change, and send its callback."""
        for moment in moments:
            await self.sleep_until(moment)
            await self.post(task, self.body_of(task, moment))

    async def sleep_until(self, moment: int) -> None:
        await asyncio.sleep(max(0, moment - self._clock()) / 1000)

    async def post(self, task: Task, *bodies: bytes) -> None:
        """Send the bodies one after the other; a gateway does not care whether they arrive."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_TIMEOUT)
        for body in bodies:
            try:
                async with self._slots, self._session.post(task.request.callback_url, data=body, headers=_HEADERS):
                    pass
            except (aiohttp.ClientError, TimeoutError, ValueError):
                continue
