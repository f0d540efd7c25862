"""Reports statuses of tasks that batchgen does not know."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from batchgen.formatting import duration

if TYPE_CHECKING:
    from batchgen.engine.context import Context
    from batchgen.providers.base import Task

_REPORTED_AFTER = 3  # answers


class UnknownStatuses:
    """Those of one account; each is reported once, when tasks keep it: they may never end."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._answers: Counter[str] = Counter()

    def note(self, task: Task) -> None:
        """Count an answer about a task."""
        if not (status := task.unknown_status):
            return
        self._answers[status] += 1
        if self._answers[status] == _REPORTED_AFTER:
            limit = self._context.policy.task_timeout
            until = "without end" if limit is None else f"for at most {duration(limit)} (run.task_timeout)"
            self._context.notify(
                f"The gateway reports the status {status!r} of the task {task.id}, which batchgen does not know: it is"
                f" queried again, {until}."
            )
