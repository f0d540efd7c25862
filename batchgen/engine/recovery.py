"""Finds out what became of a create that was sent, or may have been sent, without a clear answer.

It looks for the attempt's own external id, first by a query, then in the list. What is found is adopted. "Not found" is
believed when

- the create carried our id, and the account has the key and the address that it was sent with;
- the account `remembers` tasks of that time;
- `visibility_delay` has passed since the lost exchange ended (after a crash: since the restart), so that the create
  cannot be under way any more;
- the same query, at that moment, finds a task that is known to exist (see `controls`).

Where there is no such task yet, the attempt waits, its slots released, until this run has one or comes to its end.
Then the answer is `Undecided`, and nothing is sent again unless the user asks for it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from batchgen.engine.retry import LONGEST_SECONDS, backoff, query_backoff
from batchgen.errors import BatchgenError, JobError, NoSuchPath, NotSent, TaskNotFound, Throttled, Unclear
from batchgen.providers.base import SentCreate, TaskState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batchgen.engine.attempt import Attempt
    from batchgen.engine.context import Context
    from batchgen.engine.controls import Control, Controls
    from batchgen.providers.base import Provider, Task

_PAGE = 200  # so many tasks, with nine signed links each, are well within the largest answer
_PAGES_AT_MOST = 100
_TRIES = 8

T = TypeVar("T")


class Undecided(BatchgenError):
    """Nobody can say whether the attempt was accepted."""


class NotAnswered(Undecided):
    """The account did not answer now; a later query may be answered."""


class Postponed(BatchgenError):
    """The run stops while the attempt waits for a control; the next run looks for it again."""


class Recovery:
    """Looks for the lost creates of one account.

    `is_proof(attempt)`: whether "not found" can prove anything about an attempt; `changed` is called when an attempt
    starts or ends to wait for a control; `waiting` is the number of those that wait.
    """

    def __init__(
        self,
        context: Context,
        provider: Provider,
        controls: Controls,
        *,
        is_proof: Callable[[Attempt], bool],
        changed: Callable[[], None],
    ) -> None:
        self._provider = provider
        self._controls = controls
        self._is_proof = is_proof
        self._sleep = context.sleep
        self._clock = context.clock
        self._wall = context.wall
        self._rng = context.rng
        self._changed = changed
        self._news = asyncio.Event()
        self._decides_one = self._decides_all = self._stopped = False
        self.waiting = 0

    @property
    def can_find(self) -> bool:
        """Whether the account has any way to find a task by our own id."""
        return self._provider.can_find or self._provider.can_list

    def on_accepted(self, task_id: str, external_id: str, at: int, model: str = "") -> None:
        """Note an accepted task (`at`: Unix ms): a control for lost creates, once it is visible."""
        self._controls.accepted(task_id, external_id, at, model)
        if self.waiting:
            self._notify()

    def decide_now(self, *, only_one: bool) -> None:
        """Nothing else is running, so no control will come: look a last time for what waits.

        `only_one`: for one attempt alone, which will be sent again and may be the control of the others.
        """
        self._decides_one, self._decides_all = only_one, not only_one
        self._notify()

    def keep_waiting(self) -> None:
        """Something is running again, which may bring a control."""
        self._decides_one = self._decides_all = False

    def stop(self) -> None:
        """The run stops: leave what waits to the next one."""
        self._stopped = True
        self._notify()

    # --- what became of it ------------------------------------------------------------------------------------

    async def find(self, attempt: Attempt, *, waits: Callable[[], None]) -> Task | None:
        """The task of this attempt, or None when it certainly does not exist.

        `waits` is called when the attempt starts to wait for a control. Raises Undecided where nobody can say;
        Postponed; AccountStopped where the account cannot be queried now.
        """
        if not self.can_find:
            raise Undecided(f"The account {self._provider.account.name!r} cannot be queried for a task by our own id.")
        if not attempt.id_sent and not self._provider.sends_id(attempt.job):
            raise Undecided(
                "Its create carried a value of the job's own in place of the mark by which the account could be asked."
            )
        if not self._is_proof(attempt):
            return await self._find_without_proof(attempt)
        began = self._clock()
        try:
            task = await self._find_until_visible(attempt)
            return task if task is not None else await self._confirm_not_found(attempt, began)
        except Undecided as error:
            undecided = error
        waits()
        return await self._find_with_control(attempt, began, undecided)

    async def find_refused(self, attempt: Attempt) -> Task | None:
        """The task of an attempt whose parameters, our id among them, were refused; "not found" is believed.

        Raises Undecided where the account does not answer; AccountStopped.
        """
        if not self.can_find:
            return None
        task = await self._find_until_visible(attempt)
        return task if task is not None else await self._find_by_either(attempt)

    async def find_once(self, attempt: Attempt) -> Task | None:
        """One query, after a refusal that may be that of a second copy of the create; None where it is not found.

        Raises NotAnswered where the account does not answer; AccountStopped.
        """
        try:
            if self._provider.can_find:
                try:
                    return await self._find_by_id(attempt)
                except NotAnswered:
                    raise
                except Undecided:
                    pass  # the list may know
            if self._provider.can_list:
                self._provider.expect([attempt.external_id])
                newest = await self._with_retries(partial(self._provider.page_for, self._sent(attempt), 1, _PAGE))
                return next((task for task in newest.tasks if _is_of(task, attempt)), None)
        except NotAnswered:
            raise
        except (TaskNotFound, NoSuchPath, Undecided):
            pass
        return None

    async def _find_without_proof(self, attempt: Attempt) -> Task:
        with suppress(TaskNotFound):
            if (task := await self._find_by_either(attempt)) is not None:
                return task
        raise Undecided(
            "It was not found, which proves nothing: it was sent with another key or to another address than the"
            " account has now, by another definition, or without an id of ours."
        )

    async def _find_until_visible(self, attempt: Attempt) -> Task | None:
        """Look for the task while the create may be under way; None where it has not appeared until then.

        No wall clock ends the wait: one that is set, or stands still while the machine sleeps, must not shorten it.
        """
        delay, first = self._provider.account.visibility_delay, 1.0 + 2.0 * self._rng.random()
        for pause in (first, delay - first) if delay > 2.0 * first else (max(first, delay),):
            with suppress(Undecided):
                if (task := await self._find_by_either(attempt)) is not None:
                    return task
            await self._sleep(pause)
        return None

    async def _find_with_control(self, attempt: Attempt, began: float, undecided: Undecided) -> Task | None:
        """Look again when one more task of this run has become visible, and a last time at the end of the run."""
        self.waiting += 1
        tried, not_before, times = self._controls.latest_visible, 0.0, 0
        try:
            while True:
                self._changed()
                is_last = await self._wait_for_control(tried, not_before, LONGEST_SECONDS * min(10, times + 1))
                if self._stopped:
                    raise Postponed(str(undecided))
                tried = self._controls.latest_visible
                try:
                    return await self._confirm_not_found(attempt, began)
                except Undecided as error:
                    undecided = error
                if is_last:
                    raise undecided
                times += 1
                not_before = self._clock() + backoff(times, self._rng)
        finally:
            self.waiting -= 1
            self._changed()

    async def _wait_for_control(self, tried: Control | None, not_before: float, longest: float) -> bool:
        """Wait until the answer may be another one; whether this is the last time to look."""
        ends = self._clock() + longest
        while not self._stopped:
            until_visible = self._controls.until_visible()
            if until_visible is None and (self._decides_all or self._decides_one):
                self._decides_one = False
                return True
            now = self._clock()
            if now >= ends or (now >= not_before and self._controls.latest_visible is not tried):
                return False
            news = self._news
            with suppress(TimeoutError):
                async with asyncio.timeout(max(not_before - now, min(until_visible or longest, ends - now))):
                    await news.wait()
        return True

    def _notify(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    # --- one round of queries ---------------------------------------------------------------------------------

    async def _find_by_either(self, attempt: Attempt) -> Task | None:
        """The task, by a query or else by the list; None, which proves nothing, where it is not found."""
        if self._provider.can_find:
            try:
                return await self._find_by_id(attempt)
            except TaskNotFound:
                return None
            except NotAnswered:
                raise
            except Undecided:
                if not self._provider.can_list:
                    raise
        task, _ = await self._find_in_list(attempt)
        return task

    async def _confirm_not_found(self, attempt: Attempt, began: float) -> Task | None:
        """The task, or None where it certainly does not exist. Raises Undecided where nothing proves that.

        `began`: when it was first looked for, by the monotonic clock.
        """
        why = "the account has no accepted task yet against which that could be checked"
        if self._is_forgotten(attempt):
            raise Undecided('"Not found" is not believed: the account may have forgotten a task of that time by now.')
        if self._provider.can_find:
            # Chosen before the query: one that ends meanwhile shows nothing of those that run.
            known = self._controls.for_lookup(attempt.sent_at, self._model(attempt))
            controls = [(each, self._controls.is_running(each)) for each in known]
            try:
                return await self._find_by_id(attempt)
            except TaskNotFound:
                if controls and all([await self._is_found(control, runs=runs) for control, runs in controls]):
                    return None
                if self._controls.latest_visible is not None:
                    why = "the same query does not find a task that is known to exist either"
            except NotAnswered:
                raise
            except Undecided as error:
                why = str(error)
        if self._provider.can_list:
            task, gap = await self._find_in_list(attempt)
            if task is None and not gap and self._controls.is_younger_to_come(began, self._model(attempt)):
                gap = "the account's list may not show the newest tasks yet"
            if task is not None or not gap:
                return task
            why = gap
        raise Undecided(f'"Not found" is not believed: {why}.')

    def _is_forgotten(self, attempt: Attempt) -> bool:
        """Whether it was sent longer ago than the account remembers tasks; or after now, by a clock that was set."""
        remembers = self._provider.account.remembers
        return remembers is not None and not 0 <= self._wall() - attempt.sent_at / 1000 < remembers

    async def _find_by_id(self, attempt: Attempt) -> Task:
        task = await self._find(self._sent(attempt))
        if not task.may_be(attempt.external_id) or self._controls.ever_belonged_to_other(task.id, attempt.external_id):
            raise Undecided("The gateway answered a query for our own id with a task of another id.")
        return task

    async def _is_found(self, control: Control, *, runs: bool) -> bool:
        try:
            task = await self._find(SentCreate(external_id=control.external_id, model=control.model))
        except (TaskNotFound, Undecided):
            return False
        is_as_known = task.state is TaskState.RUNNING or not runs
        return is_as_known and task.id == control.task_id and task.may_be(control.external_id)

    def _model(self, attempt: Attempt) -> str:
        """The model of the tasks that a question about an attempt meets; empty: of all."""
        return attempt.job.parameters.model if self._provider.looks_by_model else ""

    def _sent(self, attempt: Attempt) -> SentCreate:
        """What a question may hold. The time is that of our clock, which must not have been set since."""
        is_timed = not attempt.earlier and self._controls.is_clock_steady
        at = attempt.sent_at if is_timed else 0
        return SentCreate(external_id=attempt.external_id, model=attempt.job.parameters.model, sent_at=at)

    async def _find(self, sent: SentCreate) -> Task:
        try:
            return await self._with_retries(partial(self._provider.find_sent, sent))
        except NoSuchPath as error:  # also the answer of a proxy whose gateway is away for a moment
            raise Undecided(f"The gateway could not be asked what became of it: {error}") from error

    async def _find_in_list(self, attempt: Attempt) -> tuple[Task | None, str]:
        """The task, or why the list proves nothing: empty where the list proves that the task does not exist.

        It is read until all tasks known to exist were seen, and further back than the sending by the gateway's own
        clock; a list in another order than newest first is read to its end.
        """
        sent = self._sent(attempt)
        is_bounded = self._provider.lists_since and sent.sent_at > 0
        proof = self._controls.list_proof(attempt.sent_at, self._model(attempt), is_bounded=is_bounded)
        self._provider.expect([attempt.external_id, *proof.external_ids])
        for number in range(1, _PAGES_AT_MOST + 1):
            try:
                page = await self._with_retries(partial(self._provider.page_for, sent, number, _PAGE))
            except (TaskNotFound, NoSuchPath):
                return None, "the account has no list of tasks"
            if (task := next((task for task in page.tasks if _is_of(task, attempt)), None)) is not None:
                if self._controls.ever_belonged_to_other(task.id, attempt.external_id):
                    return None, "the account's list names a task of ours by the id of another"
                return task, ""
            if proof.is_complete_with(page.tasks):
                return None, proof.gap
        return None, "the account's list of tasks is too long to read"

    async def _with_retries(self, query: Callable[[], Awaitable[T]]) -> T:
        for tries in range(1, _TRIES + 1):
            try:
                return await query()
            except (TaskNotFound, NoSuchPath):
                raise
            except JobError as error:
                raise Undecided(f"The gateway refuses to say what became of it: {error}") from error
            except (Throttled, Unclear, NotSent) as error:
                if tries == _TRIES or self._stopped:
                    raise NotAnswered(f"The gateway could not be asked what became of it: {error}") from error
                await self._sleep(query_backoff(tries, self._rng, error))
        raise AssertionError("the loop above returns or raises")


def _is_of(task: Task, attempt: Attempt) -> bool:
    """Whether a list names the task with the attempt's own id."""
    return task.external_id is not None and task.may_be(attempt.external_id)
