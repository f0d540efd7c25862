"""Whether refusals are so many that they must be meant: a few in a hundred may come for reasons that are not ours."""

from __future__ import annotations

from collections import deque

_LATELY = 16  # creates
_ENOUGH = 5  # of them refused: by chance once in 10,000 creates where 4 % are refused for no reason of ours


class RefusalWindow:
    """What became of the last few creates."""

    def __init__(self) -> None:
        self._refused: deque[bool] = deque(maxlen=_LATELY)

    def accepted(self) -> None:
        """One was taken."""
        self._refused.append(False)

    def refused(self) -> bool:
        """One was not; whether that is often enough to act on, in which case it is counted anew."""
        self._refused.append(True)
        if sum(self._refused) < _ENOUGH:
            return False
        self._refused.clear()
        return True
