"""From the intent to a task: one create, what its answer means, and what became of it where there was no clear one.

An attempt is in the ledger before its create leaves, and what was accepted is there before anything follows from it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.engine.controls import KNOWN, Controls
from batchgen.engine.outage import is_trouble
from batchgen.engine.recovery import NotAnswered, Postponed, Recovery, Undecided
from batchgen.engine.retry import FIRST_SECONDS
from batchgen.engine.timings import Phase
from batchgen.errors import (
    AccountStopped,
    AttemptFailed,
    BatchgenError,
    JobError,
    NotSent,
    PageReceived,
    RefusedOrTaken,
    Throttled,
    TooManyRunning,
    Unclear,
)
from batchgen.jobs import Status
from batchgen.ledger.events import Accepted, Intent, Outcome
from batchgen.providers.base import TaskState
from batchgen.providers.registry import key_print

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batchgen.engine.attempt import Work
    from batchgen.engine.context import Context
    from batchgen.engine.limits import AccountLimits, SlotPermit
    from batchgen.engine.outcomes import Endings
    from batchgen.engine.shutdown import Stop
    from batchgen.providers.base import Provider, Task

_NOTE = 120  # characters of a refusal that the progress shows


class Creates:
    """The creates of one account.

    `changed` is called when the question about a lost create begins or ends to wait for what others bring;
    `record_made(work, task, accepted)` records a task whose images came with the create's own answer.
    """

    def __init__(
        self,
        context: Context,
        provider: Provider,
        *,
        flow: AccountLimits,
        ends: Endings,
        stop: Stop,
        changed: Callable[[], None],
        record_made: Callable[[Work, Task, Accepted], Awaitable[None]],
    ) -> None:
        self._context = context
        self._provider = provider
        self._flow = flow
        self._outage = flow.outage
        self._ends = ends
        self._account_stop = stop
        self._record_made = record_made
        self.key_print = key_print(provider.account, context.reader.note("lineage") or "")
        self.recovery = Recovery(
            provider,
            Controls(
                clock=context.clock,
                wall=context.wall,
                delay=provider.account.visibility_delay,
                earlier=self._accepted_before,
            ),
            is_proof=lambda work: work.id_sent and work.key_print == self.key_print and not work.moved,
            sleep=context.sleep,
            clock=context.clock,
            rng=context.chance,
            changed=changed,
        )
        self.undecided = 0  # attempts of which it is not known yet whether they are accepted
        self.unaskable: set[asyncio.Task[None] | None] = set()  # whose create is not recorded, and nobody can be asked

    async def accepted(self, work: Work, hold: SlotPermit, status: Status) -> Work | None:
        """The attempt with its task, or None when it has no task and all that follows is arranged.

        Raises RunStopped where the ledger's disk refuses.
        """
        if work.task_id:
            return work
        self.undecided += 1
        try:
            accepted = await self._accepted(work, hold, status)
        finally:
            self.undecided -= 1
        if accepted is not None and status is Status.PENDING:
            self._outage.create_accepted()
            self._ends.verdicts.accepted()
        return accepted

    async def _accepted(self, work: Work, hold: SlotPermit, status: Status) -> Work | None:
        if status is not Status.PENDING:
            return await self._looked_for(work, hold, status)
        verdicts = self._ends.verdicts
        work = work.sent(self._context.now_ms(), id_sent=self._provider.sends_id, key_print=self.key_print)
        try:
            task = await self._send(work, hold)
        except Unclear as error:
            verdicts.came(work)
            self._note_trouble(work, hold, error)
            return await self._looked_for(work, hold, status, error)
        except RefusedOrTaken as error:
            verdicts.came(work)
            self._outage.refused()
            return await self._taken_or_refused(work, hold, error)
        except (NotSent, Throttled, AccountStopped, JobError) as error:
            verdicts.came(work)
            return await self._refused(work, hold, error)
        finally:
            self.unaskable.discard(asyncio.current_task())
        return await self._adopt(work, hold, task)

    async def _send(self, work: Work, hold: SlotPermit) -> Task:
        """The intent on disk, then the create: what this raises is the create's own answer."""
        try:
            await self._record_intent(work)
            hold.enter(Phase.CREATING)
            if not self.recovery.can_find:
                self.unaskable.add(asyncio.current_task())
            task = await self._provider.create(work.job, work.external_id)
        finally:
            self._outage.answered(work.external_id)
        if not task.may_be(work.id_to_echo) or self.recovery.belongs_to_other(task.id, work.external_id):
            raise Unclear("The answer to the create was that of another one, by its ids.")
        return task

    async def _record_intent(self, work: Work) -> None:
        context = self._context
        await context.record(
            Intent(
                job=work.job,
                attempt=work.attempt,
                account=self._provider.account.name,
                base_url=context.address_of(self._provider.account),
                external_id=work.external_id,
                at=work.sent_at,
                reserved=self._ends.price(work),
                failures=work.failures,
                id_sent=work.id_sent,
                key_print=work.key_print,
                rehearsal=context.is_local(self._provider.account.name),
            )
        )
        context.stats.begun += 1

    async def _looked_for(
        self, work: Work, hold: SlotPermit, status: Status, because: BatchgenError | None = None
    ) -> Work | None:
        """After a create without a clear answer: adopt its task, or arrange the next attempt, or hold the job."""
        hold.enter(Phase.ASKING)
        try:
            task = await self.recovery.find(work, waits=hold.give)
        except Undecided as error:
            if work.moved:
                self._ends.leave(work, f"a task was sent to another base_url than the account has now: {error}")
                return None
            await self._undecided(work, error if because is None else type(error)(f"{because} {error}"), status)
        except Postponed as error:
            self._ends.leave(work, str(error))
        except AccountStopped as error:
            self._ends.stop(error)  # the intent stays open: the next run asks again
        else:
            if task is not None:
                return await self._adopt(work, hold, task, found=True)
            why = f"{because} " if because else ""
            lost = AttemptFailed(f"{why}The gateway has no task of this attempt: it was not accepted.", code="lost")
            # Of what an earlier run began, it was that run's end that was in the way.
            await self._ends.not_made(work, lost, Outcome.REFUSED, counts=because is not None)
        return None

    async def _taken_or_refused(self, work: Work, hold: SlotPermit, refusal: RefusedOrTaken) -> Work | None:
        """A refusal of parameters also answers an external id that the account has seen: then there is a task."""
        hold.enter(Phase.ASKING)
        try:
            task = await self.recovery.find_refused(work)
        except NotAnswered as error:  # the next run asks again
            await self._undecided(work, NotAnswered(f"{refusal} {error}"), Status.PENDING)
            return None
        except Undecided:
            task = None
        if task is not None:  # this create was refused: what it has met was sent before
            self._context.budget.adopt(self._ends.price(work))
            return await self._adopt(replace(work, earlier=True), hold, task, found=True)
        await self._ends.refused(work, refusal)
        return None

    async def _refused(self, work: Work, hold: SlotPermit, error: BatchgenError) -> Work | None:
        """The create was refused: for now, with the account, or for good; or only a second copy of it was."""
        if isinstance(error, Throttled | NotSent):
            self._note_trouble(work, hold, error)
        elif isinstance(error, AccountStopped):
            self._account_stop.request(error, grace=None)
        try:
            if (task := await self._accepted_all_the_same(work, error)) is not None:
                return await self._adopt(work, hold, task, found=True)
        except NotAnswered as unanswered:
            self._ends.leave(work, f"{error} {unanswered}")  # the intent stays open: the next run asks again
            return None
        if isinstance(error, Throttled | NotSent):
            wait = FIRST_SECONDS if isinstance(error, TooManyRunning) else 0.0
            await self._ends.not_made(work, error, Outcome.REFUSED, counts=False, wait=wait)
        elif isinstance(error, AccountStopped):
            await self._ends.not_made(work, error, Outcome.REFUSED, counts=False)
        elif isinstance(error, AttemptFailed):
            self._outage.refused()
            await self._ends.not_made(work, error, Outcome.REFUSED, counts=True)
        elif isinstance(error, JobError):
            if not isinstance(error, PageReceived):
                self._outage.refused()
            await self._ends.refused(work, error)
        return None

    async def _accepted_all_the_same(self, work: Work, refusal: BatchgenError) -> Task | None:
        """The task of a create that was refused: what lies between may have sent it twice, and the second was refused.

        Raises NotAnswered where the account does not say.
        """
        if isinstance(refusal, NotSent | PageReceived) or not (work.id_sent and self.recovery.can_find):
            return None
        try:
            await self._context.sleep(FIRST_SECONDS)
            return await self.recovery.find_once(work)
        except AccountStopped:
            return None  # who does not let us in has taken nothing from us either

    async def _adopt(self, work: Work, hold: SlotPermit, task: Task, *, found: bool = False) -> Work:
        self._flow.accepted(hold)
        self._context.counters.note = ""
        is_whole = len(task.links) >= work.units or not self._provider.can_query
        if task.state is TaskState.SUCCEEDED and task.links and is_whole and not found:
            hold.give()  # here too the slots are free at the gateway
            return await self._made_at_once(work, task)
        at = self._context.now_ms()
        await self._context.record(_accepted(work, task, at, found=found))
        if work.id_sent and work.key_print == self.key_print:
            self.recovery.on_accepted(task.id, work.external_id, at)
        return work.accepted(task.id, at)

    async def _made_at_once(self, work: Work, task: Task) -> Work:
        """The create's own answer brings the images. One commit: between two, they could be lost."""
        at = work.sent_at  # the task went on from there; its time is what a plan reckons with
        await self._record_made(work, task, _accepted(work, task, at))
        return work.accepted(task.id, at, made=True)

    async def _undecided(self, work: Work, error: Undecided, status: Status) -> None:
        # What could not be asked just now is held at first: only a later run, told to, sends it again.
        is_first_doubt = isinstance(error, NotAnswered) and status is Status.PENDING
        if self._context.rules.resend_unknown and not is_first_doubt:
            await self._ends.not_made(work, error, Outcome.UNKNOWN, counts=True)
        else:
            await self._ends.end(work, Status.UNKNOWN, Outcome.UNKNOWN, error)

    def _note_trouble(self, work: Work, hold: SlotPermit, error: Throttled | NotSent | Unclear) -> None:
        """The create was not taken for now, or nobody can say."""
        is_unclear = isinstance(error, Unclear)
        self._context.counters.refusals += not is_unclear
        self._context.counters.note = str(error)[:_NOTE]
        if is_trouble(error):
            self._outage.troubled(work.job.id, error, sent=hold.sent)
            if self._outage.is_on:
                self._ends.verdicts.excuse(self._outage.jobs)
        reason = self._flow.unclear(error) if is_unclear else self._flow.refused(hold, error)
        if reason is not None:
            self._account_stop.request(reason, grace=self._context.rules.grace)

    def _accepted_before(self, at: int | None) -> list[tuple[str, str, int]]:
        """Tasks that this account is known to have accepted in earlier runs, the latest first."""
        account = self._provider.account
        address = self._context.address_of(account)
        return self._context.reader.accepted_tasks(
            account.name, address, self.key_print, at, KNOWN if at is None else 3
        )


def _accepted(work: Work, task: Task, at: int, *, found: bool = False) -> Accepted:
    return Accepted(
        job_id=work.job.id, attempt=work.attempt, task_id=task.id, at=at, found=found, rehearsal=task.rehearsal
    )
