"""What callbacks have said, and how far they can be counted on: arithmetic, without a clock or a socket.

A call can be forged, false, late or lost, so it only brings a query forward, and as often as it was wrong, less so.
Calls that come in time let the usual queries wait longer; a few that do not, end that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_MOST = 8
_COUNTED_ON = 5  # of `_MOST`: so many ends in a row that were called in time
_LOST = 2  # for each end that was not: two or three of those, and the usual queries are back
_GRACE_SECONDS = 2.0  # after an answer that told of an end, in which its call is still in time
_LONGEST_SECONDS = 60.0


@dataclass(slots=True)
class CallbackState:
    """What callbacks have said of one running task. Times are seconds by the clock of whoever asks."""

    has_ended: bool = False  # they say so, and no answer has borne it out yet
    at: float = 0.0  # when they said so
    false: int = 0  # so often an answer said otherwise
    not_before: float = 0.0  # when the next call may bring a query

    def parse_callback(self, now: float) -> bool:
        """A call says that it has ended; whether that is news."""
        is_news = not self.has_ended
        if is_news:
            self.has_ended, self.at = True, now
        return is_news

    def was_false(self, now: float) -> float:
        """It goes on, though a call said that it had ended: forged, or ahead of the gateway's own answers.

        Seconds until it is worth another look, in which no call brings a query either: 1, 2, 4, …
        """
        wait = min(_LONGEST_SECONDS, 2.0**self.false)
        self.has_ended = False
        self.false += 1
        self.not_before = now + wait
        return wait


@dataclass(slots=True)
class CallbackReliability:
    """Whether the calls of an account come in time: earned one by one, lost twice as fast."""

    score: int = 0
    awaited: dict[str, float] = field(default_factory=dict)  # until when the call of an ended task is in time

    @property
    def is_counted_on(self) -> bool:
        """Whether the usual queries may wait longer."""
        return self.score >= _COUNTED_ON

    def right(self) -> None:
        """An answer bore out a call."""
        self.score = min(_MOST, self.score + 1)

    def wrong(self) -> None:
        """A call came too late or not at all, or told of an end that was none."""
        self.score = max(0, self.score - _LOST)

    def goes_on(self, hearsay: CallbackState, asked_at: float, now: float) -> float:
        """An answer told that a task is running: seconds until what was called makes it worth another look."""
        if not hearsay.has_ended:
            return math.inf
        if hearsay.at >= asked_at:
            return 0.0  # the call is the newer of the two
        self.wrong()
        return hearsay.was_false(now)

    def not_called_yet(self, task_id: str, now: float) -> None:
        """An answer told of an end of which no call had told: it may be under way."""
        self._give_up_waiting(now)
        self.awaited[task_id] = now + _GRACE_SECONDS

    def called_after(self, task_id: str, now: float) -> None:
        """A call tells of a task that is not running here: it has ended just now, or long ago, or was never ours."""
        self._give_up_waiting(now)
        if self.awaited.pop(task_id, None) is not None:
            self.right()

    def _give_up_waiting(self, now: float) -> None:
        while self.awaited and self.awaited[task_id := next(iter(self.awaited))] <= now:
            del self.awaited[task_id]
            self.wrong()
