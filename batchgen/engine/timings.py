"""Where the time of an account's slots goes: unit-seconds by what held them, and by why they were free."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Phase(StrEnum):
    """What holds a slot."""

    RECORDING = "held: the intent goes to disk"
    CREATING = "held: the create is under way"
    RUNNING = "held: the task runs, as far as is known"
    ASKING = "held: asking what became of a create"


class Idle(StrEnum):
    """Why a slot is free."""

    NO_JOB = "free: no job waits"
    SIZE = "free: too few for the jobs that wait"
    RATE = "free: the rate, or a refusal, bids to wait"
    OUTAGE = "free: the account accepts nothing, or has not shown yet that it does"
    FETCHING = "free: downloads are too far behind"
    BUDGET = "free: the budget is reserved for what is in flight"
    STOPPED = "free: nothing more is begun"


class SlotTime:
    """Sums of unit-seconds of one lane. `units` are the slots there are now; `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float], units: Callable[[], int]) -> None:
        self._clock = clock
        self._units = units
        self._began = self._at = clock()
        self._held = dict.fromkeys(Phase, 0)
        self._why = Idle.NO_JOB
        self._spent: dict[Phase | Idle, float] = {}

    def move(self, units: int, *, out_of: Phase | None, into: Phase | None) -> None:
        """So many units go from one phase to another; None is free."""
        self._count()
        if out_of is not None:
            self._held[out_of] -= units
        if into is not None:
            self._held[into] += units

    def idle(self, why: Idle) -> None:
        """From now on this is why slots are free."""
        if why is not self._why:
            self._count()
            self._why = why

    def shares(self) -> dict[str, float]:
        """The share of all unit-seconds until now, the largest first; what came to nothing is left out."""
        self._count()
        total = sum(self._spent.values()) or 1.0
        spent = sorted(self._spent.items(), key=lambda item: -item[1])
        return {str(kind): seconds / total for kind, seconds in spent if seconds > 0}

    def report(self, account: str) -> Iterator[str]:
        """The same in lines."""
        shares = self.shares()
        yield f"Slots of {account!r}: {sum(self._spent.values()):,.1f} unit-seconds in {self._at - self._began:,.1f} s."
        for kind, share in shares.items():
            yield f"  {share:6.1%}  {kind}"

    def _count(self) -> None:
        now = self._clock()
        passed, self._at = now - self._at, now
        free = self._units()
        for phase, units in self._held.items():
            free -= units
            if units:
                self._spent[phase] = self._spent.get(phase, 0.0) + units * passed
        if free > 0:
            self._spent[self._why] = self._spent.get(self._why, 0.0) + free * passed
