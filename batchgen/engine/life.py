"""One attempt's life, from the intent to the files in place: to be read from top to bottom.

Every step is in the ledger before the next is taken, and every end is one of the ledger's: what is
cancelled half-way, or killed, is taken up by the next run where the ledger says it stood.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.engine.controls import KNOWN, Controls
from batchgen.engine.endings import Endings
from batchgen.engine.fetch import GONE_AFTER_MS, Fetcher, Found, ImagesGone
from batchgen.engine.outage import is_trouble
from batchgen.engine.recover import NotAnswered, Postponed, Recovery, Undecided, is_named
from batchgen.engine.retry import FIRST_SECONDS
from batchgen.engine.slot_time import Phase
from batchgen.errors import (
    AccountStopped,
    AttemptFailed,
    BatchgenError,
    JobError,
    JobRejected,
    NotSent,
    PageReceived,
    RefusedOrTaken,
    RunStopped,
    TaskNotFound,
    Throttled,
    TooManyRunning,
    Unclear,
    Unkeepable,
)
from batchgen.jobs import Status
from batchgen.ledger.events import Accepted, Intent, Made, Outcome, Reopened
from batchgen.money import micros
from batchgen.providers.base import TaskState
from batchgen.providers.registry import key_print

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.engine.context import Context
    from batchgen.engine.flow import Flow, Hold
    from batchgen.engine.stop import Stop
    from batchgen.engine.watch import Watch
    from batchgen.engine.work import Work
    from batchgen.providers.base import Provider, Task

_NOTE = 120  # characters of a refusal that the progress shows
_LOOKS_AT_ONCE = 32  # questions for what an earlier run did not get
ASKED_AGAIN = frozenset({Status.GONE, Status.PARTIAL})


class Life:
    """Carries the attempts of one account.

    `later(work, seconds)` puts a work back among those waiting, behind all others where the seconds are infinite;
    `changed` is called when the question about a lost create begins or ends to wait for what others bring.
    """

    def __init__(
        self,
        context: Context,
        provider: Provider,
        *,
        flow: Flow,
        watch: Watch,
        stop: Stop,
        later: Callable[[Work, float], None],
        changed: Callable[[], None],
    ) -> None:
        self._context = context
        self._lane_stop = stop
        self._provider = provider
        self._flow = flow
        self._outage = flow.outage
        self._watch = watch
        self.ends = Endings(context, provider.account.prices, stop=stop, later=later)
        self._key_print = key_print(provider.account, context.reader.note("lineage") or "")
        self.recovery = Recovery(
            provider,
            Controls(
                clock=context.clock,
                wall=context.wall,
                delay=provider.account.accepts_within,
                earlier=self._accepted_before,
            ),
            is_proof=lambda work: work.id_sent and work.key_print == self._key_print and not work.moved,
            sleep=context.sleep,
            clock=context.clock,
            chance=context.chance,
            changed=changed,
        )
        self._fetcher = Fetcher(context, provider)
        self._looks = asyncio.Semaphore(_LOOKS_AT_ONCE)
        self.fetching = 0
        self.undecided = 0  # attempts of which it is not known yet whether they are accepted
        self.unaskable: set[asyncio.Task[None] | None] = set()  # whose create is not recorded, and nobody can be asked

    async def live(self, work: Work, hold: Hold, status: Status) -> None:
        """Carry one attempt from where it stands to its end. `hold` are its slots; its price is reserved.

        Raises nothing but cancellation: each error becomes the job's outcome, or the run's stop.
        """
        try:
            try:
                if status in ASKED_AGAIN:
                    accepted = await self._looked_again(work, hold, status)
                else:
                    accepted = await self._known_to_be_accepted(work, hold, status)
                if accepted is not None and status is Status.PENDING:
                    self._outage.create_accepted()
                    self.ends.verdicts.accepted()
                made = accepted is not None and (accepted.made or await self._made(accepted, hold))
            finally:
                hold.give()
            if accepted is not None and made:
                await self._fetched(accepted)
        except RunStopped as error:
            self._stop(error)
        except Unkeepable as error:
            await self._not_kept(work, error)

    async def _not_kept(self, work: Work, error: Unkeepable) -> None:
        """What no row can hold ends its job alone: where a create was sent, nobody can say what it made."""
        try:
            if self._context.reader.attempt_state(work.job.id, work.attempt) is not None:
                await self.ends.end(work, Status.UNKNOWN, Outcome.UNKNOWN, error)
            else:
                self._context.budget.release(work.units, self.ends.price(work), earlier=work.earlier)
                self.ends.leave(work, str(error))
        except RunStopped as stopped:
            self._stop(stopped)

    def _accepted_before(self, at: int | None) -> list[tuple[str, str, int]]:
        """Tasks that this account is known to have accepted in earlier runs, the latest first."""
        account = self._provider.account
        address = self._context.address_of(account)
        return self._context.reader.accepted_tasks(
            account.name, address, self._key_print, at, KNOWN if at is None else 3
        )

    async def _known_to_be_accepted(self, work: Work, hold: Hold, status: Status) -> Work | None:
        self.undecided += 1
        try:
            return await self._accepted(work, hold, status)
        finally:
            self.undecided -= 1

    @property
    def is_starved(self) -> bool:
        """Whether downloads wait for this process to be allowed another file."""
        return self.fetching > 0 and self._fetcher.is_starved

    @property
    def can_ask(self) -> bool:
        """Whether the account can tell what became of a create."""
        return self.recovery.can_ask

    # --- accepted: there is a task ------------------------------------------------------------------------

    async def _accepted(self, work: Work, hold: Hold, status: Status) -> Work | None:
        """The attempt with its task, or None when it has no task and all that follows is arranged."""
        if work.task_id:
            return work
        if status is not Status.PENDING:
            return await self._looked_for(work, hold, status)
        work = work.sent(self._context.now_ms(), id_sent=self._provider.sends_id, key_print=self._key_print)
        try:
            task = await self._send(work, hold)
        except Unclear as error:
            self._note_trouble(work, hold, error)
            return await self._looked_for(work, hold, status, error)
        except RefusedOrTaken as error:
            self._outage.refused()
            return await self._taken_or_refused(work, hold, error)
        except (NotSent, Throttled, AccountStopped, JobError) as error:
            return await self._refused(work, hold, error)
        finally:
            self.unaskable.discard(asyncio.current_task())
        return await self._adopt(work, hold, task)

    async def _send(self, work: Work, hold: Hold) -> Task:
        """The intent on disk, then the create: what this raises is the create's own answer."""
        context = self._context
        await context.record(
            Intent(
                job=work.job,
                attempt=work.attempt,
                account=self._provider.account.name,
                base_url=context.address_of(self._provider.account),
                external_id=work.external_id,
                at=work.sent_at,
                reserved=self.ends.price(work),
                id_sent=work.id_sent,
                key_print=work.key_print,
                rehearsal=context.is_local(self._provider.account.name),
            )
        )
        context.tally.begun += 1
        hold.enter(Phase.CREATING)
        if not self.recovery.can_ask:
            self.unaskable.add(asyncio.current_task())
        try:
            task = await self._provider.create(work.job, work.external_id)
        finally:
            self._outage.answered(work.external_id)
        if not is_named(task, work.external_id) or self.recovery.is_anothers(task.id, work.external_id):
            raise Unclear("The answer to the create was that of another one, by its ids.")
        return task

    async def _looked_for(
        self, work: Work, hold: Hold, status: Status, because: BatchgenError | None = None
    ) -> Work | None:
        """After a create without a clear answer: adopt its task, or arrange the next attempt, or hold the job."""
        hold.enter(Phase.ASKING)
        try:
            task = await self.recovery.find(work, waits=hold.give)
        except Undecided as error:
            if work.moved:
                self.ends.leave(work, f"a task was sent to another base_url than the account has now: {error}")
                return None
            await self._undecided(work, error if because is None else type(error)(f"{because} {error}"), status)
        except Postponed as error:
            self.ends.leave(work, str(error))
        except AccountStopped as error:
            self._stop(error)  # the intent stays open: the next run asks again
        else:
            if task is not None:
                return await self._adopt(work, hold, task, found=True)
            why = f"{because} " if because else ""
            lost = AttemptFailed(f"{why}The gateway has no task of this attempt: it was not accepted.", code="lost")
            # Of what an earlier run began, it was that run's end that was in the way.
            await self.ends.not_made(work, lost, Outcome.REFUSED, counts=because is not None)
        return None

    async def _taken_or_refused(self, work: Work, hold: Hold, refusal: RefusedOrTaken) -> Work | None:
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
            self._context.budget.adopt(self.ends.price(work))
            return await self._adopt(replace(work, earlier=True), hold, task, found=True)
        await self.ends.refused(work, refusal)
        return None

    async def _refused(self, work: Work, hold: Hold, error: BatchgenError) -> Work | None:
        """The create was refused: for now, with the account, or for good; or only a second copy of it was."""
        if isinstance(error, Throttled | NotSent):
            self._note_trouble(work, hold, error)
        try:
            if (task := await self._accepted_all_the_same(work, error)) is not None:
                return await self._adopt(work, hold, task, found=True)
        except NotAnswered as unanswered:
            self.ends.leave(work, f"{error} {unanswered}")  # the intent stays open: the next run asks again
            return None
        if isinstance(error, Throttled | NotSent):
            wait = FIRST_SECONDS if isinstance(error, TooManyRunning) else 0.0
            await self.ends.not_made(work, error, Outcome.REFUSED, counts=False, wait=wait)
        elif isinstance(error, AccountStopped):
            await self.ends.not_made(work, error, Outcome.REFUSED, counts=False)
            self._lane_stop.request(error, grace=None)
        elif isinstance(error, AttemptFailed):
            await self.ends.not_made(work, error, Outcome.REFUSED, counts=True)
        elif isinstance(error, JobError):
            if not isinstance(error, PageReceived):
                self._outage.refused()
            await self.ends.refused(work, error)
        return None

    async def _accepted_all_the_same(self, work: Work, refusal: BatchgenError) -> Task | None:
        """The task of a create that was refused: what lies between may have sent it twice, and the second was refused.

        Raises NotAnswered where the account does not say.
        """
        if isinstance(refusal, JobRejected | NotSent | PageReceived) or not (work.id_sent and self.recovery.can_ask):
            return None
        try:
            await self._context.sleep(FIRST_SECONDS)
            return await self.recovery.glance(work)
        except AccountStopped:
            return None  # who does not let us in has taken nothing from us either

    async def _adopt(self, work: Work, hold: Hold, task: Task, *, found: bool = False) -> Work:
        self._flow.accepted(hold)
        self._context.counters.note = ""
        is_whole = len(task.links) >= work.units or not self._provider.asks
        if task.state is TaskState.SUCCEEDED and task.links and is_whole and not found:
            hold.give()  # here too the slots are free at the gateway
            return await self._made_at_once(work, task)
        at = self._context.now_ms()
        await self._context.record(_accepted(work, task, at, found=found))
        if work.id_sent and work.key_print == self._key_print:
            self.recovery.accepted(task.id, work.external_id, at)
        return work.accepted(task.id, at)

    async def _made_at_once(self, work: Work, task: Task) -> Work:
        """The create's own answer brings the images. One commit: between two, they could be lost."""
        at = work.sent_at  # the task went on from there; its time is what a plan reckons with
        await self._record_made(work, task, _accepted(work, task, at))
        return work.accepted(task.id, at, made=True)

    # --- made: the task has succeeded ---------------------------------------------------------------------

    async def _made(self, work: Work, hold: Hold) -> bool:
        """Wait for the task's end; whether there are images to fetch."""
        hold.enter(Phase.RUNNING)
        context = self._context
        try:
            async with asyncio.timeout(context.rules.task_timeout):
                task = await self._watch.ended(work.task_id, work.job.parameters, work.external_id)
        except TimeoutError:
            self.ends.leave(work, f"the task {work.task_id} has not ended within run.task_timeout")
            return False
        except Unclear as error:
            self.ends.leave(work, str(error))
            return False
        except TaskNotFound as error:
            await self._gone(work, error, Outcome.LOST)
            return False
        finally:
            self.recovery.ended(work.task_id)
        hold.give()  # at the gateway the slots are free already: what follows here must not keep them
        self._flow.gate.served()
        if task.state is not TaskState.SUCCEEDED:
            await self._made_nothing(work, task)
            return False
        await self._record_made(work, task)
        return True

    async def _made_nothing(self, work: Work, task: Task) -> None:
        """The task has ended without images: by policy, by chance, or so long ago that they are no longer there."""
        words = task.message or "The gateway gives no reason."
        is_old = self._context.now_ms() - work.accepted_at >= GONE_AFTER_MS
        if task.state is TaskState.REJECTED:
            refusal = JobRejected(f"The task {task.id} was refused: {words}", code="rejected", head=task.head)
            await self.ends.end(work, Status.REJECTED, Outcome.FAILED, refusal)
        elif task.state is TaskState.GONE and is_old:  # it may have made something, which was paid
            gone = TaskNotFound(f"The task {task.id} is no longer there: {words}", code="gone", head=task.head)
            await self._gone(work, gone, Outcome.LOST)
        else:
            failure = AttemptFailed(f"The task {task.id} failed: {words}", code="failed", head=task.head)
            await self.ends.not_made(work, failure, Outcome.FAILED, counts=True)

    async def _record_made(self, work: Work, task: Task, *before: Accepted) -> None:
        price = self.ends.price(work)
        # The gateway's own figure counts where it is in our unit, or there is no price.
        counts = task.cost is not None and (self._provider.account.prices.deducted or price is None)
        charge = micros(task.cost) if counts else price
        links = task.images(work.units)
        if work.wanted and work.job.parameters.watermark_info:
            self._context.tally.unmarked += sum(not link.watermark_url for link in links)
        made = Made(job_id=work.job.id, attempt=work.attempt, links=links, cost=charge, at=self._context.now_ms())
        await self._context.record(*before, made)
        self._context.budget.settle(price, charge, earlier=work.earlier)
        self._context.counters.cost = self._context.budget.cost_of_run

    # --- fetched: the images are in place -----------------------------------------------------------------

    async def _fetched(self, work: Work) -> None:
        context = self._context
        self.fetching += 1
        context.counters.images_to_fetch += work.units
        try:
            await self._fetcher.fetch(work)
        except ImagesGone as error:
            await self._gone(work, error, None)
        except RunStopped:
            raise
        except BatchgenError as error:
            self.ends.leave(work, f"images of {work.job.id} are made but could not be fetched: {error}")
        else:
            context.tally.fetched_jobs += 1
            context.counters.jobs_done += 1
        finally:
            self.fetching -= 1
            context.counters.images_to_fetch -= work.units

    async def _gone(self, work: Work, error: BatchgenError, outcome: Outcome | None) -> None:
        """The gateway does not have what it made. Each later run asks again; only a retry of what was gone pays."""
        if self._is_elsewhere(work) or await self._fetcher.may_come(work, error):
            later = "It may be late: the next run asks again, unpaid. What stays away is called gone in the end, and"
            self.ends.leave(work, f"{error} {later} --retry-failed makes that anew, which is paid again")
        elif work.remake:
            await self.ends.not_made(work, error, Outcome.LOST, counts=True)
        else:
            await self.ends.end(work, Status.GONE, outcome, error)

    def _is_elsewhere(self, work: Work) -> bool:
        """Whether it was made under another key or at another address than is asked now: "not there" proves nothing."""
        return work.moved or work.key_print not in {"", self._key_print}

    async def _looked_again(self, work: Work, hold: Hold, status: Status) -> Work | None:
        """What an earlier run did not get: one question and one download, free. The work where it goes on."""
        hold.give()
        context = self._context
        async with self._looks:
            found = await self._fetcher.look_again(work)
        if found is Found.TASK:
            await context.record(Reopened(job_id=work.job.id))
            return work
        if found is Found.ALL:
            context.tally.fetched_jobs += 1
            context.counters.jobs_done += 1
        elif found is Found.NO_MORE and status is Status.PARTIAL and work.remake:
            await context.record(Reopened(job_id=work.job.id))
            self.ends.later(replace(work, failures=0).again(counts=False), 0.0)
        return None

    # --- ends ---------------------------------------------------------------------------------------------

    async def _undecided(self, work: Work, error: Undecided, status: Status) -> None:
        # What could not be asked just now is held at first: only a later run, told to, sends it again.
        is_first_doubt = isinstance(error, NotAnswered) and status is Status.PENDING
        if self._context.rules.resend_unknown and not is_first_doubt:
            await self.ends.not_made(work, error, Outcome.UNKNOWN, counts=True)
        else:
            await self.ends.end(work, Status.UNKNOWN, Outcome.UNKNOWN, error)

    def _note_trouble(self, work: Work, hold: Hold, error: Throttled | NotSent | Unclear) -> None:
        """The create was not taken for now, or nobody can say."""
        self._context.counters.refusals += 1
        self._context.counters.note = str(error)[:_NOTE]
        if is_trouble(error):
            self._outage.troubled(work.job.id, error, sent=hold.sent)
            if self._outage.is_on:
                self.ends.verdicts.excuse(self._outage.jobs)
        is_unclear = isinstance(error, Unclear)
        reason = self._flow.unclear(error) if is_unclear else self._flow.refused(hold, error)
        if reason is not None:
            self._lane_stop.request(reason, grace=self._context.rules.grace)

    def _stop(self, reason: RunStopped) -> None:
        """An account ends its lane, which may be the run's; everything else (the disk) ends the run."""
        stop = self._lane_stop if isinstance(reason, AccountStopped) else self._context.stop
        stop.request(reason, grace=self._context.rules.grace)


def _accepted(work: Work, task: Task, at: int, *, found: bool = False) -> Accepted:
    return Accepted(
        job_id=work.job.id, attempt=work.attempt, task_id=task.id, at=at, found=found, rehearsal=task.rehearsal
    )
