"""The usage that `/_usage` reports: requests and their answers, what was billed, and what was requested twice.

Tests rely on it to show that nothing was paid for twice. Requests are counted since this start; tasks include those
that the journal holds from earlier starts.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from batchgen.sandbox.tasks import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchgen.sandbox.injector import Injector
    from batchgen.sandbox.task_store import TaskStore
    from batchgen.sandbox.tasks import Task


class Usage:
    """Counts answers as they are given; the rest follows from the tasks."""

    def __init__(self, store: TaskStore, injector: Injector, clock: Callable[[], int]) -> None:
        self._store = store
        self._injector = injector
        self._clock = clock
        self._requests: dict[str, Counter[str]] = {}  # answers by kind of request
        self._reported_at: dict[str, int] = {}

    def count(self, kind: str, answer: str) -> None:
        """Count a request by its answer: a code, or `cut` or `hang` where there was none."""
        self._requests.setdefault(kind, Counter())[answer] += 1

    def note_reported(self, tasks: Iterable[Task], now: int) -> None:
        """Keep the time at which a query or a list first reported that a task has ended."""
        for task in tasks:
            if task.ends_at <= now and task.id not in self._reported_at:
                self._reported_at[task.id] = now

    def report(self, *, tasks: bool = True) -> dict[str, Any]:
        """Everything as plain data; with `tasks=False` only the totals."""
        now = self._clock()
        known = self._store.tasks
        billed = [task for task in known if task.state(now) is State.SUCCEED]
        first = {task.request.digest: task.number for task in reversed(billed)}
        again = [task for task in billed if first[task.request.digest] != task.number]  # its request was billed before
        totals: dict[str, Any] = {
            "requests": {kind: dict(sorted(answers.items())) for kind, answers in sorted(self._requests.items())},
            "faults": dict(self._injector.counts),
            "creates_accepted": len(known),
            "tasks_by_status": dict(Counter(str(task.state(now)) for task in known)),
            "images_billed": sum(task.request.n for task in billed),
            "units_billed": format_units(sum(task.units for task in billed)),
            "units_held": self._store.units_held(now),
            "peak_units_held": self._store.peak_units_held,
            "duplicates": {
                "requests": len(known) - len({task.request.digest for task in known}),
                "images_billed": sum(task.request.n for task in again),
                "external_ids": self._store.repeated_ids,
            },
        }
        return totals | ({"tasks": [self._row(task, now) for task in known]} if tasks else {})

    def _row(self, task: Task, now: int) -> dict[str, Any]:
        state = task.state(now)
        return {
            "task_id": task.id,
            "external_task_id": task.request.external_id or task.caller_id,
            "n": task.request.n,
            "status": str(state),
            "created_at": task.created_at,
            "ends_at": task.ends_at,
            "reported_at": self._reported_at.get(task.id),  # when a query or a list first reported its end
            "units_billed": format_units(task.units) if state is State.SUCCEED else "0",
            "request": task.request.body,
        }


def format_units(units: float) -> str:
    """Units as the API writes them: a string, without a trailing `.0`."""
    return f"{units:.6f}".rstrip("0").rstrip(".")
