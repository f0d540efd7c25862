"""A timeout that counts only while the process runs.

A process that was stopped (Ctrl-Z, a debugger, a paused virtual machine) wakes after its timeout, while the answer is
unread in the socket. The event loop would cancel the request before it reads the answer.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from batchgen.clocks import since_boot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_GRACE_SECONDS = 1.0  # after the timeout, to read what is in the sockets
_LATE_SECONDS = 0.25  # a timer that is so late was delayed: the process did not run


class RequestTimeout:
    """The time left for one request; `sent` is whether any of it may have left."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self.sent = False
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def restart(self, seconds: float) -> None:
        self.stop()
        self._timer = self._loop.call_later(seconds, self._start_grace)

    def part_sent(self, seconds: float) -> None:
        """A part of the request leaves: allow so many seconds for the answer from now on."""
        self.sent = True
        self.restart(seconds)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _start_grace(self) -> None:
        self._grace_ends(self._loop.time() + _GRACE_SECONDS)

    def _grace_ends(self, due: float) -> None:
        """Only a grace period in which the process ran all the time ends the request."""
        self._timer = self._loop.call_at(due, self._end, due)

    def _end(self, due: float) -> None:
        now = self._loop.time()
        if now > due + _LATE_SECONDS:
            self._grace_ends(now + _GRACE_SECONDS)
        else:
            self._limit.reschedule(now)


@asynccontextmanager
async def request_timeout(seconds: float) -> AsyncIterator[RequestTimeout]:
    """Raise TimeoutError after so many seconds, and one more in which everything that had arrived was read."""
    async with asyncio.timeout(None) as limit:
        timeout = RequestTimeout(limit)
        timeout.restart(seconds)
        try:
            yield timeout
        finally:
            timeout.stop()


def seconds_asleep() -> float:
    """How long this machine was suspended since it started; the difference between two calls shows whether it slept."""
    return since_boot() - time.monotonic()
