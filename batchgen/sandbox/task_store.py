"""The account's tasks and its limits: accepts a create, or refuses it by id, balance, rate or concurrency."""

from __future__ import annotations

import json
import os
from collections import deque
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any

from batchgen.errors import CommandError
from batchgen.sandbox.api_error import ApiError
from batchgen.sandbox.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchgen.catalog.accounts import Prices
    from batchgen.sandbox.injector import Injector
    from batchgen.sandbox.settings import Settings
    from batchgen.sandbox.tasks import CreateRequest

_MINUTE = 60_000  # milliseconds, as all times here
_FAILING_WORD = "fail-this-task"


class TaskStore:
    """All tasks of the account, in the order in which they were accepted. `clock` gives Unix milliseconds."""

    def __init__(self, settings: Settings, prices: Prices, clock: Callable[[], int], injector: Injector) -> None:
        self._settings = settings
        self._prices = prices
        self._clock = clock
        self._injector = injector
        self._rng = Random(settings.seed)
        self._journal: int | None = None  # a file descriptor
        self.tasks: list[Task] = []
        self._by_id: dict[str, Task] = {}
        self._by_external_id: dict[str, Task] = {}
        self._running: list[tuple[int, int, int]] = []  # heap of (ends_at, number, units)
        self._units_held = 0
        self.peak_units_held = 0
        self.repeated_ids = 0  # creates that were refused because their external id is known
        self._accepted_at: deque[int] = deque()  # of the last minute; kept only where the rate is limited
        self._spent = 0.0  # units, with those of running tasks

    def open(self, request_of: Callable[[dict[str, Any]], CreateRequest]) -> None:
        """Read the tasks of earlier starts from the journal, if there is one. Raises CommandError.

        The journal has a JSON line for each accepted task, written before its answer is sent, so a sandbox whose
        process was killed knows its tasks at the next start, as a real gateway would. A line is one write: a kill tears
        at most the last one, which is cut off, for its create was never answered. Nothing is synced.
        """
        path = self._settings.state
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._journal = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.ftruncate(self._journal, whole)
        except OSError as error:
            raise CommandError(
                f"Cannot open the sandbox's state file {path}: {error.strerror}. Name another file."
            ) from error
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                self._add(Task.from_record(json.loads(line), request_of), self._clock())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CommandError(
                    f"Line {number} of {path} is not a task of the sandbox. Name another file as its state."
                ) from error

    def close(self) -> None:
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None

    def accept(self, request: CreateRequest, caller_id: str) -> Task:
        """The new task, recorded in the journal. Raises ApiError (1102, 1201, 1302, 1303).

        It never awaits: no other request is served between the checks and the journal.
        """
        now = self._clock()
        units = float(self._prices.of_image(request.model, request.resolution) or 0) * request.n
        self._check(request, units, now)
        number = len(self.tasks) + 1
        failing = _FAILING_WORD in request.prompt
        last = int(self.tasks[-1].id) if self.tasks else 0
        sigma = self._settings.latency_sigma
        factor = self._rng.lognormvariate(0, sigma) if sigma else 1.0
        task = Task(
            id=str(max(last + 1, now * 1000)),  # an id that no other start of the sandbox gives
            number=number,
            request=request,
            created_at=now,
            duration=round(self._settings.latency * factor * 1000),
            failure="the prompt asks for a task that fails" if failing else self._injector.task_failure(number),
            units=units,
            caller_id=caller_id,
        )
        if self._journal is not None:
            record = task.to_record()
            if not self._settings.journal_callbacks:
                record["body"] = {name: value for name, value in record["body"].items() if name != "callback_url"}
            os.write(self._journal, json.dumps(record, separators=(",", ":")).encode() + b"\n")
        self._add(task, now)
        return task

    def _check(self, request: CreateRequest, units: float, now: int) -> None:
        if request.external_id in self._by_external_id:
            self.repeated_ids += 1
            raise ApiError(1201, f"external_task_id {request.external_id} exists already")
        balance = self._settings.balance
        if balance is not None and self._spent + units > balance:
            raise ApiError(1102, "the resource pack is used up")
        while self._accepted_at and self._accepted_at[0] <= now - _MINUTE:
            self._accepted_at.popleft()
        limit = self._settings.creates_per_minute
        if limit is not None and len(self._accepted_at) >= limit:
            wait = self._accepted_at[0] + _MINUTE - now
            raise ApiError(1302, retry_after=-(-wait // 1000))
        if self.units_held(now) + request.n > self._settings.concurrency:
            raise ApiError(1303, retry_after=1)

    def _add(self, task: Task, now: int) -> None:
        self.tasks.append(task)
        self._by_id[task.id] = task
        if task.request.external_id:
            self._by_external_id[task.request.external_id] = task
        if not task.failure:
            self._spent += task.units
        if self._settings.creates_per_minute is not None:
            self._accepted_at.append(task.created_at)
        if task.ends_at > now:
            heappush(self._running, (task.ends_at, task.number, task.request.n))
            self._units_held += task.request.n
            self.peak_units_held = max(self.peak_units_held, self.units_held(now))

    def units_held(self, now: int) -> int:
        while self._running and self._running[0][0] <= now:
            self._units_held -= heappop(self._running)[2]
        return self._units_held

    def find(self, name: str, *, by_external_id: bool) -> Task:
        """The task with this id, or with this external id where that is allowed. Raises ApiError (1203)."""
        task = self._by_id.get(name)
        if task is None and by_external_id:
            task = self._by_external_id.get(name)
        if task is None:
            raise ApiError(1203, f"task {name} does not exist")
        return task

    def by_id(self, name: str) -> Task | None:
        return self._by_id.get(name)

    def by_external_id(self, name: str) -> Task | None:
        return self._by_external_id.get(name)

    def page(self, number: int, size: int) -> Sequence[Task]:
        """A page of the list, newest first; pages count from 1."""
        end = max(0, len(self.tasks) - (number - 1) * size)
        return self.tasks[max(0, end - size) : end][::-1]
