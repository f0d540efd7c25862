"""The attempts that wait for any account of a pool: each goes to one account in the moment it is sent.

An attempt that certainly made nothing comes back here, and any account may take the next one. What was sent stays with
its account until it is clear what became of it.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from itertools import count, islice
from typing import TYPE_CHECKING, NamedTuple

from batchgen.budget import cost_of
from batchgen.catalog.pool import PoolOrder
from batchgen.engine.timings import Idle

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Sequence

    from batchgen.budget import Budget
    from batchgen.catalog.accounts import Account
    from batchgen.catalog.pool import Pool
    from batchgen.engine.attempt import Attempt
    from batchgen.engine.shutdown import Stop
    from batchgen.errors import BudgetSpent
    from batchgen.jobs import Parameters

_LOOK_AHEAD = 32  # attempts among which an account may choose a smaller one
_MOST_WAITING = 20_000  # that are read ahead where an account finds nothing that it can make


class _Waiting(NamedTuple):
    """An attempt and its place in the queue, which no other has."""

    place: int
    attempt: Attempt
    takers: tuple[PoolMember, ...]


class PoolQueue:
    """What waits, by the accounts that can make it; `wake` is set when one of them may have more to do.

    `can_make`: whether an account can make a job with these parameters at all; `called_at`: the account that by a
    callback has a task of the job's latest attempt, which was given up.
    """

    def __init__(
        self,
        pool: Pool,
        can_make: Callable[[Account, Parameters], bool],
        called_at: Callable[[str], str | None],
        *,
        clock: Callable[[], float],
        wake: asyncio.Event,
    ) -> None:
        self._pool = pool
        self._is_spread = pool.by is PoolOrder.SPREAD
        self._can_make = can_make
        self._called_at = called_at
        self._clock = clock
        self.wake = wake
        self._members: list[PoolMember] = []  # that have not stopped
        self._all: list[PoolMember] = []
        self._waiting: dict[tuple[PoolMember, ...], deque[_Waiting]] = {}
        self._delayed: list[tuple[float, int, Attempt]] = []  # a heap, by time
        self._takers: dict[Parameters, tuple[PoolMember, ...]] = {}
        self._kept: dict[str, str] = {}  # the account that alone may take a job, by the job
        self._places = count(1)
        self._places_in_front = count(-1, -1)
        self._is_exhausted = False
        self._left = 0  # attempts that no account takes which has not stopped
        self.is_out_of_funds = False  # the next job waits for refunds

    def join(self, account: Account, stop: Stop, budget: Budget) -> PoolMember:
        """An account that takes from the queue; all join before any takes."""
        member = PoolMember(self, account, stop, budget)
        self._all.append(member)
        names = [account.name for account in self._pool.accounts]
        self._members = sorted(self._all, key=lambda each: names.index(each.account.name))
        return member

    @property
    def is_over(self) -> bool:
        """Whether no account has, or will have, anything to take."""
        return not any(member.may_put_back() or len(member) for member in self._all)

    def is_running_beside(self, member: PoolMember) -> bool:
        """Whether another account has anything in flight that may be refunded."""
        return any(other is not member and other.is_running() for other in self._all)

    def is_anything_left(self, source: Iterator[Attempt | None]) -> bool:
        """Whether a job was to be started and was not, once all accounts have ended."""
        return bool(self._left or self._delayed or any(self._waiting.values())) or any(source)

    # --- what comes in --------------------------------------------------------------------------------------

    def fill(self, member: PoolMember, source: Iterator[Attempt | None]) -> bool:
        """Read on until the account has enough to choose from; returns whether there is more to look at."""
        self._drop_stopped()
        while self._delayed and self._delayed[0][0] <= self._clock():
            self._add(heapq.heappop(self._delayed)[-1], next(self._places_in_front))
        while not self._is_exhausted and self._number_for(member) < _LOOK_AHEAD and len(self) < _MOST_WAITING:
            try:
                attempt = next(source)
            except StopIteration:
                self._is_exhausted = True
                break
            if attempt is None:
                return not self._number_for(member)
            self._add(attempt, next(self._places))
        if self._is_exhausted and not len(self):
            while self._delayed and self._delayed[0][0] == math.inf:
                self._add(heapq.heappop(self._delayed)[-1], next(self._places))
        return False

    def put_back(self, attempt: Attempt, seconds: float) -> None:
        """An attempt that any account may take after so many seconds; behind all others where they are infinite."""
        heapq.heappush(self._delayed, (self._clock() + seconds, next(self._places), attempt))
        self.wake.set()

    def keep_for(self, account: str, job_id: str) -> None:
        """Leave a job to the account at which a callback names a task of it: that looks before it sends anything."""
        if self._kept.get(job_id) != account:  # whoever calls again and again does not hold up the run
            self._kept[job_id] = account
            self._sort_anew()
            self.wake.set()

    def next_in(self) -> float | None:
        """Seconds until the next one may be taken; None where no time will make it so."""
        due = self._delayed[0][0] if self._delayed else math.inf
        return None if math.isinf(due) else due - self._clock()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _number_for(self, member: PoolMember) -> int:
        return sum(len(waiting) for takers, waiting in self._waiting.items() if member in takers)

    def _add(self, attempt: Attempt, place: int) -> None:
        if attempt.number > 1 and (name := self._called_at(attempt.job.id)) is not None:
            self._kept[attempt.job.id], place = name, next(self._places_in_front)
        takers = self._takers_of(attempt)
        if not takers:
            self._left += 1
            return
        waiting = self._waiting.setdefault(takers, deque())
        if place < 0:
            waiting.appendleft(_Waiting(place, attempt, takers))
        else:
            waiting.append(_Waiting(place, attempt, takers))

    def _takers_of(self, attempt: Attempt) -> tuple[PoolMember, ...]:
        parameters = attempt.job.parameters
        if (known := self._takers.get(parameters)) is None:
            if len(self._takers) >= _MOST_WAITING:
                self._takers.clear()
            able = (member for member in self._members if self._can_make(member.account, parameters))
            known = tuple(sorted(able, key=lambda member: self._pool.rank(member.account, parameters)))
            self._takers[parameters] = known
        if (name := self._kept.get(attempt.job.id)) is None:
            return known
        owner = next((each for each in self._all if each.account.name == name), None)
        if owner is None or not self._can_make(owner.account, parameters):
            return known
        return (owner,) if owner in known else ()  # where it has stopped, the next run looks

    def _drop_stopped(self) -> None:
        """Leave what waits to the accounts that have not stopped."""
        going_on = [member for member in self._members if not member.has_left]
        if len(going_on) == len(self._members):
            return
        self._members = going_on
        self._takers.clear()
        self._sort_anew()

    def _sort_anew(self) -> None:
        """Find out again who takes what waits."""
        waiting = sorted(each for some in self._waiting.values() for each in some)
        self._waiting.clear()
        for place, attempt, _ in waiting:
            takers = self._takers_of(attempt)
            self._left += not takers
            if takers:
                self._waiting.setdefault(takers, deque()).append(_Waiting(place, attempt, takers))

    # --- what goes out --------------------------------------------------------------------------------------

    def waiting_for(self, member: PoolMember) -> Iterator[_Waiting]:
        """The next ones that the account can make and afford, whoever comes first."""
        queues = [waiting for takers, waiting in self._waiting.items() if member in takers]
        return (each for each in islice(heapq.merge(*queues), _LOOK_AHEAD) if member.can_afford(each.attempt))

    def delayed_for(self, member: PoolMember) -> int:
        """How many attempts the account may take later."""
        return sum(member in self._takers_of(attempt) for _, _, attempt in self._delayed)

    def goes_to(self, member: PoolMember, waiting: _Waiting) -> bool:
        """Whether the account is the one to take an attempt now."""
        takers: Sequence[PoolMember] = waiting.takers
        if self._is_spread and len(takers) > 1:
            takers = sorted(takers, key=lambda each: each.started / each.account.weight)
        return next(each for each in takers if each is member or not self._is_passed_over(each, waiting)) is member

    def take(self, waiting: _Waiting) -> None:
        self._waiting[waiting.takers].remove(waiting)
        self._kept.pop(waiting.attempt.job.id, None)
        if self._pool.passes_on:
            self.wake.set()

    def _is_passed_over(self, member: PoolMember, waiting: _Waiting) -> bool:
        if member.has_left or not member.can_afford(waiting.attempt):
            return True
        return self._pool.passes_on and (member.is_held or not member.has_room(waiting.attempt.units))


class PoolMember:
    """One account's part in the queue, as its scheduler sees it: the same as `WaitingAttempts`."""

    def __init__(self, queue: PoolQueue, account: Account, stop: Stop, budget: Budget) -> None:
        self._queue = queue
        self._budget = budget
        self._ready: list[_Waiting] = []
        self.account = account
        self.stop = stop
        self.started = 0
        self.is_held = False  # whether it would start an attempt, and may not now
        self.has_room: Callable[[int], bool] = lambda _: True  # whether so many units are free
        self.is_running: Callable[[], bool] = bool  # whether anything of it is in flight
        self.may_put_back: Callable[[], bool] = lambda: True  # until it has begun, and while it may free a job
        self._is_at_end = False
        self.spent: BudgetSpent | None = None  # what its own budget refused last

    def __len__(self) -> int:
        if self.has_left:
            return 0
        return sum(1 for _ in self._queue.waiting_for(self)) + self._queue.delayed_for(self)

    @property
    def ready(self) -> list[Attempt]:
        """Those that the account is to take now."""
        queue = self._queue
        self._ready = [each for each in queue.waiting_for(self) if queue.goes_to(self, each)]
        return [each.attempt for each in self._ready]

    def take(self, position: int) -> None:
        """Take one of the last `ready`."""
        self.started += 1
        self._queue.take(self._ready[position])

    def can_afford(self, attempt: Attempt) -> bool:
        """Whether the account's own budget allows the attempt; another account's may, where it does not."""
        if not self._budget.is_bounded:
            return True
        refusal = self._budget.own_refusal(attempt.units, cost_of(self.account, attempt.job.parameters))
        self.spent = refusal or self.spent
        return refusal is None

    def requeue(self, attempt: Attempt, seconds: float) -> None:
        """An attempt that follows one which made nothing: any account may take it."""
        self._queue.put_back(attempt, seconds)

    def keep(self, job_id: str) -> None:
        """Take this job alone: no other account may."""
        self._queue.keep_for(self.account.name, job_id)

    def fill(self, source: Iterator[Attempt | None]) -> bool:
        return self._queue.fill(self, source)

    def next_in(self) -> float | None:
        return self._queue.next_in()

    def leave(self) -> None:
        """Take nothing more."""
        self._is_at_end = True

    @property
    def has_left(self) -> bool:
        return self._is_at_end or self.stop.is_asked

    def note(self, why: Idle | None) -> None:
        """Why it starts nothing now; the others may then. What is free of its slots, they see for themselves."""
        is_held = why not in {None, Idle.NO_JOB, Idle.SIZE}
        if is_held is not self.is_held:
            self.is_held = is_held
            self._queue.wake.set()

    @property
    def is_over(self) -> bool:
        return self._queue.is_over

    @property
    def is_running_elsewhere(self) -> bool:
        """Whether what another account has in flight may yet be refunded."""
        return self._queue.is_running_beside(self)

    @property
    def is_out_of_funds(self) -> bool:
        """Whether the budget of all is reserved for what is in flight."""
        return self._queue.is_out_of_funds

    @is_out_of_funds.setter
    def is_out_of_funds(self, value: bool) -> None:
        self._queue.is_out_of_funds = value
