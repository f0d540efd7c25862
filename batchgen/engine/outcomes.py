"""How an attempt ends: its images are made; or it made nothing, and another one follows or the job ends.

Every end is in the ledger before anything follows from it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from batchgen.budget import cost_of
from batchgen.engine.refusals import RefusalAttribution
from batchgen.engine.retry import FIRST_SECONDS, short_backoff
from batchgen.errors import (
    AccountStopped,
    JobError,
    JobRefused,
    JobRejected,
    PageReceived,
    TooManyRunning,
)
from batchgen.jobs import Status
from batchgen.ledger.events import Ended, Made, NotMade, Outcome
from batchgen.money import micros

if TYPE_CHECKING:
    from batchgen.catalog.accounts import Account
    from batchgen.engine.attempt import Attempt
    from batchgen.engine.context import Context
    from batchgen.engine.pool import PoolMember
    from batchgen.engine.refusals import Refusal
    from batchgen.engine.shutdown import Stop
    from batchgen.engine.waiting import WaitingAttempts
    from batchgen.errors import BatchgenError, RunStopped
    from batchgen.ledger.events import Accepted
    from batchgen.providers.base import Task

_REFUNDED = frozenset({Outcome.REFUSED, Outcome.FAILED})


class Outcomes:
    """The ends of one account's attempts; `account_stop` is the account's own stop."""

    def __init__(
        self, context: Context, account: Account, *, account_stop: Stop, waiting: WaitingAttempts | PoolMember
    ) -> None:
        self._context = context
        self.budget = context.budgets.get(account.name, context.budget)
        self._account = account
        self._account_stop = account_stop
        self._waiting = waiting
        self.attribution = RefusalAttribution()

    # --- the create was not accepted ----------------------------------------------------------------------

    async def refused(self, attempt: Attempt, error: BatchgenError) -> None:
        """The create certainly was not accepted, for this reason.

        | error                             | what becomes of the job                                      |
        |-----------------------------------|--------------------------------------------------------------|
        | JobRejected                       | rejected, final                                              |
        | JobRefused, clearly its own fault | failed                                                       |
        | any other JobError                | pending, until it is clear whether it is the account's fault |
        | Throttled, NotSent, any other     | the same attempt again, which counts as none                 |
        """
        if isinstance(error, JobRejected):
            await self.end(attempt, Status.REJECTED, Outcome.REFUSED, error)
        elif not isinstance(error, JobError):
            wait = FIRST_SECONDS if isinstance(error, TooManyRunning) else 0.0
            await self.not_made(attempt, error, Outcome.REFUSED, counts=False, wait=wait)
        elif self.attribution.is_clearly_jobs_fault(attempt, error):
            await self.end(attempt, Status.FAILED, Outcome.REFUSED, error)
        else:
            await self._record_not_made(attempt, error, Outcome.REFUSED, counts=False)
            if attempt.wanted and (reason := self.attribution.add(attempt, error)) is not None:
                self._account_stop.request(reason, grace=None)

    async def conclude(self, refusal: Refusal) -> None:
        """Carry out what was decided: the job fails, or gets its next attempt. Raises RunStopped."""
        attempt, error = refusal.attempt, refusal.error
        if not refusal.is_jobs_fault:
            self._next(attempt, counts=False)
        elif isinstance(error, PageReceived):
            self._next(attempt, counts=False, wait=math.inf)
        elif isinstance(error, JobRefused) or self.is_last(attempt):
            await self.end(attempt, Status.FAILED, None, error)
        else:
            self._next(attempt, counts=True)

    def release_refused(self) -> None:
        """The account has stopped: what it refused without a reason of the job's own may go to another one."""
        for refusal in self.attribution.take_all():
            self._next(refusal.attempt, counts=False)

    # --- every end ----------------------------------------------------------------------------------------

    async def not_made(
        self,
        attempt: Attempt,
        error: BatchgenError,
        outcome: Outcome,
        *,
        counts: bool,
        wait: float = 0.0,
        one_more: bool = False,
    ) -> None:
        """The attempt made nothing: the next follows, after `wait` seconds at least, unless that was the last.

        `counts`: against run.max_attempts; `one_more`: the user asks for another one in any case.
        """
        if counts and not one_more and self.is_last(attempt):
            await self.end(attempt, Status.FAILED, outcome, error)
            return
        await self._record_not_made(attempt, error, outcome, counts=counts)
        if attempt.wanted:
            self._next(attempt, counts=counts, wait=wait)

    async def end(self, attempt: Attempt, status: Status, outcome: Outcome | None, error: BatchgenError) -> None:
        """The job ends without its images; `outcome` None leaves the attempt's as it is."""
        context = self._context
        await context.record(Ended(status=status, outcome=outcome, **self._details(attempt, error)))
        self._refund(attempt, outcome)
        context.counters.jobs_failed += 1

    async def made(self, attempt: Attempt, task: Task, *before: Accepted) -> None:
        """The task succeeded: its links are recorded, with the events `before`, and its cost is counted."""
        context, price = self._context, self.price(attempt)
        # The gateway's own figure counts where it is in our unit, or there is no price.
        counts = task.cost is not None and (self._account.prices.deducted or price is None)
        charge = micros(task.cost) if counts else price
        links = task.images(attempt.units)
        if attempt.wanted and attempt.job.parameters.watermark_info:
            context.stats.without_watermark += sum(not link.watermark_url for link in links)
        made = Made(job_id=attempt.job.id, attempt=attempt.number, links=links, cost=charge, at=context.now_ms())
        await context.record(*before, made)
        context.stats.made[self._account.name] += len(links)
        self.budget.charge(price, charge, attempt.job.parameters.model, earlier=attempt.earlier)
        context.counters.cost = context.budget.cost_of_run

    async def unrecordable(self, attempt: Attempt, error: BatchgenError) -> None:
        """The ledger cannot hold what this attempt brings. Where a create was sent, nobody can say what it made."""
        latest = self._context.reader.latest_attempt(attempt.job.id)
        if latest is not None and latest.attempt == attempt.number:
            await self.end(attempt, Status.UNKNOWN, Outcome.UNKNOWN, error)
        else:
            self._refund(attempt, Outcome.REFUSED)
            self.defer(attempt, str(error))

    def defer(self, attempt: Attempt, why: str) -> None:
        """The job stays as it is for the next run."""
        self._context.stats.defer(f"{why[:1].upper()}{why[1:]}", wanted=attempt.wanted)

    def not_begun(self, attempt: Attempt) -> None:
        """Nothing of the attempt was recorded or sent; its job stays pending."""
        self._refund(attempt, Outcome.REFUSED)

    def requeue(self, attempt: Attempt) -> None:
        """An attempt that was not begun yet waits for a slot."""
        self._waiting.requeue(attempt, 0.0)

    def stop(self, reason: RunStopped) -> None:
        """An account that stops ends its own work, which may be the run's; everything else (the disk) ends the run."""
        stop = self._account_stop if isinstance(reason, AccountStopped) else self._context.stop
        stop.request(reason, grace=self._context.policy.grace)

    def price(self, attempt: Attempt) -> int | None:
        """What the attempt is expected to cost, in millionths."""
        return cost_of(self._account, attempt.job.parameters) if attempt.reserved is None else attempt.reserved

    def is_last(self, attempt: Attempt) -> bool:
        """Whether run.max_attempts allows no other attempt after this one."""
        return attempt.failures + 1 >= self._context.policy.max_attempts

    def _next(self, attempt: Attempt, *, counts: bool, wait: float = 0.0) -> None:
        if counts:
            wait = short_backoff(attempt.failures + 1, self._context.rng)
        self._waiting.requeue(attempt.next(counts=counts), wait)

    async def _record_not_made(self, attempt: Attempt, error: BatchgenError, outcome: Outcome, *, counts: bool) -> None:
        await self._context.record(NotMade(outcome=outcome, counts=counts, **self._details(attempt, error)))
        self._refund(attempt, outcome)

    def _details(self, attempt: Attempt, error: BatchgenError) -> dict[str, Any]:
        return {
            "job_id": attempt.job.id,
            "attempt": attempt.number,
            "at": self._context.now_ms(),
            "code": str(getattr(error, "code", "")),
            "message": str(error),
            "head": str(getattr(error, "body_excerpt", "")),
        }

    def _refund(self, attempt: Attempt, outcome: Outcome | None) -> None:
        if outcome in _REFUNDED:
            model = attempt.job.parameters.model
            self.budget.release(attempt.units, self.price(attempt), model, earlier=attempt.earlier)
