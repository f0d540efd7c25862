"""How long the tasks of an account take, learned from those that ended."""

from __future__ import annotations

from collections import deque
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

_REMEMBERED = 64  # tasks of each kind


class Latencies:
    """The latest latencies of each kind of task; a kind that was not seen yet is taken to be as the others are."""

    def __init__(self) -> None:
        self.ended = 0  # tasks that were learned from
        self._all: deque[float] = deque(maxlen=_REMEMBERED)
        self._by_kind: dict[Hashable, deque[float]] = {}
        self._medians: dict[Hashable, float] = {}

    def learn(self, kind: Hashable, seen: float, ended: float) -> None:
        """Add a task that was seen running `seen` seconds after its start, and was seen ended at `ended`.

        It ended somewhere between. The value nearer to its end is taken, so that a late query is not mistaken for a
        late end, and a service that has become faster is found out.
        """
        self.ended += 1
        latencies = self._by_kind.setdefault(kind, deque(maxlen=_REMEMBERED))
        for values in (latencies, self._all):
            values.append(seen + 0.75 * (ended - seen))
        self._medians[kind] = median(latencies)

    def median(self, kind: Hashable) -> float | None:
        """Seconds that half of such tasks take; None before any task has ended."""
        if kind not in self._medians and self._all:
            return median(self._all)
        return self._medians.get(kind)

    @property
    def mean(self) -> float | None:
        """Seconds that a task of any kind lately took on the average; None before any has ended."""
        return fmean(self._all) if self._all else None
