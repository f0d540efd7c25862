"""The register of accepted tasks: who is known, how many units are held, how fast creates come."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from batchgen.sandbox.api_error import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.sandbox.rules import Order
    from batchgen.sandbox.settings import Settings
    from batchgen.sandbox.task import Task

_MINUTE = 60_000  # milliseconds, as all times here


class Register:
    """All tasks of the account, in the order in which they were accepted."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.tasks: list[Task] = []
        self._by_id: dict[str, Task] = {}
        self._by_external_id: dict[str, Task] = {}
        self._running: list[tuple[int, int, int]] = []  # heap of (ends_at, number, units held)
        self._held = 0
        self.most_held = 0
        self._accepted_at: deque[int] = deque()  # of the last minute; kept only where a pace is set
        self._spent = 0.0  # and reserved

    def check(self, order: Order, units: float, now: int) -> None:
        """Raise Refusal when an order cannot be taken now: id, balance, pace or concurrency."""
        if self.knows(order.external_id):
            raise Refusal(1201, f"external_task_id {order.external_id} exists already")
        balance = self._settings.balance
        if balance is not None and self._spent + units > balance:
            raise Refusal(1102, "the resource pack is used up")
        self._check_pace(now)
        if self.held(now) + order.n > self._settings.concurrency:
            raise Refusal(1303, retry_after=1)

    def _check_pace(self, now: int) -> None:
        pace = self._settings.creates_per_minute
        if pace is None:
            return
        while self._accepted_at and self._accepted_at[0] <= now - _MINUTE:
            self._accepted_at.popleft()
        if len(self._accepted_at) >= pace:
            wait = self._accepted_at[0] + _MINUTE - now
            raise Refusal(1302, retry_after=-(-wait // 1000))

    def add(self, task: Task, now: int) -> None:
        """Take a task in: one that was just accepted, or one out of the journal."""
        self.tasks.append(task)
        self._by_id[task.id] = task
        if task.order.external_id:
            self._by_external_id[task.order.external_id] = task
        if not task.failure:
            self._spent += task.units
        if self._settings.creates_per_minute is not None:
            self._accepted_at.append(task.created_at)
        if task.ends_at > now:
            heappush(self._running, (task.ends_at, task.number, task.order.n))
            self._held += task.order.n
            self.most_held = max(self.most_held, self.held(now))

    def knows(self, external_id: str) -> bool:
        """Whether a task with this external id was accepted; an empty one names nothing."""
        return external_id in self._by_external_id

    def held(self, now: int) -> int:
        """Units that running tasks hold."""
        while self._running and self._running[0][0] <= now:
            self._held -= heappop(self._running)[2]
        return self._held

    def find(self, name: str, *, by_external_id: bool) -> Task:
        """The task with this id, or with this external id where that is allowed. Raises Refusal (1203)."""
        task = self._by_id.get(name)
        if task is None and by_external_id:
            task = self._by_external_id.get(name)
        if task is None:
            raise Refusal(1203, f"task {name} is not known here")
        return task

    def page(self, number: int, size: int) -> Sequence[Task]:
        """A page of the list, newest first; pages count from 1."""
        end = max(0, len(self.tasks) - (number - 1) * size)
        return self.tasks[max(0, end - size) : end][::-1]

    def next_id(self, now: int) -> str:
        """An id that no other start of the sandbox gives either: the time, pushed on where it would repeat."""
        last = int(self.tasks[-1].id) if self.tasks else 0
        return str(max(last + 1, now * 1000))
