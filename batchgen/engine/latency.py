"""How long tasks take, learned from those that ended, and when a running one is worth asking for.

Latencies of one kind of task are taken as log-normal. What a query costs the gateway is little, what a slot costs
that is free and not known to be is the user's time: so the chance that a task has ended decides, not a clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from batchgen.engine.retry import next_query

if TYPE_CHECKING:
    from collections.abc import Hashable

_REMEMBERED = 64
_SIGMA, _SIGMA_WEIGHT = 0.5, 4  # what is believed of the spread before anything is seen, worth so many tasks
_LEAST_SIGMA = 0.05
_NEWS = 0.05  # the share of a new latency in the average
_LEAST_SECONDS = 0.001
_NORMAL = NormalDist()
_ROOT = math.sqrt(2.0)


@dataclass(frozen=True, slots=True)
class Spread:
    """A log-normal distribution of seconds."""

    mu: float
    sigma: float

    @property
    def usual(self) -> float:
        """The median."""
        return math.exp(self.mu)

    def ended_by(self, seconds: float) -> float:
        """The chance that a task has ended by then."""
        if seconds <= 0:
            return 0.0
        return 0.5 * math.erfc((self.mu - math.log(seconds)) / (self.sigma * _ROOT))

    def when(self, chance: float, running_at: float) -> float:
        """Seconds from its begin at which a task that still ran at `running_at` has ended with this chance."""
        before = self.ended_by(running_at)
        wanted = before + (1.0 - before) * chance
        if wanted >= 1.0 - 1e-9:
            return math.inf
        return max(running_at, math.exp(self.mu + self.sigma * _NORMAL.inv_cdf(max(wanted, 1e-9))))


class Latencies:
    """What is known of each kind of task; a kind that was not seen yet is taken to be as the others are."""

    def __init__(self) -> None:
        self.ended = 0  # tasks that were learned from
        self.average: float | None = None  # seconds that tasks of any kind lately took; None before any is known
        self._seen: dict[Hashable, deque[float]] = {}
        self._all: deque[float] = deque(maxlen=_REMEMBERED)
        self._spreads: dict[Hashable, Spread | None] = {}

    def learn(self, kind: Hashable, running_at: float, ended_at: float) -> None:
        """A task was seen running so many seconds after its begin, and ended at so many.

        It ended somewhere between: nearer to the end, so that asking late is not taken for a late end, and a
        service that has become faster is found out.
        """
        self.ended += 1
        self.average = ended_at if self.average is None else self.average + _NEWS * (ended_at - self.average)
        value = math.log(max(_LEAST_SECONDS, running_at + 0.75 * (ended_at - running_at)))
        self._seen.setdefault(kind, deque(maxlen=_REMEMBERED)).append(value)
        self._all.append(value)
        self._spreads.clear()

    def spread(self, kind: Hashable) -> Spread | None:
        """The distribution of this kind, or None before anything is known."""
        if kind not in self._spreads:
            self._spreads[kind] = _spread(self._seen.get(kind) or self._all)
        return self._spreads[kind]


def _spread(values: deque[float]) -> Spread | None:
    if not values:
        return None
    mu = sum(values) / len(values)
    squares = sum((value - mu) ** 2 for value in values) + _SIGMA_WEIGHT * _SIGMA**2
    return Spread(mu, max(_LEAST_SIGMA, math.sqrt(squares / (len(values) + _SIGMA_WEIGHT))))


def next_by_chance(spread: Spread | None, running_at: float, chance: float, longest: float) -> float:
    """Seconds after its begin at which a task is worth a query of its own.

    `running_at`: when it was last known to run; `longest`: seconds that no task is left unasked, once it is as old
    as others usually become.
    """
    if spread is None:
        return running_at + next_query(running_at)
    patience = max(longest, spread.usual - running_at)
    return min(spread.when(chance, running_at), running_at + patience)
