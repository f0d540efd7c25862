"""Knows every running task of one account and asks for them until they end: many at once where it can.

When to ask is a matter of chance (see `latency`). One by one, a task is asked for when it has ended with `_ONE`. A
list tells of all, so it is read when `_SHARE` of the units in flight has likely come free: this is what keeps the
slots full, at about two lists a task where ten run, and one for a dozen where five hundred do. A callback makes an end
certain, as far as that share goes; while callbacks come in time, what was not called has hardly ended.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, TypeVar

from batchgen.engine.callback_reliability import CallbackReliability
from batchgen.engine.latency import Latencies, next_by_chance
from batchgen.engine.recovery import is_named
from batchgen.engine.retry import LONGEST_SECONDS, backoff, query_timeout
from batchgen.engine.running import FAILED_AGAIN_SECONDS, Running, kind_of
from batchgen.errors import AccountStopped, BatchgenError, JobError, NotSent, TaskNotFound, Throttled, Unclear
from batchgen.providers.base import TaskState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from random import Random

    from batchgen.engine.latency import Spread
    from batchgen.engine.running import Kind
    from batchgen.jobs import Parameters
    from batchgen.providers.base import Provider, Task

_PAGE = 500
_EMPTY = 8  # so often is a success without images asked for again, then left for the next run
_PAGE_MARGIN = 20  # more than we count: the account may have tasks that are not ours
_PAGES_AT_MOST = 20  # a list query is to be cheaper than single ones: older tasks are asked for one by one
_LIST_FROM = 3  # so many running tasks for each page are worth a list query
_LIST_PAUSE = 0.02  # seconds at least between two lists, and as long as the last one took
_SHARE = 0.04  # of the units in flight
_ONE = 0.18  # the chance with which a single task has ended when it is asked for
_PATIENT = 2.5  # times as much of either, where no job waits for a slot
_LONGEST = 15.0  # seconds
_HIDDEN = 60.0  # seconds beyond its own time after which a task that no list tells of is asked for by itself
_ONE_UNCALLED, _LONGEST_UNCALLED = 0.9, 60.0  # the same where callbacks come in time, and this one has not come
_CALL_LOST = 0.1  # the chance that is then left of an end's
_CALLS_TOGETHER = 0.5  # seconds at most that a called task waits for others to be asked for in one list
_SAMPLE = 48  # running tasks that are looked at to say when the next list is due
_QUERIES_AT_ONCE = 32
_NOT_THERE = 3  # "not found" must be said so many times in a row to be believed
_LIST_TROUBLES = 3  # so many unclear answers in a row, and the list is left alone
_LIST_REFUSALS = 6  # the same for "too fast": half a minute, in which one list is still the least that can be asked

GatewayReport = TypeVar("GatewayReport")


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
        jobs_wait: Callable[[], bool],
    ) -> None:
        self._provider = provider
        self._clock = clock
        self._wall = wall  # only to compare the gateway's times with ours
        self._chance = chance
        self._on_trouble = on_trouble
        self._on_answer = on_answer
        self.on_running: Callable[[Task], None] = lambda _: None  # hears of each answer that a task still runs
        self._jobs_wait = jobs_wait
        self._running: set[Running] = set()
        self._by_id: dict[str, Running] = {}
        self._punctuality = CallbackReliability()
        self._news = asyncio.Event()
        self._at_once = asyncio.Semaphore(_QUERIES_AT_ONCE)
        self._lists = provider.can_list
        self._list_due = 0.0  # not before this
        self._wakes_at = math.inf
        self._listing = False  # a list query is on its way
        self._list_troubles = 0
        self._list_refusals = 0
        self._accepted = 0
        self._latencies = Latencies()

    async def ended(self, task_id: str, parameters: Parameters, external_id: str) -> Task:
        """Wait until a task has ended and return its last word: failed, or succeeded with at least one image.

        An answer that tells another external id than this one is that of another task, and counts for nothing.

        Raises TaskNotFound where the gateway says several times in a row that it does not know it, and Unclear
        where it keeps saying that it succeeded without naming an image.
        """
        now = self._clock()
        kind = kind_of(parameters)
        self._accepted += 1
        running = Running(
            task_id=task_id,
            external_id=external_id,
            kind=kind,
            units=parameters.n,
            number=self._accepted,
            since=now,
            due=now + self._alone(kind, 0.0),
            end=asyncio.get_running_loop().create_future(),
        )
        self._running.add(running)
        self._by_id[task_id] = running
        if running.due < self._wakes_at:
            self._news.set()
        try:
            return await running.end
        finally:
            self._running.discard(running)
            self._by_id.pop(task_id, None)

    def wake(self, task_id: str) -> None:
        """A callback says that this task has ended: ask for it soon. What it says is not believed.

        Harmless for a task that is not running, however often and however wrong.
        """
        now = self._clock()
        running = self._by_id.get(task_id)
        if running is None:
            self._punctuality.called_after(task_id, now)
        elif running.hearsay.parse_callback(now) and running.due < math.inf and not running.is_troubled:
            wait = _CALLS_TOGETHER if self._by_list else 0.0
            running.due = min(running.due, max(now + wait, running.hearsay.not_before))
            self._news.set()

    def task_seconds(self) -> float | None:
        """How long a task lately took on the average; None before any has ended."""
        return self._latencies.average

    async def keep_asking(self) -> None:
        """Ask for what is due, for as long as the lane lives; a slow answer holds up no other question."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                due = self._list_if_due if self._by_list else self._ask_each_due
                await self._until(due(group, self._clock()))

    @property
    def _by_list(self) -> bool:
        running = len(self._running)
        if not self._lists or running < _LIST_FROM:
            return False
        return running >= _LIST_FROM * _PAGES_AT_MOST or running >= _LIST_FROM * math.ceil(self._span() / _PAGE)

    def _span(self) -> int:
        """How many tasks of ours a list tells of before it has told of the oldest that runs."""
        return self._accepted + 1 - min(running.number for running in self._running)

    def _alone(self, kind: Kind, seen: float) -> float:
        """Seconds after its begin at which a task is to be asked for by itself."""
        if self._punctuality.is_counted_on:
            return next_by_chance(self._spread(kind), seen, _ONE_UNCALLED, _LONGEST_UNCALLED)
        return next_by_chance(self._spread(kind), seen, _ONE * self._patience, _LONGEST)

    def _spread(self, kind: Kind) -> Spread | None:
        """How long such tasks take; not before as many have ended as half of those that run, for the first are fast."""
        return self._latencies.spread(kind) if 2 * self._latencies.ended >= len(self._running) else None

    @property
    def _patience(self) -> float:
        return 1.0 if self._jobs_wait() else _PATIENT

    def _ask_each_due(self, group: asyncio.TaskGroup, now: float) -> float:
        """Ask for each task whose time has come; seconds until the next."""
        for running in [running for running in self._running if running.due <= now]:
            running.due = math.inf
            group.create_task(self._ask_one(running))
        return min((running.due for running in self._running), default=math.inf) - now

    def _list_if_due(self, group: asyncio.TaskGroup, now: float) -> float:
        """Read the list when enough has likely ended; seconds until that is to be looked at again."""
        if self._listing:
            return _LONGEST  # its end wakes us
        wait = max(self._list_due - now, self._until_share(now))
        if wait > 0:
            return wait
        self._listing = True
        group.create_task(self._ask_list(now))
        return _LONGEST

    def _until_share(self, now: float) -> float:
        """Seconds until a page of the list has likely so much news that it is worth reading."""
        asked = [running for running in self._running if running.due < math.inf]
        sample = asked if len(asked) <= _SAMPLE else self._chance.sample(asked, _SAMPLE)
        share = self._worth(sample)
        first_page = [running for running in sample if running.number > self._accepted - _PAGE]
        older = [running for running in sample if running.number <= self._accepted - _PAGE]
        called = min((running.due for running in asked if running.hearsay.has_ended), default=math.inf)
        longest = min(_LONGEST, max(0.0, called - now))
        wait, step = 0.0, _LIST_PAUSE
        while wait < longest:
            if any(part and self._likely_ended(part, now + wait) >= share for part in (first_page, older)):
                return wait
            wait += step
            step *= 1.2
        return longest

    def _worth(self, tasks: Collection[Running]) -> float:
        """So many of their units must likely have ended to be worth a page of the list."""
        return _SHARE * self._patience * sum(running.units for running in tasks)

    def _likely_ended(self, tasks: Collection[Running], at: float) -> float:
        return sum(running.units * self._chance_of(running, at) for running in tasks)

    def _chance_of(self, running: Running, at: float) -> float:
        """That it has ended, as far as can be told; 1 for what waits for a time of its own."""
        spread = self._spread(running.kind)
        if spread is None or running.is_troubled:
            return float(at >= running.due)
        if running.hearsay.has_ended:
            return float(at >= running.hearsay.not_before)
        before = spread.ended_by(running.seen)
        chance = 1.0 if before >= 1.0 else (spread.ended_by(at - running.since) - before) / (1.0 - before)
        return chance * _CALL_LOST if self._punctuality.is_counted_on else chance

    async def _until(self, wait: float) -> None:
        self._wakes_at = -math.inf if self._listing else self._clock() + wait
        try:
            async with asyncio.timeout(None if wait == math.inf else max(0.01, wait)):
                await self._news.wait()
        except TimeoutError:
            return

    async def _ask_list(self, now: float) -> None:
        """Read the list; what it does not tell of, though its own time has come, is asked for by itself."""
        asked = {running for running in self._running if running.due < math.inf}
        told: set[Running] = set()
        is_whole = True
        try:
            is_whole = await self._read_list(asked, told, now)
        except (Throttled, NotSent) as error:
            self._list_refusals += int(isinstance(error, Throttled))
            self._lists = self._list_refusals < _LIST_REFUSALS
            self._trouble(asked - told, error)
            return
        except (JobError, AccountStopped):
            self._lists = False  # this account has only the single query, which will say what is wrong, if anything is
        except Unclear:
            self._list_troubles += 1
            self._lists = self._list_troubles < _LIST_TROUBLES
        else:
            self._list_troubles = self._list_refusals = 0
        finally:
            self._listing = False
            ended = self._clock()
            self._list_due = ended + max(_LIST_PAUSE, ended - now)
            self._news.set()
        async with asyncio.TaskGroup() as group:
            for running in self._to_be_asked_singly(asked - told, ended, is_whole=is_whole):
                running.due = math.inf
                group.create_task(self._ask_one(running))

    def _to_be_asked_singly(self, untold: Collection[Running], now: float, *, is_whole: bool) -> list[Running]:
        """Those that the list did not tell of, though their own time has come.

        A few older ones are never worth a page of their own while all slots are busy: of those, the most overdue.
        """
        due = sorted((each for each in untold if each.due <= now), key=lambda each: each.due)
        late = {each for each in due[:_LIST_FROM] if each.due <= now - _HIDDEN}
        return [each for each in due if is_whole or each in late or each.is_troubled or each.hearsay.has_ended]

    async def _read_list(self, asked: set[Running], told: set[Running], now: float) -> bool:
        """Read pages, as far back as the oldest running task where that is worth it; whether it was read so far."""
        oldest = min((running.since for running in asked), default=now)
        worth = self._worth(asked)
        size = min(_PAGE, self._span() + _PAGE_MARGIN) if asked else _PAGE
        for number in range(1, _PAGES_AT_MOST + 1):
            page = await _answered(self._provider.page(number, size), query_timeout(self._list_troubles))
            self._on_answer()
            tasks = {task.id: task for task in page.tasks}
            for running in asked - told:
                task = tasks.get(running.task_id)
                if task is None or not is_named(task, running.external_id):
                    continue
                if running.is_told_short(task):  # a list may say less than the task itself
                    running.short, running.due = (running.short, running.due) if running.is_troubled else (1, now)
                else:
                    told.add(running)
                    self._told(running, task, now)
            rest = asked - told
            if not rest or len(page.tasks) < size or self._before(page.tasks[-1].created_ms, oldest):
                return True
            if self._likely_ended(rest, now) < worth:
                return False
        return True

    def _before(self, created_ms: int | None, oldest: float) -> bool:
        """Whether a page reaches further back than our oldest task; a minute's skew of clocks is allowed for."""
        return created_ms is not None and self._wall() - created_ms / 1000 > self._clock() - oldest + 60.0

    async def _query(self, running: Running) -> Task:
        task = await self._provider.query(running.task_id)
        if not is_named(task, running.external_id):
            raise Unclear(f"The gateway answered for the task {running.task_id} with another one.")
        return task

    async def _ask_one(self, running: Running) -> None:
        try:
            async with self._at_once:
                now = self._clock()
                task = await _answered(self._query(running), query_timeout(running.refused))
        except TaskNotFound as error:
            running.not_there += 1
            if running.not_there >= _NOT_THERE:
                self._give_up(running, error)
            self._ask_again(running, backoff(running.not_there, self._chance))
        except (Throttled, Unclear, NotSent, JobError, AccountStopped) as error:
            self._trouble({running}, error)
        else:
            self._on_answer()
            self._told(running, task, now)

    def _told(self, running: Running, task: Task, now: float) -> None:
        """The answer to a question that was asked at this moment."""
        running.refused = running.not_there = 0
        if running.is_told_failed(task, now):
            self._ask_again(running, FAILED_AGAIN_SECONDS)
        elif task.state is TaskState.RUNNING:
            self.on_running(task)
            running.seen = now - running.since
            wait = self._alone(running.kind, running.seen) - (self._clock() - running.since)
            self._ask_again(running, min(wait, self._punctuality.goes_on(running.hearsay, now, self._clock())))
        elif running.is_told_short(task):
            running.short += 1
            if running.short >= _EMPTY:
                self._give_up(running, Unclear(f"The task {task.id} succeeded, but names no image.", head=task.head))
            self._ask_again(running, backoff(running.short, self._chance))
        elif not running.end.done():
            self._borne_out(running)
            self._latencies.learn(running.kind, running.seen, self._clock() - running.since)
            running.end.set_result(task)

    def _borne_out(self, running: Running) -> None:
        """It has ended: what that makes of its call, or of there being none."""
        if running.hearsay.has_ended:
            self._punctuality.right()
            running.seen = max(running.seen, running.hearsay.at - running.since)  # nearer to its end than any answer
            return
        was_counted_on = self._punctuality.is_counted_on
        self._punctuality.not_called_yet(running.task_id, self._clock())
        if was_counted_on and not self._punctuality.is_counted_on:
            for other in self._running:
                if other.due < math.inf and not other.is_troubled:
                    other.due = min(other.due, other.since + self._alone(other.kind, other.seen))
            self._news.set()

    def _give_up(self, running: Running, error: BatchgenError) -> None:
        if not running.end.done():
            running.end.set_exception(error)

    def _trouble(self, asked_for: set[Running], error: BatchgenError) -> None:
        """The question met trouble: free to repeat, but not at once, and not for ever (`on_trouble`)."""
        wished = error.retry_after if isinstance(error, Throttled) else None
        for running in asked_for:
            running.refused += 1
            wait = backoff(running.refused, self._chance)
            self._ask_again(running, max(wait, min(wished or 0.0, LONGEST_SECONDS)))
        self._on_trouble(error)

    def _ask_again(self, running: Running, seconds: float) -> None:
        """Its own time comes in so many seconds; never at once, whatever the arithmetic says."""
        running.due = math.inf if running.end.done() else self._clock() + max(_LIST_PAUSE, seconds)
        if running.due < self._wakes_at:
            self._news.set()


async def _answered(question: Awaitable[GatewayReport], seconds: float) -> GatewayReport:
    """The answer. Raises Unclear where none comes in time, besides what the question itself raises."""
    try:
        async with asyncio.timeout(seconds):
            return await question
    except TimeoutError as error:
        raise Unclear(f"The gateway did not answer a query within {seconds:g} s.") from error
