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
    """Set by whoever comes first; a later request may only shorten what is in flight.

    A part of the run that can end by itself (another account's lane) has a stop of its own: `child`.
    """

    def __init__(self) -> None:
        self.reason: BatchgenError | None = None
        self.asked = asyncio.Event()
        self._ends: float | None = None  # by the loop's clock; None: what is in flight is finished
        self._shortened = asyncio.Event()
        self._children: list[Stop] = []

    def child(self) -> Stop:
        """A stop that obeys this one, and whose own requests stay its own."""
        stop = Stop()
        self._children.append(stop)
        return stop

    @property
    def is_asked(self) -> bool:
        """Whether nothing new is to be begun."""
        return self.reason is not None

    def request(self, reason: BatchgenError, *, grace: float | None) -> None:
        """Begin nothing more; give what is in flight `grace` seconds, or all the time it needs.

        A signal is the reason even where there was another one: it is what the user did last.
        """
        if self.reason is None or isinstance(reason, Interrupted):
            self.reason = reason
        if grace is not None:
            ends = asyncio.get_running_loop().time() + grace
            if self._ends is None or ends < self._ends:
                self._ends = ends
                shortened, self._shortened = self._shortened, asyncio.Event()
                shortened.set()
        self.asked.set()
        for child in self._children:
            child.request(reason, grace=grace)

    async def grace_over(self) -> None:
        """Return when what is in flight has had its time; never, while it may take all it needs."""
        while True:
            left = None if self._ends is None else max(0.0, self._ends - asyncio.get_running_loop().time())
            try:
                async with asyncio.timeout(left):
                    await self._shortened.wait()
            except TimeoutError:
                return
