"""The attempts of one account that wait for a slot: first those that come back, then new ones in their order."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from batchgen.engine.attempt import Attempt
    from batchgen.engine.context import Context
    from batchgen.engine.timings import Idle

_LOOK_AHEAD = 32  # attempts among which a smaller one may be chosen


class WaitingAttempts:
    """`ready` may be sent now; the others have a time, by the monotonic clock, before which they are not.

    `wake` is set when one comes back. Where `starts_new` is false none may, and `on_refused` is called: an account that
    is not the manifest's only finishes what earlier runs began there.
    """

    def __init__(
        self, context: Context, *, wake: asyncio.Event, starts_new: bool, on_refused: Callable[[], None]
    ) -> None:
        self._clock = context.clock
        self._wake = wake
        self._starts_new = starts_new
        self._on_refused = on_refused
        self._delayed: list[tuple[float, int, Attempt]] = []  # a heap, by time
        self._requeued = 0
        self.ready: list[Attempt] = []
        self.is_out_of_funds = False  # the next job waits for refunds
        self.spent = None
        self.may_put_back: Callable[[], bool] = bool
        self.is_over = True  # once nothing waits here, nothing will
        self.is_running_elsewhere = False  # no other account shares what waits here

    def __len__(self) -> int:
        return len(self.ready) + len(self._delayed)

    def requeue(self, attempt: Attempt, seconds: float) -> None:
        """Take an attempt back, to be sent after so many seconds; behind all others where they are infinite."""
        if not self._starts_new:
            self._on_refused()
            return
        self._requeued += 1
        heapq.heappush(self._delayed, (self._clock() + seconds, self._requeued, attempt))
        self._wake.set()

    def take(self, position: int) -> None:
        """Take one of those that are ready."""
        del self.ready[position]

    def keep(self, job_id: str) -> None:
        """Leave a job to this account, as it is in any case."""

    def leave(self) -> None:
        """Take nothing more."""

    def note(self, why: Idle | None) -> None:
        """Why nothing is started now, which matters to nobody else."""

    def fill(self, source: Iterator[Attempt | None]) -> bool:
        """Make attempts ready; returns whether `source` gave None, that is, has more to look at."""
        while self._delayed and self._delayed[0][0] <= self._clock():
            self.ready.insert(0, heapq.heappop(self._delayed)[-1])
        while len(self.ready) < _LOOK_AHEAD:
            try:
                attempt = next(source)
            except StopIteration:
                while not self.ready and self._delayed and self._delayed[0][0] == math.inf:
                    self.ready.append(heapq.heappop(self._delayed)[-1])
                return False
            if attempt is None:
                return not self.ready
            self.ready.append(attempt)
        return False

    def next_in(self) -> float | None:
        """Seconds until the next attempt is ready; None where no time will make one ready."""
        due = self._delayed[0][0] if self._delayed else math.inf
        return None if math.isinf(due) else due - self._clock()
