"""One attempt's life, from the intent to the files in place: to be read from top to bottom.

Every step is in the ledger before the next is taken, and every end is one of the ledger's: what is
cancelled half-way, or killed, is taken up by the next run where the ledger says it stood.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.engine.download import GONE_AFTER_MS, Fetcher, Found, ImagesGone
from batchgen.engine.outcomes import Endings
from batchgen.engine.submit import Creates
from batchgen.engine.timings import Phase
from batchgen.errors import (
    AttemptFailed,
    BatchgenError,
    JobRejected,
    RunStopped,
    TaskNotFound,
    Unclear,
    Unkeepable,
)
from batchgen.jobs import Status
from batchgen.ledger.events import Accepted, Made, Outcome, Reopened
from batchgen.money import micros
from batchgen.providers.base import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.engine.attempt import Work
    from batchgen.engine.context import Context
    from batchgen.engine.limits import AccountLimits, SlotPermit
    from batchgen.engine.poller import TaskPoller
    from batchgen.engine.shutdown import Stop
    from batchgen.providers.base import Task
    from batchgen.providers.validated import ValidatedProvider

_NOTE = 120  # characters of a refusal that the progress shows
_LOOKS_AT_ONCE = 32  # questions for what an earlier run did not get
ASKED_AGAIN = frozenset({Status.GONE, Status.PARTIAL})


class AttemptRunner:
    """Carries the attempts of one account.

    `later(work, seconds)` puts a work back among those waiting, behind all others where the seconds are infinite;
    `changed` is called when the question about a lost create begins or ends to wait for what others bring.
    """

    def __init__(
        self,
        context: Context,
        provider: ValidatedProvider,
        *,
        flow: AccountLimits,
        poller: TaskPoller,
        stop: Stop,
        later: Callable[[Work, float], None],
        changed: Callable[[], None],
    ) -> None:
        self._context = context
        self._provider = provider
        self._flow = flow
        self._poller = poller
        self.ends = Endings(context, provider.account.prices, stop=stop, later=later)
        self.creates = Creates(
            context, provider, flow=flow, ends=self.ends, stop=stop, changed=changed, record_made=self._record_made
        )
        self._fetcher = Fetcher(context, provider)
        self._looks = asyncio.Semaphore(_LOOKS_AT_ONCE)
        self.fetching = 0

    async def live(self, work: Work, hold: SlotPermit, status: Status) -> None:
        """Carry one attempt from where it stands to its end. `hold` are its slots; its price is reserved.

        Raises nothing but cancellation: each error becomes the job's outcome, or the run's stop.
        """
        try:
            try:
                if status in ASKED_AGAIN:
                    accepted = await self._looked_again(work, hold, status)
                else:
                    accepted = await self.creates.accepted(work, hold, status)
                made = accepted is not None and (accepted.made or await self._made(accepted, hold))
            finally:
                hold.give()
            if accepted is not None and made:
                await self._fetched(accepted)
        except RunStopped as error:
            self.ends.stop(error)
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
            self.ends.stop(stopped)

    @property
    def is_starved(self) -> bool:
        """Whether downloads wait for this process to be allowed another file."""
        return self.fetching > 0 and self._fetcher.is_starved

    # --- made: the task has succeeded ---------------------------------------------------------------------

    async def _made(self, work: Work, hold: SlotPermit) -> bool:
        """Wait for the task's end; whether there are images to fetch."""
        hold.enter(Phase.RUNNING)
        context = self._context
        try:
            async with asyncio.timeout(context.rules.task_timeout):
                task = await self._poller.wait(work.task_id, work.job.parameters, work.id_to_echo)
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
            self.creates.recovery.on_ended(work.task_id)
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
            refusal = JobRejected(
                f"The task {task.id} was refused: {words}", code="rejected", body_excerpt=task.body_excerpt
            )
            await self.ends.end(work, Status.REJECTED, Outcome.FAILED, refusal)
        elif task.state is TaskState.GONE and is_old:  # it may have made something, which was paid
            gone = TaskNotFound(
                f"The task {task.id} is no longer there: {words}", code="gone", body_excerpt=task.body_excerpt
            )
            await self._gone(work, gone, Outcome.LOST)
        else:
            failure = AttemptFailed(
                f"The task {task.id} failed: {words}", code="failed", body_excerpt=task.body_excerpt
            )
            await self.ends.not_made(work, failure, Outcome.FAILED, counts=True)

    async def _record_made(self, work: Work, task: Task, *before: Accepted) -> None:
        price = self.ends.price(work)
        # The gateway's own figure counts where it is in our unit, or there is no price.
        counts = task.cost is not None and (self._provider.account.prices.deducted or price is None)
        charge = micros(task.cost) if counts else price
        links = task.images(work.units)
        if work.wanted and work.job.parameters.watermark_info:
            self._context.stats.unmarked += sum(not link.watermark_url for link in links)
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
            context.stats.fetched_jobs += 1
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
        """Whether it was made under another key than is asked with now: "not there" proves nothing."""
        return not work.remake and work.key_print not in {"", self.creates.key_print}

    async def _looked_again(self, work: Work, hold: SlotPermit, status: Status) -> Work | None:
        """What an earlier run did not get: one question and one download, free. The work where it goes on."""
        hold.give()
        context = self._context
        async with self._looks:
            found = await self._fetcher.look_again(work)
        if found is Found.TASK:
            await context.record(Reopened(job_id=work.job.id))
            return work
        if found is Found.ALL:
            context.stats.fetched_jobs += 1
            context.counters.jobs_done += 1
        elif found is Found.NO_MORE and status is Status.PARTIAL and work.remake:
            await context.record(Reopened(job_id=work.job.id))
            self.ends.later(replace(work, failures=0).again(counts=False), 0.0)
        return None
