"""Carries one attempt from the intent to the files in place: to be read from top to bottom.

Every step is in the ledger before the next is taken, so what is cancelled between two, or killed, is resumed by the
next run where the ledger says it stood.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.engine.download import GONE_AFTER_MS, Fetcher, Found, ImagesGone
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
from batchgen.ledger.events import Outcome, Reopened
from batchgen.providers.base import TaskState

if TYPE_CHECKING:
    from batchgen.engine.attempt import Attempt
    from batchgen.engine.context import Context
    from batchgen.engine.limits import AccountLimits, SlotPermit
    from batchgen.engine.outcomes import Outcomes
    from batchgen.engine.poller import TaskPoller
    from batchgen.engine.submit import Submitter
    from batchgen.providers.base import Task
    from batchgen.providers.validated import ValidatedProvider

_RECHECKS_AT_ONCE = 32  # questions for images that an earlier run did not get
RECHECKED = frozenset({Status.GONE, Status.PARTIAL})


class AttemptRunner:
    def __init__(
        self,
        context: Context,
        provider: ValidatedProvider,
        *,
        limits: AccountLimits,
        poller: TaskPoller,
        submitter: Submitter,
        outcomes: Outcomes,
    ) -> None:
        self._context = context
        self._limits = limits
        self._poller = poller
        self._submitter = submitter
        self._outcomes = outcomes
        self._fetcher = Fetcher(context, provider)
        self._rechecks = asyncio.Semaphore(_RECHECKS_AT_ONCE)
        self.fetching = 0

    async def run(self, attempt: Attempt, permit: SlotPermit, status: Status) -> None:
        """Carry one attempt from where it stands to its end. Its price is reserved.

        Raises nothing but cancellation: each error becomes the job's outcome, or the run's stop.
        """
        try:
            await self._run(attempt, permit, status)
        except RunStopped as error:
            self._outcomes.stop(error)
        except Unkeepable as error:
            try:
                await self._outcomes.unrecordable(attempt, error)
            except RunStopped as stopped:
                self._outcomes.stop(stopped)

    async def _run(self, attempt: Attempt, permit: SlotPermit, status: Status) -> None:
        try:
            if status in RECHECKED:
                permit.release()
                accepted = await self._recheck(attempt, status)
            else:
                accepted = await self._submitter.submit(attempt, permit, status)
            is_made = accepted is not None and (accepted.made or await self._await_task(accepted, permit))
        finally:
            permit.release()
        if accepted is not None and is_made:
            await self._download(accepted)

    @property
    def is_starved(self) -> bool:
        """Whether downloads wait for this process to be allowed another file."""
        return self.fetching > 0 and self._fetcher.is_starved

    # --- the task -----------------------------------------------------------------------------------------

    async def _await_task(self, attempt: Attempt, permit: SlotPermit) -> bool:
        """Wait for the task's end; whether there are images to fetch."""
        permit.enter(Phase.RUNNING)
        try:
            async with asyncio.timeout(self._context.policy.task_timeout):
                task = await self._poller.wait(attempt.task_id, attempt.job.parameters, attempt.id_to_echo)
        except TimeoutError:
            self._outcomes.defer(attempt, f"the task {attempt.task_id} has not ended within run.task_timeout")
            return False
        except Unclear as error:
            self._outcomes.defer(attempt, str(error))
            return False
        except TaskNotFound as error:
            await self._handle_missing_images(attempt, error, Outcome.LOST)
            return False
        finally:
            self._submitter.controls.ended(attempt.task_id)
        permit.release()  # at the gateway the slots are free already: what follows must not keep them
        self._limits.backoff.succeeded()
        if task.state is TaskState.SUCCEEDED:
            await self._outcomes.made(attempt, task)
            return True
        await self._handle_failed_task(attempt, task)
        return False

    async def _handle_failed_task(self, attempt: Attempt, task: Task) -> None:
        """The task has ended without images: by policy, by chance, or so long ago that they are no longer there."""
        words = task.message or "The gateway gives no reason."
        is_old = self._context.now_ms() - attempt.accepted_at >= GONE_AFTER_MS
        if task.state is TaskState.REJECTED:
            refusal = JobRejected(
                f"The task {task.id} was refused: {words}", code="rejected", body_excerpt=task.body_excerpt
            )
            await self._outcomes.end(attempt, Status.REJECTED, Outcome.FAILED, refusal)
        elif task.state is TaskState.GONE and is_old:  # it may have made something, which was paid
            gone = TaskNotFound(
                f"The task {task.id} is no longer there: {words}", code="gone", body_excerpt=task.body_excerpt
            )
            await self._handle_missing_images(attempt, gone, Outcome.LOST)
        else:
            failure = AttemptFailed(
                f"The task {task.id} failed: {words}", code="failed", body_excerpt=task.body_excerpt
            )
            await self._outcomes.not_made(attempt, failure, Outcome.FAILED, counts=True)

    # --- the images ---------------------------------------------------------------------------------------

    async def _download(self, attempt: Attempt) -> None:
        counters = self._context.counters
        self.fetching += 1
        counters.images_to_fetch += attempt.units
        try:
            await self._fetcher.fetch(attempt)
        except ImagesGone as error:
            await self._handle_missing_images(attempt, error, None)
        except RunStopped:
            raise
        except BatchgenError as error:
            self._outcomes.defer(attempt, f"images of {attempt.job.id} are made but could not be fetched: {error}")
        else:
            self._count_done()
        finally:
            self.fetching -= 1
            counters.images_to_fetch -= attempt.units

    def _count_done(self) -> None:
        self._context.stats.fetched_jobs += 1
        self._context.counters.jobs_done += 1

    async def _handle_missing_images(self, attempt: Attempt, error: BatchgenError, outcome: Outcome | None) -> None:
        """The gateway does not have what it made. Each later run asks again; only a retry of what is gone pays."""
        # "Not there" proves nothing where it was made under another key than the present one.
        is_certain = isinstance(error, ImagesGone) and error.certain
        is_elsewhere = not (attempt.remake or is_certain) and attempt.key_print not in {"", self._submitter.key_print}
        if is_elsewhere or await self._fetcher.may_come(attempt, error):
            self._outcomes.defer(
                attempt,
                f"{error} It may be late: the next run asks again, unpaid. If it stays missing, it is marked gone, and"
                " --retry-failed makes it again, which is paid again",
            )
        elif attempt.remake:
            await self._outcomes.not_made(attempt, error, Outcome.LOST, counts=True)
        else:
            await self._outcomes.end(attempt, Status.GONE, outcome, error)

    async def _recheck(self, attempt: Attempt, status: Status) -> Attempt | None:
        """Ask once, and download once, for what an earlier run did not get, free. The attempt where it goes on."""
        async with self._rechecks:
            found = await self._fetcher.look_again(attempt)
        if found is Found.TASK:
            await self._context.record(Reopened(job_id=attempt.job.id))
            return attempt
        if found is Found.ALL:
            self._count_done()
        elif found is Found.NO_MORE and status is Status.PARTIAL and attempt.remake:
            await self._context.record(Reopened(job_id=attempt.job.id))
            self._outcomes.requeue(replace(attempt, failures=0).next(counts=False))
        return None
