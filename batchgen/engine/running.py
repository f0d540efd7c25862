"""What the answers and the callbacks have said of one running task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.providers.base import TaskState

if TYPE_CHECKING:
    import asyncio

    from batchgen.jobs import Parameters
    from batchgen.providers.base import Task

CONFIRM_FAILURE_SECONDS = 1.0  # a failed task is created again, so its failure is queried a second time
_SHORT_ANSWERS = 2  # so many answers with too few images in a row are not believed
_LONGEST_QUIET_SECONDS = 60.0

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
