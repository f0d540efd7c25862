"""Finds a lost task by a callback at the address of its attempt.

Such a callback is a hint, though only the gateway knows the address. It is kept in the ledger, and believed when a
query finds the task, the task may be the attempt's, and it is nobody else's: neither that of an attempt which has it,
nor of one whose create has no answer yet. It is positive only: that no callback comes proves nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from batchgen.engine.poller import answer_within
from batchgen.engine.retry import FIRST_SECONDS, backoff, query_timeout
from batchgen.errors import AccountStopped, JobError, NotSent, TaskNotFound, Throttled, Unclear
from batchgen.ledger.events import Called, Outcome
from batchgen.providers.base import CLOCK_SKEW_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.engine.attempt import Attempt
    from batchgen.engine.context import Context
    from batchgen.ledger.records import OpenAttempt
    from batchgen.providers.base import Task
    from batchgen.providers.validated import ValidatedProvider

_TRIES = 3  # so many times "not found" is believed; what was not answered is asked again after the next callback
_TASK_TIMES = 5.0  # a callback is waited for so many times as long as a task takes on the average
_DELAYS, _FEW_DELAYS = 8.0, 2.0  # so many times `visibility_delay` where that is not known
_LONGEST_WAIT = 900.0  # seconds
_OPEN = frozenset({Outcome.LIVE, Outcome.UNKNOWN, Outcome.REFUSED})


class CalledTasks:
    """The tasks that callbacks have named for attempts of one account, which have none.

    `unanswered` are the external ids of the gateway's creates under way, of which an answer may name one of these
    tasks; `task_seconds` gives how long tasks take.
    """

    def __init__(
        self, context: Context, provider: ValidatedProvider, task_seconds: Callable[[], float | None] = lambda: None
    ) -> None:
        self._context = context
        self._provider = provider
        self._task_seconds = task_seconds
        self._news = asyncio.Event()  # set, and replaced, at each
        self._is_last_call = self._stopped = False
        self._address = context.address_of(provider.account)
        self._refuted: set[tuple[str, str]] = set()  # (external id, task id), until it is called again
        self._owners = context.called_owners[self._address]  # external ids by task id, of what was found
        self.unanswered = context.unanswered[self._address]
        self.began_ms = context.now_ms()  # what was sent before is an earlier run's

    @property
    def may_come(self) -> bool:
        """Whether a callback can find a task now: somebody listens, and the account names tasks in callbacks."""
        return bool(self._provider.callback_url) and self._provider.finds_by_callback

    async def note(self, sent: OpenAttempt, task_id: str) -> bool:
        """Keep what a callback names for an attempt, unless it has a task; whether it was kept. Raises RunStopped."""
        if not self.may_come or sent.task_id is not None or sent.outcome not in _OPEN:
            return False
        self._refuted.discard((sent.external_id, task_id))
        if task_id not in self._context.reader.called_tasks(sent.job.id, sent.attempt):
            await self._context.record(Called(job_id=sent.job.id, attempt=sent.attempt, task_id=task_id))
        self._notify()
        return True

    def set_last_call(self, is_last: bool) -> None:  # noqa: FBT001 - what it sets is its name
        """Whether nothing else goes on in this run, which would go on without those that wait for a callback."""
        self._is_last_call = is_last
        self._notify()

    def stop(self) -> None:
        """The run stops: leave what waits to the next one."""
        self._stopped = True
        self._notify()

    def _notify(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def wait(self, attempt: Attempt, *, only_briefly: bool = False) -> Task | None:
        """The task that a callback names; None where none comes as long as a task may take, or the run stops.

        It may come later while anything else goes on in this run, unless it is waited for `only_briefly`.
        """
        ends = self._context.clock() + self._patience(_FEW_DELAYS if only_briefly else _DELAYS)
        while self.may_come:
            news = self._news
            if (task := await self.find(attempt)) is not None or self._stopped:
                return task
            left = ends - self._context.clock()
            if left <= 0 and (only_briefly or self._is_last_call):
                return await self.find(attempt)  # what came since; whoever goes on calling does not hold up the run
            with suppress(TimeoutError):
                async with asyncio.timeout(left if left > 0 else None):
                    await news.wait()
        return None

    def _patience(self, delays: float) -> float:
        """Seconds after a loss in which the callback at the end of the task has to be expected."""
        delay, mean = self._provider.account.visibility_delay, self._task_seconds()
        return min(_LONGEST_WAIT, max(delay, _TASK_TIMES * mean) if mean is not None else delays * delay)

    def belongs_to_other(self, task_id: str, external_id: str) -> bool:
        """Whether the task was found to be that of another attempt."""
        return self._owners.get(task_id, external_id) != external_id

    async def find(self, attempt: Attempt) -> Task | None:
        """The task of this attempt, of those that callbacks have named for it, once a query has confirmed it."""
        not_found: Counter[str] = Counter()
        for tries in range(1, _TRIES + 1):
            for task_id in self._named(attempt):
                query = self._provider.query(task_id, attempt.id_to_echo)
                try:
                    task = await answer_within(query_timeout(tries - 1), query)
                except TaskNotFound:
                    not_found[task_id] += 1
                    if not_found[task_id] >= _TRIES:
                        self._refuted.add((attempt.external_id, task_id))
                    continue
                except (Throttled, Unclear, NotSent, JobError, AccountStopped):
                    continue
                # Some gateways answer with a task of ours when they are asked by our own id.
                if task.id == task_id and await self._may_take(attempt, task):
                    self._owners[task_id] = attempt.external_id
                    return task
            if self._stopped or tries == _TRIES or not self._named(attempt):
                break
            await self._context.sleep(backoff(tries, self._context.rng))
        return None

    def _named(self, attempt: Attempt) -> list[str]:
        """The tasks that callbacks have named for an attempt, without those that are certainly not its own."""
        if attempt.base_url_changed:
            return []
        named = self._context.reader.called_tasks(attempt.job.id, attempt.number)
        return [task_id for task_id in named if (attempt.external_id, task_id) not in self._refuted]

    async def _may_take(self, attempt: Attempt, task: Task) -> bool:
        """Whether the task can be this attempt's alone.

        The creates that are under way have their answers first: one of them may be the answer to another attempt.
        """
        earlier = set(self.unanswered) - {attempt.external_id}
        while earlier & self.unanswered:
            await self._context.sleep(FIRST_SECONDS)
        is_older = task.created_ms is not None and task.created_ms < attempt.sent_at - CLOCK_SKEW_MS
        is_of_other = self.belongs_to_other(task.id, attempt.external_id) or self._context.reader.is_of_other(
            task.id, self._address, attempt.job.id, attempt.number
        )
        return not (is_older or is_of_other) and task.may_be(attempt.id_to_echo)
