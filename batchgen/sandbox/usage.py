"""The account that the sandbox keeps: what was asked, what was answered, what was billed, and what twice.

It is the witness in tests that nothing was paid for twice. Requests, and the answers that told of a
task's end, are of this start; tasks also from the journal of earlier ones.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from batchgen.sandbox.task import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchgen.sandbox.register import Register
    from batchgen.sandbox.task import Task


class Usage:
    """Counts as requests come, and reads the rest from the register when asked."""

    def __init__(self, register: Register, clock: Callable[[], int]) -> None:
        self._register = register
        self._clock = clock
        self._requests: Counter[tuple[str, str]] = Counter()
        self._faults: Counter[str] = Counter()
        self._repeated_ids = 0
        self._told_at: dict[str, int] = {}

    def count(self, kind: str, answer: str) -> None:
        """A request was answered: with a code, or `cut` or `hang` where nothing was said."""
        self._requests[kind, answer] += 1

    def count_fault(self, name: str) -> None:
        """A fault of the weather has struck."""
        self._faults[name] += 1

    def count_repeated_id(self) -> None:
        """A create came with an external id that is known, and was refused."""
        self._repeated_ids += 1

    def note_told(self, tasks: Iterable[Task], now: int) -> None:
        """A query or a list tells of these tasks: of each that has ended, the first such answer's time is kept."""
        for task in tasks:
            if task.ends_at <= now and task.id not in self._told_at:
                self._told_at[task.id] = now

    def account(self, *, tasks: bool = True) -> dict[str, Any]:
        """Everything, as plain data; with `tasks=False` only the sums."""
        now = self._clock()
        known = self._register.tasks
        billed = [task for task in known if task.state(now) is State.SUCCEED]
        states = Counter(str(task.state(now)) for task in known)
        summary: dict[str, Any] = {
            "requests": self._by_kind(),
            "faults": dict(self._faults),
            "creates_accepted": len(known),
            "tasks_by_status": dict(states),
            "images_billed": sum(task.order.n for task in billed),
            "units_billed": plain(sum(task.units for task in billed)),
            "units_held": self._register.held(now),
            "most_units_held": self._register.most_held,
            "duplicates": {
                "requests": sum(_repeats(known).values()),
                "images_billed": sum(_repeats(billed, images=True).values()),
                "external_ids": self._repeated_ids,
            },
        }
        if tasks:
            summary["tasks"] = [_row(task, now, self._told_at.get(task.id)) for task in known]
        return summary

    def _by_kind(self) -> dict[str, dict[str, int]]:
        table: dict[str, dict[str, int]] = {}
        for (kind, answer), number in sorted(self._requests.items()):
            table.setdefault(kind, {})[answer] = number
        return table


def _repeats(tasks: list[Task], *, images: bool = False) -> Counter[str]:
    """For each request that came more than once: the tasks, or images, beyond the first."""
    seen: set[str] = set()
    extra: Counter[str] = Counter()
    for task in tasks:
        digest = task.order.digest
        if digest in seen:
            extra[digest] += task.order.n if images else 1
        seen.add(digest)
    return extra


def _row(task: Task, now: int, told_at: int | None) -> dict[str, Any]:
    state = task.state(now)
    return {
        "task_id": task.id,
        "external_task_id": task.order.external_id or task.caller_id,
        "n": task.order.n,
        "status": str(state),
        "created_at": task.created_at,
        "ends_at": task.ends_at,
        "told_at": told_at,  # when a query or a list first told of its end; null while nobody has been told
        "units_billed": plain(task.units) if state is State.SUCCEED else "0",
        "request": task.order.body,
    }


def plain(units: float) -> str:
    """Units as the API writes them: a string, without an idle `.0`."""
    return f"{units:.6f}".rstrip("0").rstrip(".")
