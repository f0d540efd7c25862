"""How an attempt ends that made nothing: another one follows, or the job ends, or waits until it is clear which.

Every end is in the ledger before anything follows from it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchgen.engine.refusals import Verdicts
from batchgen.engine.retry import soon
from batchgen.errors import AccountStopped, JobRefused, JobRejected, PageReceived
from batchgen.jobs import Status
from batchgen.ledger.events import Ended, NotMade, Outcome
from batchgen.money import micros

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.catalog.catalog import Prices
    from batchgen.engine.attempt import Work
    from batchgen.engine.context import Context
    from batchgen.engine.refusals import Suspended
    from batchgen.engine.shutdown import Stop
    from batchgen.errors import BatchgenError, JobError, RunStopped


class Endings:
    """The ends of one account's attempts.

    `stop` is the account's; `later(work, seconds)` puts a work back among those waiting, behind all others where the
    seconds are infinite.
    """

    def __init__(self, context: Context, prices: Prices, *, stop: Stop, later: Callable[[Work, float], None]) -> None:
        self._context = context
        self._prices = prices
        self._account_stop = stop
        self.later = later
        self.verdicts = Verdicts()

    async def not_made(
        self, work: Work, error: BatchgenError, outcome: Outcome, *, counts: bool, wait: float = 0.0
    ) -> None:
        """The attempt made nothing: the next follows, after `wait` seconds at least, unless that was the last.

        `counts`: against run.max_attempts. What was never accepted counts only once it is clear that it was not the
        account that accepts nothing.
        """
        failures = work.failures + int(counts)
        if counts and outcome is Outcome.REFUSED:
            await self._suspend(work, error, outcome)
        elif counts and failures >= self._context.rules.max_attempts:
            await self.end(work, Status.FAILED, outcome, error)
        else:
            await self._record_not_made(work, error, outcome, counts=counts)
            if work.wanted:
                self.later(work.again(counts=counts), soon(failures, self._context.chance) if counts else wait)

    async def refused(self, work: Work, error: JobError) -> None:
        """Rejected or failed for good; or pending, as long as it may be the account that is refused."""
        if isinstance(error, JobRejected):
            await self.end(work, Status.REJECTED, Outcome.REFUSED, error)
        elif self.verdicts.is_own(work, error):
            await self.end(work, Status.FAILED, Outcome.REFUSED, error)
        else:
            await self._suspend(work, error, Outcome.REFUSED)

    async def conclude(self, suspended: Suspended) -> None:
        """Carry out a verdict: the job fails, or gets its next attempt. Raises RunStopped where the disk refuses."""
        work, error = suspended.work, suspended.error
        counts = suspended.is_own and not isinstance(error, JobRefused)
        failures = work.failures + int(counts)
        if suspended.is_own and isinstance(error, PageReceived):
            self.later(work.again(counts=False), math.inf)
        elif suspended.is_own and (isinstance(error, JobRefused) or failures >= self._context.rules.max_attempts):
            await self.end(work, Status.FAILED, None, error)
        else:
            self.later(work.again(counts=counts), soon(failures, self._context.chance) if counts else 0.0)

    async def end(self, work: Work, status: Status, outcome: Outcome | None, error: BatchgenError) -> None:
        """The job ends short; `outcome` None leaves the attempt's as it is."""
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
        context.stats.ended[status] = context.stats.ended.get(status, 0) + 1

    def leave(self, work: Work, why: str) -> None:
        """The job stays as it is for the next run."""
        self._context.stats.leave(f"{why[:1].upper()}{why[1:]}", wanted=work.wanted)

    def stop(self, reason: RunStopped) -> None:
        """An account that stops ends its own work, which may be the run's; everything else (the disk) ends the run."""
        stop = self._account_stop if isinstance(reason, AccountStopped) else self._context.stop
        stop.request(reason, grace=self._context.rules.grace)

    def price(self, work: Work) -> int | None:
        """What the attempt is reckoned to cost, in millionths."""
        if work.reserved is not None:
            return work.reserved
        return micros(self._prices.of_task(work.job.parameters))

    async def _record_not_made(self, work: Work, error: BatchgenError, outcome: Outcome, *, counts: bool) -> None:
        context = self._context
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

    async def _suspend(self, work: Work, error: BatchgenError, outcome: Outcome) -> None:
        """The job is pending until it is clear whether this was its own fault (`conclude`)."""
        await self._record_not_made(work, error, outcome, counts=False)
        if work.wanted and (reason := self.verdicts.suspend(work, error)) is not None:
            self._account_stop.request(reason, grace=None)

    def _release(self, work: Work, outcome: Outcome) -> None:
        if outcome in {Outcome.REFUSED, Outcome.FAILED}:
            self._context.budget.release(work.units, self.price(work), earlier=work.earlier)


def _code(error: BatchgenError) -> str:
    return str(getattr(error, "code", ""))


def _head(error: BatchgenError) -> str:
    return str(getattr(error, "body_excerpt", ""))
