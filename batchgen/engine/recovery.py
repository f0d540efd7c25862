"""Finds out what became of a create that was sent, or may have been sent, without a clear answer.

The ladder (kling.md, "Why unknown is its own outcome"): ask by the attempt's own external id; where that tells nothing,
look through the list. What is found is adopted. "Not found" is believed when

- the create carried our id, and the account is asked under the key and at the address that it was sent with;
- so much time has passed since the lost exchange ended (after a crash: since the restart) that the create can no longer
  be under way (`visibility_delay`);
- the same question, at that moment, finds a task that is known to exist (see `controls`).

Where there is no such task yet, the question waits, its slots given back, until this run has one or comes to its end:
then the answer is `Undecided`, and nothing is sent again unasked.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from batchgen.engine.list_proof import ListProof
from batchgen.engine.retry import LONGEST_SECONDS, backoff
from batchgen.errors import BatchgenError, JobError, NoSuchPath, NotSent, TaskNotFound, Throttled, Unclear
from batchgen.providers.base import TaskState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from batchgen.engine.attempt import Work
    from batchgen.engine.controls import Control, Controls
    from batchgen.providers.base import Provider, Task

_PAGE = 200  # so many, with nine signed links each, are well within what an answer may have
_PAGES_AT_MOST = 100
_TRIES = 8
_SAME_MOMENT = 1.0  # seconds: a look-up that worked so shortly before works now

T = TypeVar("T")


class Undecided(BatchgenError):
    """Nobody can say whether the attempt was accepted."""


class NotAnswered(Undecided):
    """The account can be asked, but did not answer now: another time it may."""


class Postponed(BatchgenError):
    """The run stops while the question waits for a control: the next run asks again."""


class Recovery:
    """The ladder for one account.

    `is_proof(work)`: whether "not found" can prove anything of an attempt; `changed` is called when a question begins
    or ends to wait for a control; `doubts` counts those that wait.
    """

    def __init__(
        self,
        provider: Provider,
        controls: Controls,
        *,
        is_proof: Callable[[Work], bool],
        sleep: Callable[[float], Awaitable[None]],
        clock: Callable[[], float],
        chance: Random,
        changed: Callable[[], None],
    ) -> None:
        self._provider = provider
        self._controls = controls
        self._is_proof = is_proof
        self._sleep = sleep
        self._clock = clock
        self._chance = chance
        self._changed = changed
        self._one_at_a_time = asyncio.Lock()
        self._worked_at = float("-inf")  # when the latest look-up was sent that found what it had to find
        self._news = asyncio.Event()
        self._ends_one = self._ends_all = self._stopped = False
        self.doubts = 0

    @property
    def can_ask(self) -> bool:
        """Whether the account gives any way to find out."""
        return self._provider.can_find or self._provider.can_list

    def accepted(self, task_id: str, external_id: str, at: int) -> None:
        """A task was accepted (`at`: Unix ms) or found: the control of others, once it is visible."""
        self._controls.accepted(task_id, external_id, at)
        if self.doubts:
            self._tell()

    def ended(self, task_id: str) -> None:
        """A task that was accepted runs no longer."""
        self._controls.ended(task_id)

    def is_anothers(self, task_id: str, external_id: str) -> bool:
        """Whether this run knows the task as that of another create."""
        return self._controls.is_anothers(task_id, external_id)

    def last_call(self, *, for_one: bool) -> None:
        """Nothing else is going on, so no control will come: what waits is asked a last time.

        `for_one`: only one of them, for it will be sent again, and may be the control of the others.
        """
        self._ends_one, self._ends_all = for_one, not for_one
        self._tell()

    def no_last_call(self) -> None:
        """Something is going on again."""
        self._ends_one = self._ends_all = False

    def stop(self) -> None:
        """The run is to end: what waits is left to the next one."""
        self._stopped = True
        self._tell()

    # --- what became of it ------------------------------------------------------------------------------------

    async def find(self, work: Work, *, waits: Callable[[], None]) -> Task | None:
        """The task of this attempt, or None when it certainly does not exist.

        `waits` is called when the question begins to wait for a control. Raises Undecided where it cannot be told;
        Postponed; AccountStopped where the account cannot be asked now.
        """
        if not self.can_ask:
            raise Undecided(f"The account {self._provider.account.name!r} cannot be asked for a task by our own id.")
        if not self._is_proof(work):
            return await self._unless_not_there(work)
        began = self._clock()
        try:
            task = await self._while_it_may_turn_up(work)
            return task if task is not None else await self._verdict(work, began)
        except Undecided as error:
            doubt = error
        waits()
        return await self._when_there_is_a_control(work, began, doubt)

    async def find_refused(self, work: Work) -> Task | None:
        """The task of an attempt whose parameters were refused, of which our id is one; "not there" is believed.

        Raises Undecided where the account does not answer; AccountStopped.
        """
        if not self.can_ask:
            return None
        task = await self._while_it_may_turn_up(work)
        return task if task is not None else await self._first_way(work)

    async def glance(self, work: Work) -> Task | None:
        """One question, after a refusal that may be that of a second copy of the create; None where it is not found.

        Raises NotAnswered where the account does not answer; AccountStopped.
        """
        try:
            if self._provider.can_find:
                return await self._by_own_id(work)
            newest = await self._patiently(partial(self._provider.page, 1, _PAGE))
            return next((task for task in newest.tasks if task.external_id and task.may_be(work.external_id)), None)
        except NotAnswered:
            raise
        except (TaskNotFound, NoSuchPath, Undecided):
            return None

    async def _unless_not_there(self, work: Work) -> Task:
        try:
            task = await self._first_way(work)
        except TaskNotFound:
            task = None
        if task is None:
            raise Undecided(
                "It was not found, which proves nothing: it was sent under another key or to another address than the"
                " account has now, or without an id of ours."
            )
        return task

    async def _while_it_may_turn_up(self, work: Work) -> Task | None:
        """Ask as long as the create may still be under way; None where it has not turned up until then.

        No clock says when that is: one that is set, or stands still while the machine sleeps, ends no waiting.
        """
        delay, first = self._provider.account.visibility_delay, 1.0 + 2.0 * self._chance.random()
        for pause in (first, delay - first) if delay > 2.0 * first else (max(first, delay),):
            with suppress(Undecided):  # an answer that says nothing shortens no waiting
                if (task := await self._first_way(work)) is not None:
                    return task
            await self._sleep(pause)
        return None

    async def _when_there_is_a_control(self, work: Work, began: float, doubt: Undecided) -> Task | None:
        """Ask again when one more task of this run has become visible, and a last time at the end of the run."""
        self.doubts += 1
        tried, not_before, times = self._controls.latest_visible, 0.0, 0
        try:
            while True:
                self._changed()
                is_last = await self._news_since(tried, not_before, LONGEST_SECONDS * min(10, times + 1))
                if self._stopped:
                    raise Postponed(str(doubt))
                tried = self._controls.latest_visible
                try:
                    return await self._verdict(work, began)
                except Undecided as error:
                    doubt = error
                if is_last:
                    raise doubt
                times += 1
                not_before = self._clock() + backoff(times, self._chance)
        finally:
            self.doubts -= 1
            self._changed()

    async def _news_since(self, tried: Control | None, not_before: float, longest: float) -> bool:
        """Wait until the answer may be another one; whether this is the last time to ask."""
        ends = self._clock() + longest
        while not self._stopped:
            coming = self._controls.until_visible()
            if coming is None and (self._ends_all or self._ends_one):
                self._ends_one = False
                return True
            now = self._clock()
            if now >= ends or (now >= not_before and self._controls.latest_visible is not tried):
                return False
            wait = max(not_before - now, min(coming or longest, ends - now))
            news = self._news
            try:
                async with asyncio.timeout(wait):
                    await news.wait()
            except TimeoutError:
                continue
        return True

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    # --- one round of questions -------------------------------------------------------------------------------

    async def _first_way(self, work: Work) -> Task | None:
        """Found or not, by the first way that the account has; what "not found" is worth is another question."""
        if self._provider.can_find:
            try:
                return await self._by_own_id(work)
            except TaskNotFound:
                return None
            except NotAnswered:
                raise
            except Undecided:
                if not self._provider.can_list:
                    raise
        task, _ = await self._in_list(work)
        return task

    async def _verdict(self, work: Work, began: float) -> Task | None:
        """Found, or certainly not there. Raises Undecided where nothing proves that, and what the questions raise.

        `began`: when it was first asked for, by the monotonic clock.
        """
        why = "the account has no accepted task yet against which that could be checked"
        if self._provider.can_find:
            asked_at = self._clock()
            try:
                return await self._by_own_id(work)
            except TaskNotFound:
                if await self._lookup_works(work, asked_at):
                    return None
                if self._controls.latest_visible is not None:
                    why = "the same question does not find a task that is known to exist either"
            except NotAnswered:
                raise
            except Undecided as error:
                why = str(error)
        if self._provider.can_list:
            task, gap = await self._in_list(work)
            if task is None and not gap and self._controls.is_younger_to_come(began):
                gap = "the account's list may not tell yet of what is new"
            if task is not None or not gap:
                return task
            why = gap
        raise Undecided(f'"Not found" is not believed: {why}.')

    async def _by_own_id(self, work: Work) -> Task:
        asked_at = self._clock()
        task = await self._find(work.external_id)
        if not task.may_be(work.external_id) or self._controls.is_ever_anothers(task.id, work.external_id):
            raise Undecided("The gateway answered our own id with a task of another id.")
        if task.state is TaskState.RUNNING:  # some look-ups find only what has ended
            self._worked_at = max(self._worked_at, asked_at)
        return task

    async def _find(self, external_id: str) -> Task:
        try:
            return await self._patiently(partial(self._provider.find, external_id))
        except NoSuchPath as error:  # also what a proxy says whose gateway is away for a moment
            raise Undecided(f"The gateway could not be asked what became of it: {error}") from error

    async def _lookup_works(self, work: Work, asked_at: float) -> bool:
        """Whether the look-up finds what is known to exist; what others found in the same moment counts."""
        controls = self._controls.for_lookup(work.sent_at)
        if len(controls) > 1 or not controls:
            return bool(controls) and all([await self._is_found(control) for control in controls])
        async with self._one_at_a_time:
            return self._worked_at >= asked_at - _SAME_MOMENT or await self._is_found(controls[0])

    async def _is_found(self, control: Control) -> bool:
        asked_at = self._clock()
        try:
            task = await self._find(control.external_id)
        except (TaskNotFound, Undecided):
            return False
        if task.id != control.task_id or not task.may_be(control.external_id):
            return False
        self._worked_at = max(self._worked_at, asked_at)
        return True

    async def _in_list(self, work: Work) -> tuple[Task | None, str]:
        """The task, where the list tells of it; else why the list proves nothing, empty where it proves its absence.

        It is read until all that is known to exist was seen, and further back than the sending by the gateway's own
        clock; a list in another order than newest first is read to its end.
        """
        proof = ListProof(self._controls.for_list(work.sent_at), work.sent_at)
        for number in range(1, _PAGES_AT_MOST + 1):
            try:
                page = await self._patiently(partial(self._provider.page, number, _PAGE))
            except (TaskNotFound, NoSuchPath):
                return None, "the account has no list of tasks"
            for task in page.tasks:
                if task.external_id is not None and task.may_be(work.external_id):
                    return task, ""
            if proof.is_complete_with(page.tasks):
                return None, proof.gap
        return None, "the account's list of tasks is too long to look through"

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        for tries in range(1, _TRIES + 1):
            try:
                return await ask()
            except (TaskNotFound, NoSuchPath):
                raise
            except JobError as error:
                raise Undecided(f"The gateway does not let itself be asked what became of it: {error}") from error
            except (Throttled, Unclear, NotSent) as error:
                if tries == _TRIES or self._stopped:
                    raise NotAnswered(f"The gateway could not be asked what became of it: {error}") from error
                wished = error.retry_after if isinstance(error, Throttled) else None
                wait = backoff(tries, self._chance)
                await self._sleep(max(wait, min(wished or 0.0, LONGEST_SECONDS)))
        raise AssertionError("the loop above returns or raises")
