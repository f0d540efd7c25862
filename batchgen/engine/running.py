"""A task at the gateway, as far as the answers have told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchgen.engine.callback_reliability import CallbackState
from batchgen.providers.base import TaskState

if TYPE_CHECKING:
    import asyncio

    from batchgen.jobs import Parameters
    from batchgen.providers.base import Task

FAILED_AGAIN_SECONDS = 1.0  # what is made anew may be paid twice
_SHORT = 2  # so often is a success with fewer images than were asked for asked for again

Kind = tuple[str, str, int, bool]


def kind_of(parameters: Parameters) -> Kind:
    """Tasks that take about as long as each other."""
    return (parameters.model, parameters.resolution, parameters.n, parameters.image is not None)


@dataclass(slots=True, kw_only=True, eq=False)
class Running:
    """`seen` is when it was last known to run, in seconds after `since`; `due` when it is to be asked for by itself."""

    task_id: str
    external_id: str
    kind: Kind
    units: int
    number: int  # counted as they are accepted
    since: float
    due: float  # infinite while it is being asked for
    end: asyncio.Future[Task]
    seen: float = 0.0
    refused: int = 0
    not_there: int = 0
    short: int = 0  # answers that said it succeeded, but named fewer images than were asked for, or none
    failed_at: float | None = None  # when an answer first told that it failed
    hearsay: CallbackState = field(default_factory=CallbackState)

    @property
    def is_troubled(self) -> bool:
        """Whether the last answer was no answer: then it waits for its own time."""
        return bool(self.refused or self.not_there or self.short) or self.failed_at is not None

    def is_told_failed(self, task: Task, now: float) -> bool:
        """Whether it failed, by this answer and for the first time: believed when it is told again a moment later."""
        if task.state in {TaskState.RUNNING, TaskState.SUCCEEDED}:
            self.failed_at = None
            return False
        if self.failed_at is None:
            self.failed_at = now
        return now - self.failed_at < FAILED_AGAIN_SECONDS

    def is_told_short(self, task: Task) -> bool:
        """Whether it succeeded, by this answer, with fewer images than were asked for: not believed at once."""
        named = len({link.url for link in task.links})  # one link for all of them is one image
        is_short = task.state is TaskState.SUCCEEDED and named < self.units
        return is_short and not (task.links and self.short >= _SHORT)
