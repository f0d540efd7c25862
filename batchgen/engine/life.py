"""One attempt's life, from the intent to the files in place: to be read from top to bottom.

Every step is in the ledger before the next is taken, and every end is one of the ledger's: what is
cancelled half-way, or killed, is taken up by the next run where the ledger says it stood.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.engine.fetch import Fetcher, Found, ImagesGone
from batchgen.engine.recover import NotAnswered, Recovery, Undecided
from batchgen.engine.retry import FIRST_SECONDS, soon
from batchgen.engine.slot_time import Phase
from batchgen.errors import (
    AccountStopped,
    AttemptFailed,
    BatchgenError,
    JobError,
    JobRejected,
    NotSent,
    RefusedOrTaken,
    RunStopped,
    TaskNotFound,
    Throttled,
    TooManyRunning,
    Unclear,
)
from batchgen.jobs import Status
from batchgen.ledger.events import Accepted, Ended, Intent, Made, NotMade, Outcome, Reopened
from batchgen.money import micros
from batchgen.providers.base import TaskState

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
    """Carries the attempts of one account. `later(work, seconds)` puts a work back among those waiting."""

    def __init__(
        self,
        context: Context,
        provider: Provider,
        *,
        flow: Flow,
        watch: Watch,
        stop: Stop,
        later: Callable[[Work, float], None],
    ) -> None:
        self._context = context
        self._lane_stop = stop
        self._provider = provider
        self._flow = flow
        self._watch = watch
        self._later = later
        self._recovery = Recovery(provider, sleep=context.sleep, wall=context.wall, chance=context.chance)
        self._fetcher = Fetcher(context, provider)
        self._looks = asyncio.Semaphore(_LOOKS_AT_ONCE)
        self._unreachable_said = False
        self.fetching = 0
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
                    accepted = await self._accepted(work, hold, status)
                made = accepted is not None and (accepted.made or await self._made(accepted, hold))
            finally:
                hold.give()
            if accepted is not None and made:
                await self._fetched(accepted)
        except RunStopped as error:
            self._stop(error)

    @property
    def is_starved(self) -> bool:
        """Whether downloads wait for this process to be allowed another file."""
        return self.fetching > 0 and self._fetcher.is_starved

    @property
    def can_ask(self) -> bool:
        """Whether the account can tell what became of a create."""
        return self._recovery.can_ask

    # --- accepted: there is a task ------------------------------------------------------------------------

    async def _accepted(self, work: Work, hold: Hold, status: Status) -> Work | None:
        """The attempt with its task, or None when it has no task and all that follows is arranged."""
        if work.task_id:
            return work
        if status is not Status.PENDING:
            return await self._looked_for(work, hold, status)
        work = work.sent(self._context.now_ms())
        try:
            task = await self._send(work, hold)
        except Unclear as error:
            return await self._looked_for(work, hold, status, error)
        except RefusedOrTaken as error:
            return await self._taken_or_refused(work, hold, error)
        except (Throttled, NotSent) as error:
            self._note_trouble(hold, error)
            wait = FIRST_SECONDS if isinstance(error, TooManyRunning) else 0.0
            await self._not_made(work, error, Outcome.REFUSED, counts=False, wait=wait)
        except AccountStopped as error:
            await self._not_made(work, error, Outcome.REFUSED, counts=False)
            self._lane_stop.request(error, grace=None)
        except AttemptFailed as error:
            await self._not_made(work, error, Outcome.REFUSED, counts=True)
        except JobError as error:
            rejected = isinstance(error, JobRejected)
            await self._end(work, Status.REJECTED if rejected else Status.FAILED, Outcome.REFUSED, error)
        else:
            return await self._adopt(work, hold, task)
        finally:
            self.unaskable.discard(asyncio.current_task())
        return None

    async def _send(self, work: Work, hold: Hold) -> Task:
        """The intent on disk, then the create: what this raises is the create's own answer."""
        context = self._context
        await context.record(
            Intent(
                job=work.job,
                attempt=work.attempt,
                account=self._provider.account.name,
                base_url="" if context.is_local(self._provider.account.name) else self._provider.account.base_url,
                external_id=work.external_id,
                at=work.sent_at,
                reserved=self._price(work),
            )
        )
        context.tally.begun += 1
        hold.enter(Phase.CREATING)
        if not self._recovery.can_ask:
            self.unaskable.add(asyncio.current_task())
        return await self._provider.create(work.job, work.external_id)

    async def _looked_for(
        self, work: Work, hold: Hold, status: Status, because: BatchgenError | None = None
    ) -> Work | None:
        """After a create without a clear answer: adopt its task, or arrange the next attempt, or hold the job."""
        hold.enter(Phase.ASKING)
        try:
            task = await self._recovery.find(work)
        except Undecided as error:
            await self._undecided(work, error if because is None else type(error)(f"{because} {error}"), status)
        except AccountStopped as error:
            self._stop(error)  # the intent stays open: the next run asks again
        else:
            if task is not None:
                return await self._adopt(work, hold, task, found=True)
            if work.moved:
                self._leave(
                    work, "a task was sent to another base_url than the account has now, which does not know it"
                )
                return None
            why = f"{because} " if because else ""
            lost = AttemptFailed(f"{why}The gateway has no task of this attempt: it was not accepted.", code="lost")
            await self._not_made(work, lost, Outcome.REFUSED, counts=True)
        return None

    async def _taken_or_refused(self, work: Work, hold: Hold, refusal: RefusedOrTaken) -> Work | None:
        """A refusal of parameters also answers an external id that the account has seen: then there is a task."""
        hold.enter(Phase.ASKING)
        try:
            task = await self._recovery.find(work) if self._recovery.can_ask else None
        except NotAnswered as error:  # the next run asks again
            await self._undecided(work, NotAnswered(f"{refusal} {error}"), Status.PENDING)
            return None
        except Undecided:
            task = None
        if task is not None:
            return await self._adopt(work, hold, task, found=True)
        await self._end(work, Status.FAILED, Outcome.REFUSED, refusal)
        return None

    async def _adopt(self, work: Work, hold: Hold, task: Task, *, found: bool = False) -> Work:
        self._flow.accepted(hold)
        self._context.counters.note = ""
        is_whole = len(task.links) >= work.units or not self._provider.asks
        if task.state is TaskState.SUCCEEDED and task.links and is_whole and not found:
            hold.give()  # here too the slots are free at the gateway
            return await self._made_at_once(work, task)
        at = self._context.now_ms()
        accepted = Accepted(job_id=work.job.id, attempt=work.attempt, task_id=task.id, at=at, found=found)
        await self._context.record(accepted)
        return work.accepted(task.id, at)

    async def _made_at_once(self, work: Work, task: Task) -> Work:
        """The create's own answer brings the images. One commit: between two, they could be lost."""
        at = work.sent_at  # the task went on from there; its time is what a plan reckons with
        await self._record_made(work, task, Accepted(job_id=work.job.id, attempt=work.attempt, task_id=task.id, at=at))
        return work.accepted(task.id, at, made=True)

    # --- made: the task has succeeded ---------------------------------------------------------------------

    async def _made(self, work: Work, hold: Hold) -> bool:
        """Wait for the task's end; whether there are images to fetch."""
        hold.enter(Phase.RUNNING)
        context = self._context
        try:
            async with asyncio.timeout(context.rules.task_timeout):
                task = await self._watch.ended(work.task_id, work.job.parameters)
        except TimeoutError:
            self._leave(work, f"the task {work.task_id} has not ended within run.task_timeout")
            return False
        except Unclear as error:
            self._leave(work, str(error))
            return False
        except TaskNotFound as error:
            await self._gone(work, error, Outcome.LOST)
            return False
        hold.give()  # at the gateway the slots are free already: what follows here must not keep them
        self._flow.gate.served()
        if task.state is TaskState.FAILED:
            words = task.message or "The gateway gives no reason."
            failure = AttemptFailed(f"The task {task.id} failed: {words}", code="failed", head=task.head)
            await self._not_made(work, failure, Outcome.FAILED, counts=True)
            return False
        await self._record_made(work, task)
        return True

    async def _record_made(self, work: Work, task: Task, *before: Accepted) -> None:
        price = self._price(work)
        charge = micros(self._provider.account.prices.charge(work.job.parameters, task.cost))
        links = task.images(work.units)
        if work.wanted and work.job.parameters.watermark_info:
            self._context.tally.unmarked += sum(not link.watermark_url for link in links)
        made = Made(job_id=work.job.id, attempt=work.attempt, links=links, cost=charge, at=self._context.now_ms())
        await self._context.record(*before, made)
        self._context.budget.settle(price, charge)
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
            self._leave(work, f"images of {work.job.id} are made but could not be fetched: {error}")
        else:
            context.tally.fetched_jobs += 1
            context.counters.jobs_done += 1
        finally:
            self.fetching -= 1
            context.counters.images_to_fetch -= work.units

    async def _gone(self, work: Work, error: BatchgenError, outcome: Outcome | None) -> None:
        """The gateway does not have what it made. Each later run asks again; only a retry of what was gone pays."""
        if await self._fetcher.may_come(work, error):
            later = "It may be late: the next run asks again, unpaid. What stays away is called gone in the end, and"
            self._leave(work, f"{error} {later} --retry-failed makes that anew, which is paid again")
        elif work.remake:
            await self._not_made(work, error, Outcome.LOST, counts=True)
        else:
            await self._end(work, Status.GONE, outcome, error)

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
            self._later(replace(work, failures=0).again(counts=False), 0.0)
        return None

    # --- ends ---------------------------------------------------------------------------------------------

    async def _undecided(self, work: Work, error: Undecided, status: Status) -> None:
        # What could not be asked just now is held at first: only a later run, told to, sends it again.
        is_first_doubt = isinstance(error, NotAnswered) and status is Status.PENDING
        if self._context.rules.resend_unknown and not is_first_doubt:
            await self._not_made(work, error, Outcome.UNKNOWN, counts=True)
        else:
            await self._end(work, Status.UNKNOWN, Outcome.UNKNOWN, error)

    async def _not_made(
        self, work: Work, error: BatchgenError, outcome: Outcome, *, counts: bool, wait: float = 0.0
    ) -> None:
        """The attempt made nothing: the next follows, after `wait` seconds at least, unless that was the last."""
        context = self._context
        failures = work.failures + int(counts)
        if failures >= context.rules.max_attempts:
            await self._end(work, Status.FAILED, outcome, error)
            return
        await context.record(
            NotMade(
                job_id=work.job.id,
                attempt=work.attempt,
                outcome=outcome,
                counts=counts,
                at=context.now_ms(),
                code=_code(error),
                message=str(error),
                head=_head(error),
            )
        )
        self._release(work, outcome)
        if work.wanted:
            self._later(work.again(counts=counts), soon(failures, context.chance) if counts else wait)

    async def _end(self, work: Work, status: Status, outcome: Outcome | None, error: BatchgenError) -> None:
        context = self._context
        await context.record(
            Ended(
                job_id=work.job.id,
                attempt=work.attempt,
                status=status,
                outcome=outcome,
                at=context.now_ms(),
                code=_code(error),
                message=str(error),
                head=_head(error),
            )
        )
        if outcome is not None:
            self._release(work, outcome)
        context.counters.jobs_failed += 1
        context.tally.ended[status] = context.tally.ended.get(status, 0) + 1

    def _leave(self, work: Work, why: str) -> None:
        self._context.tally.leave(f"{why[:1].upper()}{why[1:]}", wanted=work.wanted)

    def _price(self, work: Work) -> int | None:
        return micros(self._provider.account.prices.of_task(work.job.parameters))

    def _release(self, work: Work, outcome: Outcome) -> None:
        if outcome in {Outcome.REFUSED, Outcome.FAILED}:
            self._context.budget.release(work.units, self._price(work))

    def _note_trouble(self, hold: Hold, error: Throttled | NotSent) -> None:
        self._context.counters.refusals += 1
        self._context.counters.note = str(error)[:_NOTE]
        if isinstance(error, NotSent) and not self._unreachable_said:
            self._unreachable_said = True
            patience = self._context.rules.give_up_after
            self._context.say(f"{error} It is tried again, for at most {patience:g} s (run.give_up_after).")
        if (reason := self._flow.refused(hold, error)) is not None:
            self._lane_stop.request(reason, grace=self._context.rules.grace)

    def _stop(self, reason: RunStopped) -> None:
        """An account ends its lane, which may be the run's; everything else (the disk) ends the run."""
        stop = self._lane_stop if isinstance(reason, AccountStopped) else self._context.stop
        stop.request(reason, grace=self._context.rules.grace)


def _code(error: BatchgenError) -> str:
    return str(getattr(error, "code", ""))


def _head(error: BatchgenError) -> str:
    return str(getattr(error, "head", ""))
