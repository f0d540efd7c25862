"""Knows every running task of one account and asks for them until they end: many at once where it can."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from batchgen.engine.retry import LONGEST_SECONDS, backoff, next_query
from batchgen.errors import AccountStopped, BatchgenError, JobError, NotSent, TaskNotFound, Throttled, Unclear
from batchgen.providers.base import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from batchgen.jobs import Parameters
    from batchgen.providers.base import Provider, Task

_PAGE = 500
_PAGES_AT_MOST = 20  # a list query is to be cheaper than single ones: older tasks are asked for one by one
_LIST_FROM = 3  # so many tasks due at a time are worth a list query
_TOGETHER = 0.2  # seconds: what comes due so soon is asked for in the same list
_QUERIES_AT_ONCE = 32
_NOT_THERE = 3  # "not found" must be said so many times in a row to be believed
_LIST_TROUBLES = 3  # so many unclear answers in a row, and the list is left alone
_EMPTY = 8  # so often is a success without images asked for again, over some minutes, then left to the next run
_REMEMBERED = 32

Kind = tuple[str, str, int, bool]


def kind_of(parameters: Parameters) -> Kind:
    """Tasks that take about as long as each other."""
    return (parameters.model, parameters.resolution, parameters.n, parameters.image is not None)


@dataclass(slots=True, kw_only=True, eq=False)
class _Running:
    task_id: str
    kind: Kind
    since: float
    due: float  # infinite while it is being asked for
    end: asyncio.Future[Task]
    refused: int = 0
    not_there: int = 0
    empty: int = 0  # answers that said it succeeded, but named no image


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
        self._running: set[_Running] = set()
        self._news = asyncio.Event()
        self._at_once = asyncio.Semaphore(_QUERIES_AT_ONCE)
        self._lists = provider.lists
        self._listing = False  # a list query is on its way
        self._list_troubles = 0
        self.latencies = Latencies()

    async def ended(self, task_id: str, parameters: Parameters) -> Task:
        """Wait until a task has ended and return its last word: failed, or succeeded with at least one image.

        Raises TaskNotFound where the gateway says several times in a row that it does not know it, and Unclear
        where it keeps saying that it succeeded without naming an image.
        """
        now = self._clock()
        kind = kind_of(parameters)
        end: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
        due = now + next_query(0.0, self.latencies.usual(kind))
        running = _Running(task_id=task_id, kind=kind, since=now, due=due, end=end)
        self._running.add(running)
        self._news.set()
        try:
            return await end
        finally:
            self._running.discard(running)

    async def keep_asking(self) -> None:
        """Ask for what is due, for as long as the lane lives; a slow answer holds up no other question."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                now = self._clock()
                by_list = self._lists and len(self._running) >= _LIST_FROM
                due = self._due(now + _TOGETHER if by_list else now)
                if by_list and (self._listing or not self._due(now)):
                    due = []  # what comes due while a list is on its way goes into the next one
                for running in due:
                    running.due = math.inf
                if by_list and due:
                    self._listing = True
                    group.create_task(self._ask_list(due))
                else:
                    for running in due:
                        group.create_task(self._ask_one(running))
                await self._until_next(now)

    def _due(self, by: float) -> list[_Running]:
        return [running for running in self._running if running.due <= by]

    async def _until_next(self, now: float) -> None:
        next_due = min((running.due for running in self._running), default=math.inf)
        if self._listing and len(self._running) >= _LIST_FROM:
            next_due = math.inf  # the list's end wakes us
        wait = None if next_due == math.inf else max(0.01, next_due - now)
        try:
            async with asyncio.timeout(wait):
                await self._news.wait()
        except TimeoutError:
            return

    async def _ask_list(self, due: list[_Running]) -> None:
        """Ask with list queries; what the list does not tell of is asked for one by one."""
        told: set[_Running] = set()
        try:
            await self._read_list(due, told)
        except (Throttled, NotSent) as error:
            self._trouble(set(due) - told, error)
            return
        except (JobError, AccountStopped):
            self._lists = False  # this account has only the single query, which will say what is wrong, if anything is
        except Unclear:
            self._list_troubles += 1
            self._lists = self._list_troubles < _LIST_TROUBLES
        else:
            self._list_troubles = 0
        finally:
            self._listing = False
            self._news.set()
        async with asyncio.TaskGroup() as group:
            for running in set(due) - told:
                group.create_task(self._ask_one(running))

    async def _read_list(self, due: list[_Running], told: set[_Running]) -> None:
        oldest = min(running.since for running in due)
        for number in range(1, _PAGES_AT_MOST + 1):
            page = await self._provider.page(number, _PAGE)
            self._on_answer()
            tasks = {task.id: task for task in page.tasks}
            for running in list(self._running):
                task = tasks.get(running.task_id)
                # A list may say less than the task itself: its end without images is not believed.
                if task is not None and (task.links or task.state is not TaskState.SUCCEEDED):
                    told.add(running)
                    self._told(running, task)
            if told.issuperset(due) or len(page.tasks) < _PAGE or self._before(page.tasks[-1].created_ms, oldest):
                return

    def _before(self, created_ms: int | None, oldest: float) -> bool:
        """Whether a page reaches further back than our oldest task; a minute's skew of clocks is allowed for."""
        if created_ms is None:
            return False
        return self._wall() - created_ms / 1000 > self._clock() - oldest + 60.0

    async def _ask_one(self, running: _Running) -> None:
        try:
            async with self._at_once:
                task = await self._provider.query(running.task_id)
        except TaskNotFound as error:
            running.not_there += 1
            if running.not_there >= _NOT_THERE:
                self._give_up(running, error)
            self._ask_again(running, backoff(running.not_there, self._chance))
        except (Throttled, Unclear, NotSent, JobError, AccountStopped) as error:
            self._trouble({running}, error)
        else:
            self._on_answer()
            self._told(running, task)

    def _told(self, running: _Running, task: Task) -> None:
        elapsed = self._clock() - running.since
        running.refused = running.not_there = 0
        if task.state is TaskState.RUNNING:
            self._ask_again(running, next_query(elapsed, self.latencies.usual(running.kind)))
        elif task.state is TaskState.SUCCEEDED and not task.links:
            running.empty += 1
            if running.empty >= _EMPTY:
                words = f"The gateway says that the task {task.id} succeeded, but names no image."
                self._give_up(running, Unclear(words, head=task.head))
            self._ask_again(running, backoff(running.empty, self._chance))
        elif not running.end.done():
            self.latencies.learn(running.kind, elapsed)
            running.end.set_result(task)

    def _give_up(self, running: _Running, error: BatchgenError) -> None:
        if not running.end.done():
            running.end.set_exception(error)

    def _trouble(self, asked_for: set[_Running], error: BatchgenError) -> None:
        """The question met trouble: free to repeat, but not at once, and not for ever (`on_trouble`)."""
        wished = error.retry_after if isinstance(error, Throttled) else None
        for running in asked_for:
            running.refused += 1
            wait = backoff(running.refused, self._chance)
            self._ask_again(running, max(wait, min(wished or 0.0, LONGEST_SECONDS)))
        self._on_trouble(error)

    def _ask_again(self, running: _Running, seconds: float) -> None:
        running.due = math.inf if running.end.done() else self._clock() + seconds
        self._news.set()
