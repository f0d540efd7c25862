"""What one account lets through: its slots, its rate and its back-off, and what its answers change of them.

A task holds as many units as it makes images, from its create until it ends (kling.md, Concurrency).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

from batchgen.engine.adaptive_limit import AdaptiveLimit
from batchgen.engine.outage import Outage
from batchgen.engine.retry import Backoff, retry_after_of
from batchgen.engine.timings import Phase, SlotTime
from batchgen.errors import ProxyBusy, TooFast, TooManyRunning

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from batchgen.catalog.accounts import Account
    from batchgen.engine.attempt import Attempt
    from batchgen.engine.context import Context
    from batchgen.errors import BatchgenError, RunStopped

MAX_PASSES = 8  # so many times may smaller tasks pass a waiting larger one, then it is its turn
_SEARCHED_UNITS = 200  # of an account without a stated limit; more in flight cost more than they bring
_SECONDS_PER_STEP = 1.0  # so much time raises the concurrency like one accepted create: slow tasks are few
_LEAST_RATE = 1.0 / 60.0  # creates a second
_FAR_BELOW = 0.9  # of the units: a task that is refused below this is refused for another reason
_BELOW_REFUSED_RATE = 0.9  # of a rate that was refused: taken as accepted


def quota(creates_per_minute: float | None) -> AsyncLimiter | None:
    """A limiter under which no minute sees more creates than this, not even the first.

    `AsyncLimiter(N, 60)` lets 2N - 1 through in its first minute; a small burst `b` leaking over
    `b * 60 / (N - b)` seconds keeps the worst minute at N.
    """
    if creates_per_minute is None:
        return None
    if creates_per_minute <= 2:
        return AsyncLimiter(1, 60.0 / creates_per_minute)
    burst = max(1.0, creates_per_minute // 100) if creates_per_minute > 1200 else 1.0
    return AsyncLimiter(burst, burst * 60.0 / (creates_per_minute - burst))


def max_units(account: Account) -> int:
    """The most units that may ever be in use; an account without a stated limit is searched for one."""
    return max(account.concurrency, _SEARCHED_UNITS) if account.adaptive_concurrency else account.concurrency


class SlotPermit:
    """The slots of one attempt, from before its create until its task has ended. `release` may be called again."""

    __slots__ = ("_limits", "_phase", "sent", "units")

    def __init__(self, limits: AccountLimits, units: int, sent: float) -> None:
        self._limits = limits
        self._phase: Phase | None = None
        self.units = units
        self.sent = sent  # by the monotonic clock
        self.enter(Phase.RECORDING)

    def enter(self, phase: Phase | None) -> None:
        """What holds the slots from now on; None is nothing."""
        self._limits.time.move(self.units, out_of=self._phase, into=phase)
        self._phase = phase

    def release(self) -> None:
        """The task has ended, or there is none."""
        if self.units:
            self.enter(None)
            self.units = 0
            self._limits.wake.set()


class CreateRate:
    """Creates a second that the account accepts; without a bound until it refuses one. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sent: deque[float] = deque([-math.inf], maxlen=1024)
        self._limit = AdaptiveLimit(math.inf, least=_LEAST_RATE)
        self.accepted = self._limit.accepted

    def closed_for(self) -> float:
        """Seconds until the next create may be sent; 0 when it may now."""
        return max(0.0, self._sent[-1] + 1.0 / self._limit.value - self._clock())

    def sent(self) -> float:
        """A create is sent now; the answer is this moment."""
        self._sent.append(self._clock())
        return self._sent[-1]

    def refused(self, sent: float) -> None:
        """The create sent at this moment was too fast."""
        now, rate = self._clock(), self._limit.value
        if math.isinf(rate):
            rate = max(1.0, sum(each > now - 1.0 for each in self._sent))
        self._limit.refused(_BELOW_REFUSED_RATE * rate, sent=sent, now=now)


class AccountLimits:
    """Decides what may be sent now, and learns from each answer. `wake` is set when more may be sent than before.

    `can_ask`: whether the account can be asked what became of a create.
    """

    def __init__(
        self,
        context: Context,
        account: Account,
        *,
        can_ask: bool,
        wake: asyncio.Event,
    ) -> None:
        self._clock = clock = context.clock
        self._concurrency = AdaptiveLimit(account.concurrency, least=1, most=max_units(account), decrease=1.0)
        self._reached = 0  # units of accepted tasks that ran at a time, as far as the account has not taken it back
        self._accepted_at = clock()
        self._rate = CreateRate(clock)
        self._is_full = False  # whether an attempt waits that did not fit: only then more units would be used
        self._passed = 0  # how often a smaller task passed the first one that waits
        self.time = SlotTime(clock, lambda: self.units)
        self.backoff = Backoff(context)
        self.wake = wake
        self.outage = Outage(context, account.name, can_ask=can_ask, wake=wake)

    @property
    def units(self) -> int:
        """How many units the account lets run at a time, as far as is known."""
        return int(self._concurrency.value)

    @property
    def in_use(self) -> int:
        """Units held. May exceed `units`: tasks of an earlier run hold theirs whatever the limit is now."""
        return self.time.held

    def closed_for(self) -> float:
        """Seconds until the next create may be sent; 0 when it may now, slots permitting."""
        return max(self.backoff.closed_for(), self._rate.closed_for())

    def has_room(self, units: int) -> bool:
        """Whether so many units are free."""
        return not self.in_use or self.units - self.in_use >= units

    def choose(self, waiting: Sequence[Attempt]) -> int | None:
        """The position of the next attempt that fits; None where none does.

        First come, first served; but a smaller task may pass a larger one a few times, and a task that is alone may
        always try.
        """
        free = self.units - self.in_use if self.in_use else math.inf
        self._is_full = False
        for position, attempt in enumerate(waiting):
            if attempt.units <= free:
                return position
            if self._passed >= MAX_PASSES:
                break
        self._is_full = bool(waiting)
        return None

    def acquire(self, units: int, *, passes: bool) -> SlotPermit:
        """The slots of an attempt that was chosen and is sent now. `passes`: it was not the first that waits."""
        self._passed = self._passed + 1 if passes else 0
        return SlotPermit(self, units, self._rate.sent())

    def resume(self, units: int) -> SlotPermit:
        """The slots of what an earlier run began, whether or not they are free."""
        return SlotPermit(self, units, -math.inf)

    def accepted(self, permit: SlotPermit) -> None:
        now = self._clock()
        self.backoff.succeeded()
        self._rate.accepted()
        self._reached = max(self._reached, self.time.running + permit.units)
        if self._is_full:
            self._concurrency.accepted(1.0 + (now - self._accepted_at) / _SECONDS_PER_STEP)
        self._accepted_at = now

    def unclear(self, error: BatchgenError) -> RunStopped | None:
        """A create or a probe had no clear answer: during an outage, that is a refusal."""
        return self.backoff.refused(error) if self.outage.is_on else None

    def refused(self, permit: SlotPermit, error: BatchgenError) -> RunStopped | None:
        """Its create was not accepted for now; the answer is a reason to stop, when that has lasted too long."""
        requested = self.in_use  # with this task
        permit.release()
        closes = True
        if isinstance(error, TooManyRunning):
            is_proven = requested <= max(self._reached, _FAR_BELOW * self.units)
            level = self.in_use if is_proven else max(self.in_use, self._reached)
            if self._concurrency.refused(level, sent=math.inf, now=self._clock(), is_proven=is_proven):
                self._reached = min(self._reached, self.units)
            # Where all slots are in use, the next one that is released is enough to wait for.
            closes = self.in_use < self.units or self.in_use == 0 or retry_after_of(error) is not None
        elif isinstance(error, TooFast) and not (isinstance(error, ProxyBusy) and self.outage.is_account_in_trouble):
            self._rate.refused(permit.sent)
        return self.backoff.refused(error, closes=closes)
