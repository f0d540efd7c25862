"""What an account lets run at a time, and whose turn it is.

A task holds as many units as it makes images, from its create until it ends (kling.md, Concurrency).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.engine.attempt import Attempt
    from batchgen.engine.concurrency import AdaptiveConcurrency

PASSES = 8  # so many times may smaller tasks pass a waiting larger one, then it is its turn


class Slots:
    """Units in use. May be over-full: tasks of an earlier run hold theirs whatever the limit is now."""

    def __init__(self, capacity: AdaptiveConcurrency, freed: Callable[[], None]) -> None:
        self._capacity = capacity
        self.in_use = 0
        self._freed = freed

    @property
    def units(self) -> int:
        """How many there are, as far as is known."""
        return self._capacity.units

    @property
    def free(self) -> int:
        """Units that no task holds."""
        return max(0, self.units - self.in_use)

    def take(self, units: int) -> None:
        """SlotPermit units; the caller asked `free` first, or the task runs already."""
        self.in_use += units

    def give(self, units: int) -> None:
        """Give units back and wake who waits for them."""
        self.in_use -= units
        self._freed()


class FirstFit:
    """Who is next: first come, first served, but a smaller task may pass a waiting larger one a few times."""

    def __init__(self) -> None:
        self._passed = 0

    def choose(self, waiting: list[Attempt], free: int) -> Attempt | None:
        """Take the next work that fits out of `waiting`, or None where nothing may go now."""
        for position, work in enumerate(waiting):
            if work.units > free:
                if self._passed >= PASSES:
                    return None
                continue
            self._passed = self._passed + 1 if position else 0
            return waiting.pop(position)
        return None
