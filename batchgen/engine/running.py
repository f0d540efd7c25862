"""What the answers and the callbacks have said of running tasks: of each one, of how long they take, of callbacks.

It is arithmetic, without a clock or a socket. A callback can be forged, false, late or lost, so it only brings a query
forward and is never believed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING

from batchgen.providers.base import TaskState

if TYPE_CHECKING:
    import asyncio

    from batchgen.jobs import Parameters
    from batchgen.providers.base import Task

CONFIRM_FAILURE_SECONDS = 1.0  # a failed task is created again, so its failure is queried a second time
_SHORT_ANSWERS = 2  # so many answers with too few images in a row are not believed
_LONGEST_QUIET_SECONDS = 60.0
_REMEMBERED = 64  # tasks of each kind
_NEEDED = 5  # ends in a row that a callback announced in time
_GRACE_SECONDS = 2.0  # a callback may come so long after an answer that said the same

Kind = tuple[str, str, int, bool]


def kind_of(parameters: Parameters) -> Kind:
    """Tasks of one kind take about as long as each other."""
    return (parameters.model, parameters.resolution, parameters.n, parameters.image is not None)


@dataclass(slots=True, kw_only=True, eq=False)
class RunningTask:
    """`seen` is when it was last known to run, in seconds after `since`; `due` when its next query is due."""

    task_id: str
    external_id: str
    kind: Kind
    units: int
    since: float
    due: float  # infinite while a query of its own is under way
    end: asyncio.Future[Task]
    seen: float = 0.0
    wait: float = 0.0  # seconds from the time when its latest query was planned until that was due
    errors: int = 0  # queries in a row without an answer
    not_found: int = 0  # answers in a row that do not know it
    short: int = 0  # answers that say it succeeded, but name fewer images than were requested, or none
    failed_at: float | None = None  # when an answer first said that it failed
    called_at: float | None = None  # when a callback said that it ended; None once an answer has said otherwise
    false_callbacks: int = 0
    quiet_until: float = 0.0  # callbacks bring no query before this

    @property
    def is_troubled(self) -> bool:
        """Whether the last answer was none to rely on; `due` is then the end of a back-off."""
        return bool(self.errors or self.not_found or self.short) or self.failed_at is not None

    def needs_second_failure(self, task: Task, now: float) -> bool:
        """Whether this answer says for the first time that it failed: believed when it is said again a moment later."""
        if task.state in {TaskState.RUNNING, TaskState.SUCCEEDED}:
            self.failed_at = None
            return False
        if self.failed_at is None:
            self.failed_at = now
        return now - self.failed_at < CONFIRM_FAILURE_SECONDS

    def is_short(self, task: Task) -> bool:
        """Whether this answer names fewer images than were requested, which is not believed at once."""
        named = len({link.url for link in task.links})  # one link for all of them is one image
        return (
            task.state is TaskState.SUCCEEDED
            and named < self.units
            and not (task.links and self.short >= _SHORT_ANSWERS)
        )

    def reject_callback(self, now: float) -> float:
        """Note that an answer contradicts a callback; the seconds, 1, 2, 4, …, in which no callback brings a query."""
        seconds = min(_LONGEST_QUIET_SECONDS, 2.0**self.false_callbacks)
        self.false_callbacks += 1
        self.called_at, self.quiet_until = None, now + seconds
        return seconds


class Latencies:
    """The latest latencies of each kind of task; a kind that was not seen yet is taken to be as the others are."""

    def __init__(self) -> None:
        self.ended = 0  # tasks that were learned from
        self._all: deque[float] = deque(maxlen=_REMEMBERED)
        self._by_kind: dict[Kind, deque[float]] = {}
        self._medians: dict[Kind, float] = {}

    def learn(self, kind: Kind, seen: float, ended: float) -> None:
        """Add a task that was seen running `seen` seconds after its start, and was seen ended at `ended`.

        It ended somewhere between. The value nearer to its end is taken, so that a late query is not mistaken for a
        late end, and a service that has become faster is found out.
        """
        self.ended += 1
        latencies = self._by_kind.setdefault(kind, deque(maxlen=_REMEMBERED))
        for values in (latencies, self._all):
            values.append(seen + 0.75 * (ended - seen))
        self._medians[kind] = median(latencies)

    def median(self, kind: Kind) -> float | None:
        """Seconds that half of such tasks take; None before any task has ended."""
        if kind not in self._medians and self._all:
            return median(self._all)
        return self._medians.get(kind)

    @property
    def mean(self) -> float | None:
        """Seconds that a task of any kind lately took on the average; None before any has ended."""
        return fmean(self._all) if self._all else None


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
        """A callback was late or lost, or reported an end that had not happened."""
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
