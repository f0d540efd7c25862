"""How much an account takes, found from its refusals: additive increase, multiplicative decrease (AIMD), as arithmetic.

One class serves both limits of an account: how many units run at a time (1303), and how many creates are sent in a
second (1302). A refusal lowers the limit; each accepted create raises it again.
"""

from __future__ import annotations

import math
from collections import deque

_DECREASE = 0.5  # of a level that is measured, not known
_FAST = 0.05  # growth by each accepted create, up to the level that was accepted before
_SLOW, _ACCELERATION, _FASTEST = 1e-5, 0.03, 0.1  # the same beyond it: at first, with the distance from it, at most
_LOW = 0.9  # of that level: a refusal below this has another cause
_NOISY = 0.01  # share of creates refused down there
_NOISE_MEMORY = 64  # creates
_RECENT, _MANY = 16, 5  # so many refusals among the latest creates mean the limit: by chance 1 in 10,000 at 4 %


class AdaptiveLimit:
    """A limit between `least` and `most`; infinite means that it is not known.

    `decrease`: what is left of the level at which a create was refused. How many units run is known exactly, so nothing
    is taken off (1.0): with 100 units in the manifest and 24 in truth, 96 % of them are used; halved, it is 82 %.

    Two things are added to the plain rule (figures of the accounts simulated in tests/unit/test_limits.py):

    - Beyond the accepted level growth is slow at first, then faster (as in TCP CUBIC): 98 % of the units are used and
      0.7 % of creates refused, and 24 units where 5 were are found after 70 creates. At one speed that finds them after
      350, it is 83 % and 4 %.
    - Single refusals are ignored once creates well below the level are refused as well: some gateways refuse a few
      in a hundred for reasons of their own. Where 4 % are, creates take 1.9 times as long; else 2,400 times.
    """

    def __init__(self, value: float, *, least: float, most: float = math.inf, decrease: float = _DECREASE) -> None:
        self.value = value
        self._decrease = decrease
        self._least = least
        self._most = most
        self._level = math.inf  # what was accepted when a create was last refused
        self._changed = -math.inf  # when that was
        self._recent: deque[bool] = deque(maxlen=_RECENT)  # whether they were refused
        self._noise = 0.0  # share of creates refused well below the level

    def accepted(self, steps: float = 1.0) -> None:
        """Raise the limit: a create was accepted. `steps` of a slow account may be more than one."""
        self._recent.append(False)
        if math.isinf(self.value):
            return
        if self._is_low:
            self._noise -= self._noise / _NOISE_MEMORY
        if math.isinf(self._level):
            grown = self.value * (1.0 + _FAST)
        elif self.value < self._level:
            grown = min(self._level, self.value * (1.0 + _FAST) ** steps)
        else:
            growth = _SLOW + _ACCELERATION * (self.value / self._level - 1.0)
            grown = self.value * (1.0 + min(_FASTEST, steps * growth))
        self.value = min(self._most, grown)

    def refused(self, level: float, *, sent: float, now: float, proven: float = 0.0) -> bool:
        """Lower the limit, if it is news that the create sent at this time was refused while so much was accepted.

        Creates that were in flight when the limit was last lowered say nothing new, nor does noise; what is refused
        below a `proven` level is noise. Returns whether it was news.
        """
        if sent < self._changed or self._is_noise(is_proven=level < proven):
            return False
        if not math.isinf(self.value):
            level = max(level, _DECREASE * self.value)
        self._level = max(level, self._least)
        self.value = min(self.value, max(self._least, self._decrease * self._level))
        self._changed = now
        return True

    @property
    def _is_low(self) -> bool:
        return self.value < _LOW * self._level < math.inf

    def _is_noise(self, *, is_proven: bool) -> bool:
        self._recent.append(True)
        if sum(self._recent) >= _MANY:
            self._recent.clear()
            self._noise /= 2.0
            return False
        if is_proven or self._is_low:
            self._noise += (1.0 - self._noise) / _NOISE_MEMORY
            return True
        return self._noise >= _NOISY
