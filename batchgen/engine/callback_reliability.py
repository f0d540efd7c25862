"""Whether callbacks come in time, so that fewer queries are needed: arithmetic, without a clock or a socket.

A callback can be forged, false, late or lost, so it only brings a query forward and is never believed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_NEEDED = 5  # ends in a row that a callback announced in time
_GRACE_SECONDS = 2.0  # a callback may come so long after an answer that said the same


@dataclass(slots=True)
class CallbackReliability:
    """Counts the ends in a row that callbacks announced; one end without a callback, or a false one, starts anew."""

    in_time: int = 0
    awaited: dict[str, float] = field(default_factory=dict)  # the latest time for the callback of an ended task

    @property
    def is_reliable(self) -> bool:
        """Whether a task without a callback can be taken to run still."""
        return self.in_time >= _NEEDED

    def confirmed(self) -> None:
        """An answer confirmed a callback."""
        self.in_time += 1

    def failed(self) -> None:
        """A callback was late or lost, or told of an end that was none."""
        self.in_time = 0

    def ended_without(self, task_id: str, now: float) -> None:
        """A task ended before its callback came; the callback may be on its way."""
        self._drop_late(now)
        self.awaited[task_id] = now + _GRACE_SECONDS

    def came_after_end(self, task_id: str, now: float) -> None:
        """A callback names a task that is not running: it ended just now or long ago, or is not ours."""
        self._drop_late(now)
        if self.awaited.pop(task_id, None) is not None:
            self.confirmed()

    def _drop_late(self, now: float) -> None:
        while self.awaited and self.awaited[task_id := next(iter(self.awaited))] <= now:
            del self.awaited[task_id]
            self.failed()
