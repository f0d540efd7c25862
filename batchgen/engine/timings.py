"""Where the time of an account's slots goes: unit-seconds by what held them, and by why they were free."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Phase(StrEnum):
    """What holds a slot."""

    RECORDING = "held: the intent is being written to disk"
    CREATING = "held: the create is in flight"
    RUNNING = "held: the task is running, as far as is known"
    ASKING = "held: finding out what became of a create"


class Idle(StrEnum):
    """Why a slot is free."""

    NO_JOB = "free: no job is waiting"
    SIZE = "free: too few for the waiting jobs"
    RATE = "free: waiting for the rate limit or after a refusal"
    OUTAGE = "free: the account accepts nothing, or has accepted nothing yet"
    FETCHING = "free: downloads are too far behind"
    BUDGET = "free: the rest of the budget is reserved for tasks in flight"
    STOPPED = "free: no more jobs are started"


class SlotTime:
    """Sums of unit-seconds of one account. `units` are the slots there are now; `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float], units: Callable[[], int]) -> None:
        self._clock = clock
        self._units = units
        self._started = self._at = clock()
        self.held = 0  # units, now
        self._held = dict.fromkeys(Phase, 0)  # the same by phase
        self._why = Idle.NO_JOB
        self._spent: dict[Phase | Idle, float] = dict.fromkeys([*Phase, *Idle], 0.0)

    @property
    def running(self) -> int:
        """Units of tasks that run at the gateway, as far as is known."""
        return self._held[Phase.RUNNING]

    def move(self, units: int, *, out_of: Phase | None, into: Phase | None) -> None:
        """So many units go from one phase to another; None is free."""
        self._count()
        if out_of is not None:
            self._held[out_of] -= units
            self.held -= units
        if into is not None:
            self._held[into] += units
            self.held += units

    def idle(self, why: Idle) -> None:
        """From now on this is why slots are free."""
        if why is not self._why:
            self._count()
            self._why = why

    def shares(self) -> dict[str, float]:
        """The share of all unit-seconds until now, the largest first, without those that are zero."""
        self._count()
        total = sum(self._spent.values()) or 1.0
        spent = sorted(self._spent.items(), key=lambda item: -item[1])
        return {str(kind): seconds / total for kind, seconds in spent if seconds > 0}

    def report(self, account: str) -> Iterator[str]:
        shares = self.shares()
        seconds = self._at - self._started
        yield f"Slots of {account!r}: {sum(self._spent.values()):,.1f} unit-seconds in {seconds:,.1f} s."
        for kind, share in shares.items():
            yield f"  {share:6.1%}  {kind}"

    def _count(self) -> None:
        now = self._clock()
        passed, self._at = now - self._at, now
        for phase, units in self._held.items():
            if units:
                self._spent[phase] += units * passed
        self._spent[self._why] += max(0, self._units() - self.held) * passed
