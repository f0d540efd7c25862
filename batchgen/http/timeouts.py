"""A time-out that counts only while somebody could have seen the answer.

A process that was stopped (Ctrl-Z, a debugger, a paused virtual machine) finds on waking that its time is over, while
the answer lies unread in the socket. The event loop would then cancel the request before anybody has read it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_GRACE_SECONDS = 1.0  # in which what lies in the sockets is read, after the time is over
_LATE_SECONDS = 0.25  # a timer that comes so late was held up: the process did not run


class RequestTimeout:
    """How long one request may still take; `sent` tells whether any of it may have left."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self.sent = False
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def restart(self, seconds: float) -> None:
        """Give it so many seconds from now."""
        self.stop()
        self._timer = self._loop.call_later(seconds, self._time_is_over)

    def stop(self) -> None:
        """Give it all the time there is."""
        if self._timer is not None:
            self._timer.cancel()

    def _time_is_over(self) -> None:
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
    """Raise TimeoutError when the time is over, and a second in which everything that had arrived was read."""
    async with asyncio.timeout(None) as limit:
        timeout = RequestTimeout(limit)
        timeout.restart(seconds)
        try:
            yield timeout
        finally:
            timeout.stop()


def seconds_asleep() -> float:
    """How long this machine was suspended since it started; its difference tells whether it slept in between.

    `time.monotonic` stands still meanwhile (on Linux and macOS), and so do the timers of the event loop.
    """
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):  # Linux; macOS, where Python's monotonic is another clock
        if (clock := getattr(time, name, None)) is not None:
            return time.clock_gettime(clock) - time.monotonic()
    return 0.0
