"""Knows every running task of one account and asks for them until they end: many at once where it can."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from batchgen.engine.retry import backoff, next_query
from batchgen.errors import AccountStopped, BatchgenError, NotSent, TaskNotFound, Throttled, Unclear
from batchgen.providers.base import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from batchgen.jobs import Parameters
    from batchgen.providers.base import Provider, Task

_PAGE = 500
_PAGES_AT_MOST = 20  # a list query is to be cheaper than single ones: older tasks are asked for one by one
_LIST_FROM = 3  # so many tasks due at a time are worth a list query
_QUERIES_AT_ONCE = 32
_NOT_THERE = 3  # "not found" must be said so many times in a row to be believed
_REMEMBERED = 32

Kind = tuple[str, str, int, bool]


def kind_of(parameters: Parameters) -> Kind:
    """Tasks that take about as long as each other."""
    return (parameters.model, parameters.resolution, parameters.n, parameters.image is not None)


@dataclass(slots=True, kw_only=True)
class _Running:
    task_id: str
    kind: Kind
    since: float
    due: float
    end: asyncio.Future[Task]
    refused: int = 0
    not_there: int = 0


@dataclass(slots=True)
class Latencies:
    """How long tasks have taken lately, in seconds, by kind."""

    seen: dict[Kind, list[float]] = field(default_factory=dict)

    def learn(self, kind: Kind, seconds: float) -> None:
        """Remember one more."""
        lately = self.seen.setdefault(kind, [])
        lately.append(seconds)
        del lately[:-_REMEMBERED]

    def usual(self, kind: Kind) -> float | None:
        """The median, or None before any is known."""
        lately = self.seen.get(kind)
        return median(lately) if lately else None


class Watch:
    """Running tasks of one account. `on_trouble` hears of an account that cannot be asked."""

    def __init__(
        self,
        provider: Provider,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        chance: Random,
        on_trouble: Callable[[BatchgenError], None],
        on_answer: Callable[[], None],
    ) -> None:
        self._provider = provider
        self._clock = clock
        self._wall = wall  # only to compare the gateway's times with ours
        self._chance = chance
        self._on_trouble = on_trouble
        self._on_answer = on_answer
        self._running: dict[str, _Running] = {}
        self._news = asyncio.Event()
        self._lists = provider.lists
        self.latencies = Latencies()
        self.queries = 0

    async def ended(self, task_id: str, parameters: Parameters) -> Task:
        """Wait until a task has ended and return its last word.

        Raises TaskNotFound where the gateway says several times that it does not know it.
        """
        now = self._clock()
        kind = kind_of(parameters)
        end: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
        due = now + next_query(0.0, self.latencies.usual(kind))
        self._running[task_id] = _Running(task_id=task_id, kind=kind, since=now, due=due, end=end)
        self._news.set()
        try:
            return await end
        finally:
            self._running.pop(task_id, None)

    async def keep_asking(self) -> None:
        """Ask for what is due, for as long as the lane lives."""
        while True:
            self._news.clear()
            now = self._clock()
            due = [task for task in self._running.values() if task.due <= now]
            if due:
                await self._ask(due)
                continue
            wait = min((task.due for task in self._running.values()), default=None)
            try:
                async with asyncio.timeout(None if wait is None else max(0.01, wait - now)):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _ask(self, due: list[_Running]) -> None:
        if self._lists and len(due) >= _LIST_FROM:
            due = await self._ask_list(due)
        for start in range(0, len(due), _QUERIES_AT_ONCE):
            async with asyncio.TaskGroup() as group:
                for task in due[start : start + _QUERIES_AT_ONCE]:
                    group.create_task(self._ask_one(task))

    async def _ask_list(self, due: list[_Running]) -> list[_Running]:
        """Ask with list queries; what the list does not tell of is returned, to be asked for one by one."""
        missing = {task.task_id: task for task in due}
        oldest = min(task.since for task in due)
        try:
            for number in range(1, _PAGES_AT_MOST + 1):
                self.queries += 1
                page = await self._provider.page(number, _PAGE)
                self._on_answer()
                for task in page.tasks:
                    missing.pop(task.id, None)
                    if task.id in self._running:
                        self._told(self._running[task.id], task)
                if not missing or page.last or self._before(page.tasks[-1].created_ms, oldest):
                    break
        except TaskNotFound:
            self._lists = False  # this account has only the single query
        except (Throttled, Unclear, NotSent, AccountStopped) as error:
            for running in due:
                self._put_off(running, error)
            self._on_trouble(error)
            return []
        return list(missing.values())

    def _before(self, created_ms: int | None, oldest: float) -> bool:
        """Whether a page reaches further back than our oldest task; a minute's skew of clocks is allowed for."""
        if created_ms is None:
            return False
        return self._wall() - created_ms / 1000 > self._clock() - oldest + 60.0

    async def _ask_one(self, running: _Running) -> None:
        try:
            self.queries += 1
            task = await self._provider.query(running.task_id)
        except TaskNotFound as error:
            running.not_there += 1
            if running.not_there >= _NOT_THERE and not running.end.done():
                running.end.set_exception(error)
            running.due = self._clock() + backoff(running.not_there, self._chance)
        except (Throttled, Unclear, NotSent, AccountStopped) as error:
            self._put_off(running, error)
            self._on_trouble(error)
        else:
            self._on_answer()
            self._told(running, task)

    def _told(self, running: _Running, task: Task) -> None:
        now = self._clock()
        elapsed = now - running.since
        running.refused = running.not_there = 0
        if task.state is TaskState.RUNNING:
            running.due = now + next_query(elapsed, self.latencies.usual(running.kind))
        elif not running.end.done():
            self.latencies.learn(running.kind, elapsed)
            running.end.set_result(task)
            running.due = float("inf")

    def _put_off(self, running: _Running, error: BatchgenError) -> None:
        running.refused += 1
        asked = error.retry_after if isinstance(error, Throttled) else None
        running.due = self._clock() + backoff(running.refused, self._chance, asked=asked)
