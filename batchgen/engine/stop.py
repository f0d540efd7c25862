"""The end of a run before its time: who asked for it, why, and how long what is in flight may take."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from batchgen.errors import RunStopped

if TYPE_CHECKING:
    from batchgen.errors import BatchgenError


class Interrupted(RunStopped):
    """A signal ended the run; `exit_code` is 128 and the signal's number, as shells have it."""

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class Stop:
    """Set once, by whoever comes first; a later request may only shorten what is in flight."""

    def __init__(self) -> None:
        self.reason: BatchgenError | None = None
        self.grace: float | None = None  # seconds; None: what is in flight is finished
        self.asked = asyncio.Event()
        self._hurried = asyncio.Event()

    @property
    def is_asked(self) -> bool:
        """Whether nothing new is to be begun."""
        return self.reason is not None

    def request(self, reason: BatchgenError, *, grace: float | None) -> None:
        """Begin nothing more; give what is in flight `grace` seconds, or all the time it needs."""
        if self.reason is None:
            self.reason = reason
        if grace is not None and (self.grace is None or grace < self.grace):
            self.grace = grace
            self._hurried.set()
        self.asked.set()

    async def grace_over(self) -> None:
        """Return when what is in flight has had its time; never, while it may take all it needs."""
        while True:
            await self._hurried.wait()
            self._hurried.clear()
            try:
                async with asyncio.timeout(self.grace):
                    await self._hurried.wait()
            except TimeoutError:
                return
