"""How fast an account lets us create: what the manifest says, and what being told "too fast" (1302) says.

The first is a hard quota (`quota`), the second is found out by `AdaptiveRate`: AIMD.
A gateway may also say "too fast" for what has nothing to do with us, to a few creates in a hundred however slow they
are: taken at its word each time, it would slow a run down for ever (`_is_news`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

from batchgen.engine.refusal_window import RefusalWindow

if TYPE_CHECKING:
    from collections.abc import Callable

_LEAST = 1.0 / 60.0  # creates a second
_DECREASE, _DECREASE_AFTER_CALM = 0.5, 0.7
_CALM = 32  # creates accepted in a row
_NEAR = 0.9  # of the rate that was refused: up to here it grows fast, beyond it slowly
_FAST, _SLOW = 0.05, 0.001  # growth by each accepted create
_SLOW_ZONE = 0.75  # of the rate that was refused: what is refused down here is not refused for its rate
_NOISY = 0.01  # share of creates that are refused down there
_MEMORY = 64  # creates over which that share is kept
_LATELY = 16  # creates over which our own rate is measured, or those of the last second, where they are more
_REMEMBERED = 1024


def quota(creates_per_minute: float | None) -> AsyncLimiter | None:
    """A limiter under which no minute sees more creates than this, not even the first.

    `AsyncLimiter(N, 60)` lets 2N - 1 through in its first minute; a small burst `b` leaking over
    `b * 60 / (N - b)` seconds keeps the worst minute at N.
    """
    if creates_per_minute is None:
        return None
    if creates_per_minute <= 2:
        return AsyncLimiter(1, 60.0 / creates_per_minute)
    if creates_per_minute <= 1200:
        return AsyncLimiter(1, 60.0 / (creates_per_minute - 1))
    burst = creates_per_minute // 100
    return AsyncLimiter(burst, burst * 60.0 / (creates_per_minute - burst))


class AdaptiveRate:
    """Creates a second that the account takes; unbounded until it refuses one. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sent: deque[float] = deque(maxlen=_REMEMBERED)
        self._changed = 0.0
        self._refused_at_rate = 0.0
        self._calm = 0  # creates accepted since the last refusal
        self._evidence = RefusalWindow()
        self._noise = 0.0  # share of slow creates that were refused
        self.rate: float | None = None

    def closed_for(self) -> float:
        """Seconds until the next create may leave; 0 when it may now."""
        if self.rate is None or not self._sent:
            return 0.0
        return max(0.0, self._sent[-1] + 1.0 / self.rate - self._clock())

    def sent(self) -> float:
        """A create leaves now; the answer is this moment."""
        now = self._clock()
        self._sent.append(now)
        return now

    def accepted(self) -> None:
        """One more was taken: the rate grows, the faster the longer nothing was refused."""
        if self.rate is None:
            return
        self._calm += 1
        self._evidence.accepted()
        if self._is_slow:
            self._noise -= self._noise / _MEMORY
        growth = _FAST if self.rate < _NEAR * self._refused_at_rate else _SLOW * (1.0 + self._calm / 100.0)
        self.rate *= 1.0 + growth

    def refused(self, sent: float) -> None:
        """The create that was sent at this moment was too fast. Those that were under way with it are no news."""
        if sent < self._changed or not self._is_news():
            return
        # Not what was measured where a rate is known: pauses and slow answers make that less than what is taken.
        self._refused_at_rate = self._measured() if self.rate is None else self.rate
        factor = _DECREASE if self._calm < _CALM else _DECREASE_AFTER_CALM
        self.rate = max(_LEAST, factor * self._refused_at_rate)
        self._changed = self._clock()
        self._calm = 0

    @property
    def _is_slow(self) -> bool:
        return self.rate is not None and self.rate < _SLOW_ZONE * self._refused_at_rate

    def _is_news(self) -> bool:
        """Whether a refusal says something of our rate: not where slow creates are refused as well, unless often."""
        if self._evidence.refused():
            self._noise /= 2.0
            return True
        if self._is_slow:
            self._noise += (1.0 - self._noise) / _MEMORY
            return False
        return self._noise < _NOISY

    def _measured(self) -> float:
        now = self._clock()
        in_a_second = sum(1 for sent in self._sent if sent > now - 1.0)
        if in_a_second >= _LATELY or not self._sent:
            return max(1.0, float(in_a_second))
        lately = list(self._sent)[-_LATELY:]
        return len(lately) / max(1.0, now - lately[0])
