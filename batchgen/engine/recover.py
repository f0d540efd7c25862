"""Finds out what became of a create that was sent, or may have been sent, without a clear answer.

The ladder (kling.md, "Why unknown is its own outcome"): ask by the attempt's own external id; where the
account cannot be asked so, look through the list round the time of sending. What is found is adopted.
"Not found" counts when it was said twice, a moment apart. Where neither can be done the answer is
`Undecided`, and nothing is sent again unasked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.catalog import Ability
from batchgen.engine.retry import backoff
from batchgen.errors import BatchgenError, JobError, NotSent, TaskNotFound, Throttled, Unclear

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from batchgen.engine.work import Work
    from batchgen.providers.base import Provider, Task

_PAGE = 500
_PAGES_AT_MOST = 40
_SKEW_MS = 10 * 60 * 1000  # the gateway's clock and ours may differ by so much
_TRIES = 8


class Undecided(BatchgenError):
    """Nobody can say whether the attempt was accepted."""


class Recovery:
    """The ladder for one account."""

    def __init__(self, provider: Provider, *, sleep: Callable[[float], Awaitable[None]], chance: Random) -> None:
        self._provider = provider
        self._sleep = sleep
        self._chance = chance

    @property
    def can_ask(self) -> bool:
        """Whether the account gives any way to find out."""
        return self._provider.finds or self._provider.lists

    async def find(self, work: Work) -> Task | None:
        """The task of this attempt, or None when it certainly does not exist.

        Raises Undecided where that cannot be told; AccountStopped where the account cannot be asked now.
        """
        if self._provider.finds:
            task = await self._twice(lambda: self._provider.find(work.external_id))
            if task is not None:
                return task
            if self._provider.account.finds_by_external_id is Ability.YES:
                return None
        if self._provider.lists:
            return await self._twice(lambda: self._in_list(work))
        raise Undecided(f"The account {self._provider.account.name!r} cannot be asked for a task by our own id.")

    async def _twice(self, ask: Callable[[], Awaitable[Task]]) -> Task | None:
        for last in (False, True):
            try:
                return await self._patiently(ask)
            except TaskNotFound:
                if not last:
                    await self._sleep(1.0 + 2.0 * self._chance.random())
        return None

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
                    raise Undecided(f"The gateway could not be asked what became of it: {error}") from error
                asked = error.retry_after if isinstance(error, Throttled) else None
                await self._sleep(backoff(tries, self._chance, asked=asked))
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
                recent = task.created_ms is None or task.created_ms >= work.sent_at - _SKEW_MS
                echoes = echoes or task.external_id is not None
                strangers = strangers or (recent and task.external_id is None)
            oldest = page.tasks[-1].created_ms if page.tasks else None
            if page.last or (oldest is not None and oldest < work.sent_at - _SKEW_MS):
                if strangers and not echoes:
                    raise Undecided("The account's list of tasks does not tell our own ids.")
                raise TaskNotFound("It is not in the account's list of tasks.")
        raise Undecided("The account's list of tasks is too long to look through.")
