"""How many units an account really runs at a time, found by being refused (1303): as arithmetic.

The limit of the manifest is never exceeded. Below it, a refusal says how much runs: what is held without the
refused task. After a good many creates one task is let in beyond that (a probe), which costs one refusal where
nothing has changed; so at most about one create in fifty is refused, however wrong the manifest's limit is. An account
of which nobody has said a limit begins with the catalogue's and probes at once, until it is refused.

What has run once is given up only on evidence: a gateway may refuse a few creates in a hundred however little runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.engine.refusal_window import RefusalWindow

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 200  # units that are looked for where nobody has said a limit; more in flight cost more than they bring
_PATIENCE = 64  # creates between a refusal and the next probe; doubled by each probe that is refused
_LONGEST_PATIENCE = 512
_PATIENCE_SECONDS = 120.0  # the same as a time, for slow tasks; doubled likewise
_LONGEST_SECONDS = 1800.0


class AdaptiveConcurrency:
    """Units that may be held now. `clock` is monotonic."""

    def __init__(self, units: int, *, seeks: bool, clock: Callable[[], float]) -> None:
        """`seeks`: nobody has said the limit; `units` is where to begin."""
        self.units = units
        self._most = max(units, MOST) if seeks else units
        self._clock = clock
        self._patience = 0  # creates that must be accepted before the next probe
        self._seconds = _PATIENCE_SECONDS
        self._accepted = 0
        self._since = clock()
        self._proven = 0  # units that were held at a time, as far as the account has not clearly taken it back
        self._evidence = RefusalWindow()

    def may_probe(self, units: int) -> bool:
        """Whether it is time to let in a task that would make so many units held."""
        if not self.units < units <= self._most:
            return False
        return self._accepted >= self._patience or self._clock() - self._since >= self._seconds

    def accepted(self, in_use: int, *, probe: bool) -> None:
        """A task was taken in; `in_use` units are held with it."""
        self._accepted += 1
        self._proven = max(self._proven, in_use)
        self._evidence.accepted()
        if probe:
            self.units = max(self.units, min(in_use, self._most))
            self._patience //= 4
            self._wait(self._seconds / 4)

    def refused(self, in_use: int, *, probe: bool) -> bool:
        """A task was one too many; `in_use` units are held without it. Whether that is now the limit."""
        if probe:
            self._patience = min(_LONGEST_PATIENCE, max(_PATIENCE, 2 * self._patience))
            self._wait(2 * self._seconds)
            return in_use >= self.units
        if not self._evidence.refused() and in_use < self._proven:
            return False
        least = self.units // 2 if in_use < self._proven else 1
        self.units = self._proven = max(1, min(self.units, max(in_use, least)))
        self._patience = max(_PATIENCE, self._patience)
        self._wait(self._seconds)
        return in_use >= self.units

    def _wait(self, seconds: float) -> None:
        self._accepted = 0
        self._since = self._clock()
        self._seconds = min(_LONGEST_SECONDS, max(_PATIENCE_SECONDS, seconds))
