"""Finds out what became of a create that was sent, or may have been sent, without a clear answer.

The ladder (kling.md, "Why unknown is its own outcome"): ask by the attempt's own external id; where the
account cannot be asked so, look through the list round the time of sending. What is found is adopted.
"Not found" counts when it was said twice, a moment apart. Where neither can be done the answer is
`Undecided`, and nothing is sent again unasked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.catalog import Ability
from batchgen.engine.retry import LONGEST_SECONDS, backoff
from batchgen.errors import BatchgenError, JobError, NotSent, TaskNotFound, Throttled, Unclear

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from batchgen.engine.work import Work
    from batchgen.providers.base import Provider, Task

_PAGE = 500
_PAGES_AT_MOST = 40
SKEW_MS = 10 * 60 * 1000  # the gateway's clock and ours may differ by so much
_TRIES = 8


class Undecided(BatchgenError):
    """Nobody can say whether the attempt was accepted."""


class NotAnswered(Undecided):
    """The account can be asked, but did not answer now: another time it may."""


class Recovery:
    """The ladder for one account."""

    def __init__(
        self,
        provider: Provider,
        *,
        sleep: Callable[[float], Awaitable[None]],
        wall: Callable[[], float],
        chance: Random,
    ) -> None:
        self._provider = provider
        self._sleep = sleep
        self._wall = wall  # Unix seconds: the time of sending may be another run's
        self._chance = chance

    @property
    def can_ask(self) -> bool:
        """Whether the account gives any way to find out."""
        return self._provider.finds or self._provider.lists

    async def find(self, work: Work) -> Task | None:
        """The task of this attempt, or None when it certainly does not exist.

        Raises Undecided where that cannot be told; AccountStopped where the account cannot be asked now.
        """
        provider = self._provider
        if not self.can_ask:
            raise Undecided(f"The account {provider.account.name!r} cannot be asked for a task by our own id.")
        if provider.finds:
            try:
                task = await self._twice(work, lambda: provider.find(work.external_id))
            except Undecided:
                if not provider.lists:
                    raise
            else:
                if task is not None:
                    return _ours(task, work)
                if provider.account.finds_by_external_id is Ability.YES:
                    return None
        if provider.lists:
            return await self._twice(work, lambda: self._in_list(work))
        raise Undecided(f"The account {provider.account.name!r} does not know our own id, and lists no tasks.")

    async def _twice(self, work: Work, ask: Callable[[], Awaitable[Task]]) -> Task | None:
        """Ask until it is found, or "not found" was said twice and for the last time when it can no longer arrive.

        A create whose connection was lost may still be under way inside the gateway for a while.
        """
        times, waited = 0, 0.0
        patience = self._provider.account.accepts_within
        while True:
            try:
                return await self._patiently(ask)
            except TaskNotFound:
                times += 1
            late = work.sent_at / 1000 + patience - self._wall()
            if times > 1 and (late <= 0 or waited > patience):  # a clock that was set back makes nobody wait longer
                return None
            wait = max(1.0 + 2.0 * self._chance.random(), min(late, 5.0))
            await self._sleep(wait)
            waited += wait

    async def _patiently(self, ask: Callable[[], Awaitable[Task]]) -> Task:
        for tries in range(1, _TRIES + 1):
            try:
                return await ask()
            except TaskNotFound:
                raise
            except JobError as error:
                raise Undecided(f"The gateway does not let itself be asked what became of it: {error}") from error
            except (Throttled, Unclear, NotSent) as error:
                if tries == _TRIES:
                    raise NotAnswered(f"The gateway could not be asked what became of it: {error}") from error
                wished = error.retry_after if isinstance(error, Throttled) else None
                wait = backoff(tries, self._chance)
                await self._sleep(max(wait, min(wished or 0.0, LONGEST_SECONDS)))
        raise AssertionError("the loop above returns or raises")

    async def _in_list(self, work: Work) -> Task:
        """Look through the list back to the time of sending. Raises TaskNotFound where it certainly is not there."""
        echoes = strangers = False
        for number in range(1, _PAGES_AT_MOST + 1):
            try:
                page = await self._provider.page(number, _PAGE)
            except TaskNotFound as error:
                raise Undecided("The account has no list of tasks.") from error
            for task in page.tasks:
                if task.external_id == work.external_id:
                    return task
                recent = task.created_ms is None or task.created_ms >= work.sent_at - SKEW_MS
                echoes = echoes or task.external_id is not None
                strangers = strangers or (recent and task.external_id is None)
            oldest = page.tasks[-1].created_ms if page.tasks else None
            # A page that is merely short proves nothing: some gateways cap its size.
            if not page.tasks or (oldest is not None and oldest < work.sent_at - SKEW_MS):
                if strangers and not echoes:
                    raise Undecided("The account's list of tasks does not tell our own ids.")
                raise TaskNotFound("It is not in the account's list of tasks.")
        raise Undecided("The account's list of tasks is too long to look through.")


def _ours(task: Task, work: Work) -> Task:
    if task.external_id is not None and task.external_id != work.external_id:
        raise Undecided("The gateway answered our own id with a task of another id.")
    return task
