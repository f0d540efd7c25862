"""From the intent to a task: one create, what its answer means, and what became of it where there was no clear one.

An attempt is in the ledger before its create is sent, and what was accepted is there before anything follows from it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.catalog.accounts import Auth
from batchgen.engine.attempt import Attempt
from batchgen.engine.called import CalledTasks
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
    Unclear,
)
from batchgen.jobs import Status
from batchgen.ledger.events import Accepted, Intent, Outcome
from batchgen.providers.base import TaskState
from batchgen.providers.registry import key_print

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.engine.context import Context
    from batchgen.engine.limits import AccountLimits, SlotPermit
    from batchgen.engine.outcomes import Outcomes
    from batchgen.engine.shutdown import Stop
    from batchgen.providers.base import Task
    from batchgen.providers.validated import ValidatedProvider

_NOTE = 120  # characters of a refusal that the progress shows


class CreateCancelled(BatchgenError):
    """The run ended after the intent was recorded, and before the create was sent."""


class Submitter:
    """The creates of one account.

    `uncancellable` are external ids of attempts that must not be cancelled now: between the intent and the create, for
    nobody could tell later that none was sent; and until the answer is recorded where the account cannot be asked.
    """

    def __init__(
        self,
        context: Context,
        provider: ValidatedProvider,
        *,
        limits: AccountLimits,
        outcomes: Outcomes,
        account_stop: Stop,
        task_seconds: Callable[[], float | None],
    ) -> None:
        self._context = context
        self._provider = provider
        self._limits = limits
        self._outage = limits.outage
        self._outcomes = outcomes
        self._account_stop = account_stop
        self._is_closed = False
        self.key_print = key_print(provider.account, context.reader.meta("lineage") or "")
        self.controls = Controls(context, delay=provider.account.visibility_delay, earlier=self._accepted_before)
        self.called = CalledTasks(context, provider, task_seconds)
        self.recovery = Recovery(
            context,
            provider,
            self.controls,
            is_proof=lambda attempt: self._carries_our_id(attempt) and not attempt.base_url_changed,
            changed=limits.wake.set,
            called=self.called,
        )
        self._gateway_ahead = 0  # ms, as the latest accepted create shows
        self.undecided = 0  # attempts of which it is not known yet whether they are accepted
        self.uncancellable: set[str] = set()
        self._adopting = 0  # creates that were accepted, which is not recorded yet

    def close(self) -> None:
        """Send no more creates, not even those whose intent is being recorded."""
        self._is_closed = True

    async def submit(self, attempt: Attempt, permit: SlotPermit, status: Status) -> Attempt | None:
        """The attempt with its task, or None when it has no task and all that follows is arranged.

        Raises RunStopped where the ledger's disk refuses.
        """
        if attempt.task_id:
            return attempt
        if attempt.called:
            return await self._accepted_after_all(attempt, permit)
        self.undecided += 1
        try:
            if status is not Status.PENDING:
                return await self._recover(attempt, permit, status)
            accepted = await self._create(attempt, permit)
        finally:
            self.undecided -= 1
            self.uncancellable.discard(attempt.external_id)
            self.called.unanswered.discard(attempt.external_id)
        if accepted is not None:
            self._outage.create_accepted()
            self._outcomes.attribution.create_accepted()
        return accepted

    # --- the create and its answer ------------------------------------------------------------------------

    async def _create(self, attempt: Attempt, permit: SlotPermit) -> Attempt | None:
        if self._account_stop.is_asked:  # in the moment since this attempt was started
            self._outage.answered(attempt.external_id)
            self._outcomes.not_begun(attempt)
            return None
        if (earlier := self._called_before(attempt)) is not None and (task := await self.called.find(earlier)):
            self._outage.answered(attempt.external_id)
            return await self._adopt_earlier(earlier, permit, task, instead_of=attempt)
        id_sent = self._provider.sends_id(attempt.job)
        attempt = attempt.sent(self._context.now_ms(), id_sent=id_sent, key_print=self.key_print)
        try:
            task = await self._send(attempt, permit)
        except CreateCancelled as error:
            await self._outcomes.refused(attempt, error)
            return None
        except (Unclear, NotSent, Throttled, AccountStopped, JobError) as error:
            self._outcomes.attribution.answered(attempt)
            self.called.unanswered.discard(attempt.external_id)
            return await self._not_accepted(attempt, permit, error)
        self._adopting += 1
        try:
            return await self._adopt(attempt, permit, task)
        finally:
            self._adopting -= 1

    async def _send(self, attempt: Attempt, permit: SlotPermit) -> Task:
        """The intent on disk, then the create: what this raises is the create's own answer."""
        self.uncancellable.add(attempt.external_id)
        self.called.unanswered.add(attempt.external_id)
        try:
            await self._record_intent(attempt)
            if self._is_closed:
                raise CreateCancelled("The run ended before the create was sent.")
            self._context.stats.started += 1
            self._context.stats.started_at[self._provider.account.name] += 1
            if attempt.id_sent and self.recovery.can_find:
                self.uncancellable.discard(attempt.external_id)
            permit.enter(Phase.CREATING)
            task = await self._provider.create(attempt.job, attempt.external_id)
        finally:
            self._outage.answered(attempt.external_id)
        if not task.may_be(attempt.id_to_echo) or self._belongs_to_other(task, attempt):
            raise Unclear("The answer to the create was that of another one, by its ids.")
        return task

    def _belongs_to_other(self, task: Task, attempt: Attempt) -> bool:
        """Whether the task is known as that of another create, by its answer or by a callback."""
        return any(known.belongs_to_other(task.id, attempt.external_id) for known in (self.controls, self.called))

    async def _record_intent(self, attempt: Attempt) -> None:
        context = self._context
        await context.record(
            Intent(
                job=attempt.job,
                attempt=attempt.number,
                account=self._provider.account.name,
                base_url=context.address_of(self._provider.account),
                external_id=attempt.external_id,
                at=attempt.sent_at,
                reserved=self._outcomes.price(attempt),
                failures=attempt.failures,
                id_sent=attempt.id_sent,
                key_print=attempt.key_print,
                rehearsal=context.is_local(self._provider.account.name),
                replaces=attempt.replaces,
            )
        )

    async def _not_accepted(self, attempt: Attempt, permit: SlotPermit, error: BatchgenError) -> Attempt | None:
        """The create has no clear answer, or was refused: for now, with the account, or for good."""
        refusal = error
        if isinstance(error, PageReceived) and await self._accepts_others():
            error = Unclear(str(error), code=error.code, body_excerpt=error.body_excerpt)
        if isinstance(error, Throttled | NotSent | Unclear):
            self._note_trouble(attempt, permit, error)
        elif isinstance(error, AccountStopped):
            self._account_stop.request(error, grace=None)
        elif not isinstance(error, PageReceived):
            self._outage.refused()
        if isinstance(error, Unclear):
            return await self._recover(attempt, permit, Status.PENDING, error, refusal)
        try:
            task = await self._called_though_refused(attempt, permit, error)
            if task is None:
                task = await self._accepted_before_refused(attempt, permit, error)
        except NotAnswered as unanswered:  # the next run asks again
            if isinstance(error, RefusedOrTaken):
                await self._undecided(attempt, NotAnswered(f"{error} {unanswered}"), Status.PENDING)
            else:
                self._outcomes.defer(attempt, f"{error} {unanswered}")  # the intent stays open
            return None
        if task is None:
            await self._outcomes.refused(attempt, error)
            return None
        # One that is no older than this create is this create, sent twice by a proxy.
        if isinstance(error, RefusedOrTaken) and self._is_older(task, attempt):
            self._outcomes.budget.adopt(self._outcomes.price(attempt), attempt.job.parameters.model)
            attempt = replace(attempt, earlier=True)
        return await self._adopt(attempt, permit, task, found=True)

    async def _accepts_others(self) -> bool:
        """Whether the account accepts creates, so that a page may hide an answer of its own.

        It is waited for the creates under way. Where none is accepted, the address is more likely wrong.
        """
        while not self.is_known_to_accept and (self._outage.is_creating or self._adopting):
            await self._context.sleep(FIRST_SECONDS)
        return self.is_known_to_accept

    @property
    def is_known_to_accept(self) -> bool:
        """Whether the account has accepted a create, in this run or an earlier one."""
        account, context = self._provider.account, self._context
        return bool(self._outage.accepted) or context.reader.has_accepted(account.name, context.address_of(account))

    def _is_older(self, task: Task, attempt: Attempt) -> bool:
        """Whether a task is older than an attempt, by the gateway's clock as far as it is known."""
        return task.created_ms is not None and task.created_ms < attempt.sent_at + self._gateway_ahead

    async def _called_though_refused(self, attempt: Attempt, permit: SlotPermit, refusal: BatchgenError) -> Task | None:
        """The task that a callback names for a refused create; a proxy's page may come after the gateway has taken it.

        The slot is kept meanwhile: where every create gets a page, the others are not sent before that is clear.
        """
        if not isinstance(refusal, PageReceived):
            return await self.called.find(attempt)
        permit.enter(Phase.ASKING)
        return await self.called.wait(attempt, only_briefly=True)

    async def _accepted_before_refused(
        self, attempt: Attempt, permit: SlotPermit, refusal: BatchgenError
    ) -> Task | None:
        """The task of a refused create, if there is one. Raises NotAnswered where the account does not say.

        A refusal of parameters also answers an external id that the account has seen. And a proxy may have sent the
        create twice, so that the second copy was refused.
        """
        if isinstance(refusal, RefusedOrTaken):
            permit.enter(Phase.ASKING)
            try:
                return await self.recovery.find_refused(attempt)
            except NotAnswered:
                raise
            except Undecided:
                return None
        if isinstance(refusal, NotSent | PageReceived) or not (attempt.id_sent and self.recovery.can_find):
            return None
        try:
            await self._context.sleep(FIRST_SECONDS)
            return await self.recovery.find_once(attempt)
        except AccountStopped as error:
            if isinstance(refusal, AccountStopped):
                return None  # an account that lets nobody in has accepted nothing from us either
            raise NotAnswered(str(error)) from error

    def _note_trouble(self, attempt: Attempt, permit: SlotPermit, error: Throttled | NotSent | Unclear) -> None:
        """The create was not accepted for now, or nobody can say."""
        is_unclear = isinstance(error, Unclear)
        self._context.counters.refusals += not is_unclear
        self._context.counters.note = str(error)[:_NOTE]
        if is_trouble(error):
            self._outage.troubled(attempt.job.id, error, sent=permit.sent)
            if self._outage.is_on:
                self._outcomes.attribution.blame_outage(self._outage.jobs)
        reason = self._limits.unclear(error) if is_unclear else self._limits.refused(permit, error)
        if reason is not None:
            self._account_stop.request(reason, grace=self._context.policy.grace)

    # --- what became of it ----------------------------------------------------------------------------------

    async def _recover(
        self,
        attempt: Attempt,
        permit: SlotPermit,
        status: Status,
        because: BatchgenError | None = None,
        refusal: BatchgenError | None = None,
    ) -> Attempt | None:
        """After a create without a clear answer: adopt its task, or arrange the next attempt, or hold the job.

        `refusal`: what the answer means once it is clear that there is no task.
        """
        permit.enter(Phase.ASKING)
        try:
            task = await self.recovery.find(attempt, waits=permit.release, is_held=status is Status.UNKNOWN)
        except Undecided as error:
            if attempt.base_url_changed:
                why = f"a task was sent to another base_url than the account has now: {error}"
                self._outcomes.defer(attempt, why)
            else:
                await self._undecided(attempt, type(error)(f"{because} {error}") if because else error, status)
        except Postponed as error:
            self._outcomes.defer(attempt, str(error))
        except AccountStopped as error:
            self._outcomes.stop(error)  # the intent stays open: the next run asks again
        else:
            if task is not None:
                return await self._adopt(attempt, permit, task, found=True)
            why = f"{because} " if because else ""
            lost = AttemptFailed(f"{why}The gateway has no task of this attempt: it was not accepted.", code="lost")
            if because is None:  # the end of the run that sent it came between, which counts as no attempt
                await self._outcomes.not_made(attempt, lost, Outcome.REFUSED, counts=False)
            else:
                await self._outcomes.refused(attempt, refusal if isinstance(refusal, PageReceived) else lost)
        return None

    def _called_before(self, attempt: Attempt) -> Attempt | None:
        """The job's attempt before this one, where a callback has named a task of it since it was given up."""
        if attempt.number == 1:
            return None
        account, known = self._provider.account, self._context.reader.latest_attempt(attempt.job.id)
        if known is None or known.account != account.name or known.outcome not in {Outcome.UNKNOWN, Outcome.REFUSED}:
            return None
        resumed = Attempt.resumed(known, self._context.address_of(account))
        return replace(resumed, earlier=known.intended_at < self.called.began_ms)

    async def _adopt_earlier(self, earlier: Attempt, permit: SlotPermit, task: Task, *, instead_of: Attempt) -> Attempt:
        """Adopt the task of an attempt that was given up; the next one, whose price is reserved, is not sent."""
        known = self._context.reader.attempt_of(earlier.job.id)
        if known.outcome is Outcome.UNKNOWN:  # its own price is reserved still
            self._outcomes.not_begun(instead_of)
        else:
            earlier = replace(earlier, earlier=False, reserved=self._outcomes.price(instead_of))
        return await self._adopt(earlier, permit, task, found=True)

    async def _accepted_after_all(self, attempt: Attempt, permit: SlotPermit) -> Attempt | None:
        """Adopt the task that a callback has named for an attempt that was marked unknown, once it is confirmed."""
        permit.enter(Phase.ASKING)
        if (task := await self.called.find(attempt)) is None:
            return None
        if not attempt.earlier:
            self._context.counters.jobs_failed -= 1
        return await self._adopt(attempt, permit, task, found=True)

    async def _undecided(self, attempt: Attempt, error: Undecided, status: Status) -> None:
        # What could not be asked just now stays unknown in this run: only a later one sends it again, if asked to.
        is_first_doubt = isinstance(error, NotAnswered) and status is Status.PENDING
        policy = self._context.policy
        is_asked_for = policy.retry_unknown and attempt.earlier
        is_resent = policy.resend_unknown and not is_first_doubt and not self._outcomes.is_last(attempt)
        if is_asked_for or is_resent:
            await self._outcomes.not_made(attempt, error, Outcome.UNKNOWN, counts=True, one_more=is_asked_for)
        else:
            await self._outcomes.end(attempt, Status.UNKNOWN, Outcome.UNKNOWN, error)

    async def _adopt(self, attempt: Attempt, permit: SlotPermit, task: Task, *, found: bool = False) -> Attempt:
        self._limits.accepted(permit)
        self._context.counters.note = ""
        if task.created_ms is not None and not found:
            self._gateway_ahead = task.created_ms - self._context.now_ms()
        is_whole = len(task.links) >= attempt.units or not self._provider.can_query
        is_made = task.state is TaskState.SUCCEEDED and bool(task.links) and is_whole and not found
        # A task that brings its images at once started with the create; plans reckon with its time.
        at = attempt.sent_at if is_made else self._context.now_ms()
        accepted = Accepted(
            job_id=attempt.job.id, attempt=attempt.number, task_id=task.id, at=at, found=found, rehearsal=task.rehearsal
        )
        if is_made:
            permit.release()  # at the gateway the slots are free
            await self._outcomes.made(attempt, task, accepted)  # one commit: between two, the images could be lost
            return attempt.accepted(task.id, at, made=True)
        await self._context.record(accepted)
        if self._carries_our_id(attempt):
            self.recovery.on_accepted(task.id, attempt.external_id, at, attempt.job.parameters.model)
        return attempt.accepted(task.id, at)

    def _carries_our_id(self, attempt: Attempt) -> bool:
        """Whether the create was sent with its id and the present key."""
        # A command may print another account's token by now, which nothing shows.
        is_certain = not attempt.earlier or self._provider.account.auth is not Auth.COMMAND
        return attempt.id_sent and attempt.key_print == self.key_print and is_certain

    def _accepted_before(self, at: int | None) -> list[tuple[str, str, int, str]]:
        """Tasks that this account is known to have accepted in earlier runs, the latest first."""
        account = self._provider.account
        address = self._context.address_of(account)
        return self._context.reader.accepted_tasks(
            account.name, address, self.key_print, at, KNOWN if at is None else 3
        )
