"""Waits for the running tasks of one account: queries them until they end, many at once where the account has a list.

The rule: one list every 4.7 % of the mean latency; a single task first at 64 % of the median, then every 12 % of it.
A callback brings the query forward. While callbacks come in time, tasks without one are queried more rarely: this saves
1.2 of 1.9 queries a task with lists, and 2.8 of 4.3 without (8 in flight, 0.9 s each).
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, TypeVar

from batchgen.engine.retry import backoff, query_backoff, query_timeout
from batchgen.engine.running import CONFIRM_FAILURE_SECONDS, CallbackReliability, Latencies, RunningTask, kind_of
from batchgen.errors import AccountStopped, BatchgenError, JobError, NotSent, TaskNotFound, Throttled, Unclear
from batchgen.providers.base import TaskState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batchgen.engine.context import Context
    from batchgen.jobs import Parameters
    from batchgen.providers.base import Page, Task
    from batchgen.providers.validated import ValidatedProvider

_LIST_INTERVAL = 0.047  # of the mean latency
_FIRST_QUERY = 0.64  # of the median latency, after the task's start
_OLDER_PAGES = 4.0  # times as long between two readings of an older page, which has fewer running tasks
_QUERY_INTERVAL = 0.12  # of the median latency
_NOBODY_WAITS = 2.5  # times as long between queries where no job waits for a slot
_CALLED_BACK = 5.0  # times as long between queries while callbacks come in time
_UNCALLED, _LONGEST_UNCALLED = 0.6, 60.0  # of the median, and seconds, after the median without a callback
_SHORTEST, _LONGEST = 0.02, 15.0  # seconds between two queries, or two lists
_LATE = 2 * _LONGEST  # an answer that comes so much later than planned does not say how long the task took
_SHORTEST_UNKNOWN = 0.25  # the same before anything is known of how long tasks take

_PAGE = 500
_PAGES_AT_MOST = 20
_LIST_FROM = 3  # fewer running tasks are queried one by one
_PAGE_SHARE = 0.04  # an older page is read where so many of the running tasks are due
_QUERIES_AT_ONCE = 32

_NOT_FOUND = 3  # "not found" is believed when it is said so many times in a row
_EMPTY = 8  # a success without images is queried again so often, then left for the next run
_LIST_ERRORS = 3  # after so many unclear answers in a row, the list is no longer used
_LIST_REFUSALS = 6  # the same for "too fast": half a minute, in which one list costs less than single queries

T = TypeVar("T")


class TaskPoller:
    """The running tasks of one account. `on_trouble` is called with the error of each query that had no answer."""

    def __init__(
        self,
        context: Context,
        provider: ValidatedProvider,
        *,
        on_trouble: Callable[[BatchgenError], None],
        on_answer: Callable[[], None],
        jobs_wait: Callable[[], bool],
    ) -> None:
        self._provider = provider
        self._clock = context.clock
        self._wall = context.wall  # only to compare the gateway's times with ours
        self._rng = context.rng
        self._on_trouble = on_trouble
        self._on_answer = on_answer
        self.on_status: Callable[[Task], None] = lambda _: None  # called for each answer that a task still runs
        self._jobs_wait = jobs_wait
        # In the order of their start. Two may have the same id, where a gateway mixes up its answers.
        self._running: dict[RunningTask, None] = {}
        self._by_id: dict[str, RunningTask] = {}
        self._callbacks = CallbackReliability()
        self._latencies = Latencies()
        self._changed = asyncio.Event()
        self._query_permits = asyncio.Semaphore(_QUERIES_AT_ONCE)
        self._can_list = provider.can_poll_list
        self._list_due = 0.0  # no list is read before this
        self._is_listing = False
        self._list_errors = self._list_refusals = 0

    async def wait(self, task_id: str, parameters: Parameters, external_id: str) -> Task:
        """Wait until a task has ended and return its last answer: failed, or succeeded with at least one image.

        An answer with another external id than this one belongs to another task, and is ignored.

        Raises TaskNotFound where the gateway says several times in a row that it does not know the task, and Unclear
        where it keeps saying that the task succeeded without naming an image.
        """
        running = RunningTask(
            task_id=task_id,
            external_id=external_id,
            kind=kind_of(parameters),
            units=parameters.n,
            since=self._clock(),
            due=0.0,
            end=asyncio.get_running_loop().create_future(),
        )
        self._running[running] = None
        self._by_id[task_id] = running
        self._query_in(running, self._until_query(running))
        try:
            return await running.end
        finally:
            self._running.pop(running, None)
            self._by_id.pop(task_id, None)

    def on_callback(self, task_id: str) -> None:
        """Query a task soon because a callback says that it has ended.

        Harmless for a task that is not running, however often and however wrong.
        """
        now = self._clock()
        running = self._by_id.get(task_id)
        if running is None:
            self._callbacks.came_after_end(task_id, now)
        elif running.called_at is None:
            running.called_at = now
            if running.due < math.inf and not running.is_troubled:
                self._query_in(running, min(running.due, running.quiet_until) - now)

    def task_seconds(self) -> float | None:
        """How long a task lately took on the average; None before any has ended."""
        return self._latencies.mean

    async def run(self) -> None:
        """Query what is due until cancelled; a slow answer holds up no other query."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                await self._change_within(self.query_due(group))

    def query_due(self, group: asyncio.TaskGroup) -> float:
        """Start what is due now: one list, or queries of single tasks; the seconds until more is due."""
        now = self._clock()
        due = min((running.due for running in self._running), default=math.inf)
        if not self._can_list or len(self._running) < _LIST_FROM:
            if due <= now:
                self._query_each([running for running in self._running if running.due <= now], group)
                return 0.0
            return due - now
        if self._is_listing:
            return _LONGEST  # the end of the list wakes the loop
        if (wait := max(due, self._list_due) - now) <= 0:
            self._is_listing = True
            group.create_task(self._list(now))
        return max(0.0, wait)

    async def _change_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(None if seconds == math.inf else max(0.01, seconds)):
                await self._changed.wait()
        except TimeoutError:
            return

    # --- when ------------------------------------------------------------------------------------------------

    def _until_query(self, running: RunningTask, *, listed: int = 0) -> float:
        """Seconds until a task that was just seen running is due; `listed` is the page of a list that named it."""
        # The first tasks that end are fast ones: they say nothing of the others before half as many have ended as run.
        is_known = 2 * self._latencies.ended >= len(self._running)
        if not is_known or (median := self._latencies.median(running.kind)) is None:
            return min(max(_SHORTEST_UNKNOWN, _QUERY_INTERVAL * running.seen), _LONGEST)
        first = _FIRST_QUERY * median
        if self._callbacks.is_reliable:
            first = median + min(_UNCALLED * median, _LONGEST_UNCALLED)
        if (wait := first - running.seen) > 0:
            return wait
        if listed:
            return self._list_interval() * (1.0 if listed == 1 else _OLDER_PAGES)
        late = max(median, running.seen - median)
        return min(_QUERY_INTERVAL * late, _LONGEST) * self._slowdown

    def _list_interval(self) -> float:
        return min(_LIST_INTERVAL * (self._latencies.mean or 0.0), _LONGEST) * self._slowdown

    @property
    def _slowdown(self) -> float:
        if self._callbacks.is_reliable:
            return _CALLED_BACK
        return 1.0 if self._jobs_wait() else _NOBODY_WAITS

    def _query_in(self, running: RunningTask, seconds: float) -> None:
        """Make a task due in so many seconds; never at once, whatever the arithmetic says."""
        running.wait = max(_SHORTEST, seconds)
        running.due = math.inf if running.end.done() else self._clock() + running.wait
        self._changed.set()

    # --- one by one ------------------------------------------------------------------------------------------

    def _query_each(self, due: list[RunningTask], group: asyncio.TaskGroup) -> None:
        for running in due:
            running.due = math.inf
            group.create_task(self._query(running))

    async def _query(self, running: RunningTask) -> None:
        try:
            async with self._query_permits:
                now = self._clock()
                query = self._provider.query(running.task_id, running.external_id)
                task = await answer_within(query_timeout(running.errors), query)
        except TaskNotFound as error:
            running.not_found += 1
            may_be_new = not running.seen and self._clock() - running.since < self._provider.account.visibility_delay
            if running.not_found >= _NOT_FOUND and not may_be_new:
                _give_up(running, error)
            self._query_in(running, backoff(running.not_found, self._rng))
        except (Throttled, Unclear, NotSent, JobError, AccountStopped) as error:
            self._back_off([running], error)
        else:
            self._on_answer()
            self._take(running, task, now)

    def _take(self, running: RunningTask, task: Task, queried_at: float, *, listed: int = 0) -> None:
        """Act on the answer to a query that was sent at this moment."""
        running.errors = running.not_found = 0
        if running.needs_second_failure(task, queried_at):
            self._query_in(running, CONFIRM_FAILURE_SECONDS)
        elif task.state is TaskState.RUNNING:
            self.on_status(task)
            running.seen = queried_at - running.since
            wait = self._until_query(running, listed=listed) - (self._clock() - queried_at)
            self._query_in(running, min(wait, self._until_callback_counts(running, queried_at)))
        elif running.is_short(task):
            running.short += 1
            if running.short >= _EMPTY:
                _give_up(
                    running,
                    Unclear(f"The task {task.id} succeeded, but names no image.", body_excerpt=task.body_excerpt),
                )
            self._query_in(running, backoff(running.short, self._rng))
        elif not running.end.done():
            self._note_end(running)
            running.end.set_result(task)

    def _until_callback_counts(self, running: RunningTask, queried_at: float) -> float:
        """Seconds until a callback makes a task worth a query of which an answer says that it runs."""
        if running.called_at is None:
            return math.inf
        if running.called_at >= queried_at:
            return 0.0  # the callback is the newer of the two
        self._note_unreliable(self._callbacks.failed)
        return running.reject_callback(self._clock())

    def _note_end(self, running: RunningTask) -> None:
        now = self._clock()
        if running.called_at is not None:
            self._callbacks.confirmed()
            running.seen = max(running.seen, running.called_at - running.since)
        else:
            self._note_unreliable(lambda: self._callbacks.ended_without(running.task_id, now))
        ended = now - running.since
        late = ended - running.seen - running.wait
        if late <= max(_LATE, running.wait):  # else this process stood still, or the gateway was away
            self._latencies.learn(running.kind, running.seen, ended)

    def _note_unreliable(self, note: Callable[[], None]) -> None:
        """Note what callbacks missed; where they are no longer reliable, all tasks are due as usual again."""
        was_reliable = self._callbacks.is_reliable
        note()
        if was_reliable and not self._callbacks.is_reliable:
            for running in self._running:
                if running.due < math.inf and not running.is_troubled:
                    usual = running.since + running.seen + self._until_query(running)
                    self._query_in(running, min(running.due, usual) - self._clock())
            self._list_due = min(self._list_due, self._clock() + self._list_interval())

    def _back_off(self, unanswered: list[RunningTask], error: BatchgenError) -> None:
        """Query again later; `on_trouble` decides for how long at all."""
        for running in unanswered:
            running.errors += 1
            self._query_in(running, query_backoff(running.errors, self._rng, error))
        self._on_trouble(error)

    # --- by the list -----------------------------------------------------------------------------------------

    async def _list(self, now: float) -> None:
        """Read the list; query the due tasks that it leaves out one by one."""
        missing = {running: None for running in self._running if running.due < math.inf}
        is_whole = True
        try:
            is_whole = await self._read_list(missing, now)
        except (Throttled, NotSent) as error:
            self._list_refusals += int(isinstance(error, Throttled))
            self._can_list = self._list_refusals < _LIST_REFUSALS
            self._back_off(list(missing), error)
            return
        except (JobError, AccountStopped):
            self._can_list = False  # the single query will say what is wrong, if anything is
        except Unclear:
            self._list_errors += 1
            self._can_list = self._list_errors < _LIST_ERRORS
        else:
            self._list_errors = self._list_refusals = 0
        finally:
            self._is_listing = False
            ended = self._clock()
            # Not sooner than the list takes; how long this process stood still meanwhile does not count.
            self._list_due = max(now + self._list_interval(), ended + min(max(_SHORTEST, ended - now), _LONGEST))
            self._changed.set()
        overdue = ended - (self._latencies.mean or _LONGEST)
        due = [each for each in missing if each.due <= ended]
        if not is_whole:  # they may be on an older page
            due = [each for each in due if each.is_troubled or each.called_at is not None or each.due <= overdue]
        async with asyncio.TaskGroup() as group:
            self._query_each(due, group)

    async def _read_list(self, missing: dict[RunningTask, None], now: float) -> bool:
        """Read pages while enough due tasks are missing; whether what is missing now is not in the list at all."""
        oldest = min((running.since for running in missing), default=now)
        size = min(_PAGE, 3 * len(self._running) + 20)  # the account may have tasks that are not ours
        for number in range(1, _PAGES_AT_MOST + 1):
            page = await answer_within(query_timeout(self._list_errors), self._provider.page(number, size))
            self._on_answer()
            self._take_page(page, missing, now, number)
            if not missing or len(page.tasks) < size or self._is_before(page.tasks[-1].created_ms, oldest):
                return True
            due = sum(running.due <= now for running in missing)
            if due < max(_LIST_FROM, _PAGE_SHARE * len(self._running)):
                return False
        return True

    def _take_page(self, page: Page, missing: dict[RunningTask, None], now: float, number: int) -> None:
        tasks = {task.id: task for task in page.tasks}
        for running in list(missing):
            task = tasks.get(running.task_id)
            if task is None or not task.may_be(running.external_id):
                continue
            if running.is_short(task):  # a list may say less than the task itself
                if not running.is_troubled:
                    running.short, running.due = 1, now
            else:
                missing.pop(running, None)
                self._take(running, task, now, listed=number)

    def _is_before(self, created_ms: int | None, oldest: float) -> bool:
        """Whether a page reaches further back than our oldest task; a minute's skew of clocks is allowed for."""
        return created_ms is not None and self._wall() - created_ms / 1000 > self._clock() - oldest + 60.0


def _give_up(running: RunningTask, error: BatchgenError) -> None:
    if not running.end.done():
        running.end.set_exception(error)


async def answer_within(seconds: float, query: Awaitable[T]) -> T:
    """The answer. Raises Unclear where none comes in time, besides what the query itself raises."""
    try:
        async with asyncio.timeout(seconds):
            return await query
    except TimeoutError as error:
        raise Unclear(f"The gateway did not answer a query within {seconds:g} s.") from error
