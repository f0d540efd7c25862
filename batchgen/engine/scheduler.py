"""Runs everything of one account: its slots are kept full; each attempt is carried by one asyncio task.

There are never more of those tasks than the account has slots, plus those whose images are being fetched.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchgen.engine.attempt import Attempt
from batchgen.engine.limits import AccountLimits, quota
from batchgen.engine.outcomes import Outcomes
from batchgen.engine.poller import TaskPoller, answer_within
from batchgen.engine.retry import Backoff
from batchgen.engine.runner import AttemptRunner
from batchgen.engine.submit import Submitter
from batchgen.engine.timings import Idle
from batchgen.engine.unknown_statuses import UnknownStatuses
from batchgen.engine.waiting import WaitingAttempts
from batchgen.errors import AccountStopped, BatchgenError, NotSent, RunStopped, Unclear
from batchgen.jobs import Status
from batchgen.providers.base import TaskState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchgen.engine.context import Context
    from batchgen.engine.limits import SlotPermit
    from batchgen.engine.pool import PoolMember, PoolQueue
    from batchgen.ledger.records import OpenAttempt
    from batchgen.providers.validated import ValidatedProvider

_PROBE_SECONDS = 15.0
_TURN_SECONDS = 1.0  # a turn of the quota that is kept for longer would be one more in a later minute
_FETCH_BACKLOG = 500  # finished tasks that may wait for their download before nothing more is started


class AccountScheduler:
    def __init__(
        self,
        context: Context,
        provider: ValidatedProvider,
        *,
        starts_new: bool,
        pool: PoolQueue | None = None,
        shares_limits_with: AccountScheduler | None = None,
    ) -> None:
        """`starts_new`: an account of the manifest. Another one only finishes what earlier runs began there.

        `pool`: where this account is one of several. They wake each other: what one of them frees, another may take.
        """
        self._context = context
        self._starts_new = starts_new
        self._provider = provider
        self._account = provider.account
        self.stop = context.stop if starts_new and pool is None else context.stop.child()
        # Set when something changed that may let one more attempt be sent.
        self._wake = asyncio.Event() if pool is None else pool.wake
        self._pool = pool
        self._owns_limits = shares_limits_with is None
        if shares_limits_with is None:
            can_ask = provider.can_find or provider.can_list
            self._limits = AccountLimits(context, provider.account, can_ask=can_ask, wake=self._wake)
            self._quota = quota(provider.account.creates_per_minute)
        else:
            self._limits, self._quota = shares_limits_with._limits, shares_limits_with._quota  # noqa: SLF001
        self._outage = self._limits.outage
        self._quota_wait: asyncio.Task[None] | None = None
        self._turn_at = math.inf  # when the quota let one more create go
        self._probe: asyncio.Task[bool] | None = None  # whether the account answers, during an outage
        self._waiting = self._waiting_attempts()
        self._outcomes = Outcomes(context, provider.account, account_stop=self.stop, waiting=self._waiting)
        self._submitter = Submitter(
            context,
            provider,
            limits=self._limits,
            outcomes=self._outcomes,
            account_stop=self.stop,
            task_seconds=lambda: self._poller.task_seconds() or context.reader.mean_task_seconds(),
        )
        self._query_backoff = Backoff(context)
        self._poller = TaskPoller(
            context,
            provider,
            on_trouble=self._query_failed,
            on_answer=self._query_backoff.succeeded,
            jobs_wait=lambda: bool(self._waiting.ready),
        )
        self._poller.on_status = UnknownStatuses(context).note
        self._runner = AttemptRunner(
            context,
            provider,
            limits=self._limits,
            poller=self._poller,
            submitter=self._submitter,
            outcomes=self._outcomes,
        )
        self._counted = (0, 0)  # units in use, and units, that the counters have of this account
        self._running: dict[asyncio.Task[None], str] = {}  # the external ids of the attempts
        self.calls_understood = 0  # callbacks that named a task
        self._called: dict[str, Attempt] = {}  # unknown ones of which a callback names the task, by external id

    def _waiting_attempts(self) -> WaitingAttempts | PoolMember:
        context, starts_new = self._context, self._starts_new
        if self._pool is None:
            return WaitingAttempts(context, wake=self._wake, starts_new=starts_new, on_refused=self._defer_retry)
        member = self._pool.join(self._account, self.stop, context.budgets[self._account.name])
        member.is_running = lambda: bool(self._running)
        member.has_room = self._limits.has_room
        return member

    def _may_free_a_job(self) -> bool:
        """Whether an attempt is in flight, or a refusal waits to be explained."""
        return bool(self._running) or self._outcomes.attribution.is_waiting

    async def run(self, begun: Sequence[tuple[Attempt, Status]], source: Iterator[Attempt | None]) -> None:
        """Resume what was begun, then start what `source` gives, until all has ended or the account is stopped.

        `source` gives None where it has looked at a good many jobs and found none to start.
        """
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(self._poller.run()), group.create_task(self._cancel_after_grace())]
            async with asyncio.TaskGroup() as attempts:
                for attempt, status in begun:
                    self._spawn(attempts, attempt, self._limits.resume(attempt.units), status)
                self._waiting.may_put_back = self._may_free_a_job
                try:
                    await self._feed(attempts, source)
                except RunStopped as reason:  # the ledger cannot be read: what is in flight has its grace
                    self._context.stop.request(reason, grace=self._context.policy.grace)
                finally:
                    self._waiting.leave()
                    self._limits.time.idle(Idle.STOPPED)
                    for waited in (self._quota_wait, self._probe):
                        if waited is not None:
                            waited.cancel()
            for loop in loops:
                loop.cancel()
        name = self._account.name
        if self._owns_limits:
            self._context.stats.slot_times[name] = self._limits.time
        if self._pool is not None:
            self._note_stop()
        elif self.stop.reason is not None and not self._context.stop.is_asked:
            self._context.stats.defer(f"Tasks begun at the account {name!r} wait for it: {self.stop.reason}")

    def _note_stop(self) -> None:
        """Why this account of a pool made no more, if it was not the whole run that ended."""
        reason = self.stop.reason or self._waiting.spent
        if isinstance(reason, RunStopped) and reason is not self._context.stop.reason:
            self._context.stats.stopped[self._account.name] = reason

    # --- what is started, and when ------------------------------------------------------------------------

    async def _feed(self, attempts: asyncio.TaskGroup, source: Iterator[Attempt | None]) -> None:
        while not self.stop.is_asked:
            self._wake.clear()
            while self._called:
                _, attempt = self._called.popitem()
                self._spawn(attempts, attempt, self._limits.resume(attempt.units), Status.UNKNOWN)
            if (reason := self._outage.reason_to_stop()) is not None:
                self.stop.request(reason, grace=self._context.policy.grace)
                break
            while decided := self._outcomes.attribution.take_decided():  # more may be decided meanwhile
                for refusal in decided:
                    await self._outcomes.conclude(refusal)
            if self._waiting.fill(source):
                await asyncio.sleep(0)  # many jobs in a row that are done: let the others act
                continue
            if not self._waiting:
                if self._is_nothing_left_to_show():
                    self._decide_rest()
                    continue
                if not self._running and self._waiting.is_over:
                    return
            why = self._start_next(attempts)
            self._update_last_call()  # after it has shown whether the budget lets anything start
            self._waiting.note(why)
            if why is not None:
                self._limits.time.idle(why)
                await self._wait_for_change(why)

    def _is_nothing_left_to_show(self) -> bool:
        """Whether refusals wait for a decision, and no more creates will come that could show whose fault they were."""
        is_creating = self._outage.is_creating or self._submitter.undecided
        return self._outcomes.attribution.is_waiting and not is_creating

    def _decide_rest(self) -> None:
        reason = self._outcomes.attribution.decide_rest(
            is_account_in_trouble=self._outage.is_account_in_trouble,
            is_known_to_accept=self._submitter.is_known_to_accept,
        )
        if reason is not None:
            self.stop.request(reason, grace=None)

    def _update_last_call(self) -> None:
        """Where nothing goes on but questions that wait for what others bring, none will bring it."""
        recovery = self._submitter.recovery
        may_go_on = not self._waiting.is_out_of_funds and bool(self._waiting)
        if may_go_on or len(self._running) > recovery.waiting:
            recovery.keep_waiting()
        else:
            recovery.decide_now(only_one=self._context.policy.resend_unknown)

    def _start_next(self, attempts: asyncio.TaskGroup) -> Idle | None:
        """Start one attempt, if the limits and the budget allow it; else why not."""
        ready = self._waiting.ready
        if not ready:
            return Idle.NO_JOB
        if (why := self._held_back(attempts)) is not None:
            return why
        if (position := self._limits.choose(ready)) is None:
            return Idle.SIZE
        attempt, budget = ready[position], self._outcomes.budget
        price = self._outcomes.price(attempt)
        if (refusal := budget.refusal(attempt.units, price)) is not None:
            return self._wait_for_refunds(refusal)
        if not self._is_in_quota(attempts):  # asked last: a turn that waits for a slot would be one more in its minute
            return Idle.RATE
        self._waiting.take(position)
        self._waiting.is_out_of_funds = False
        self._quota_wait = self._probe = None
        budget.reserve(attempt.units, price, attempt.job.parameters.model)
        self._outage.sent(attempt.external_id)
        permit = self._limits.acquire(attempt.units, passes=position > 0)
        self._spawn(attempts, attempt, permit, Status.PENDING)
        return None

    def _held_back(self, attempts: asyncio.TaskGroup) -> Idle | None:
        """Why no attempt at all may start now, if so."""
        if self._runner.fetching >= _FETCH_BACKLOG or self._runner.is_starved:
            return Idle.FETCHING
        if self._limits.closed_for() > 0:
            return Idle.RATE
        if not self._outage.may_send() or not self._is_answering(attempts):
            return Idle.OUTAGE
        return None

    def _wait_for_refunds(self, refusal: RunStopped) -> Idle:
        """What is in flight may yet be refused or fail, and its reservation is refunded."""
        if len(self._running) > self._runner.fetching or self._waiting.is_running_elsewhere:
            self._waiting.is_out_of_funds = True
            return Idle.BUDGET
        self._context.stop.request(refusal, grace=None)
        return Idle.STOPPED

    def _is_in_quota(self, attempts: asyncio.TaskGroup) -> bool:
        """Whether the manifest's rate allows one more create; if not, `_wake` is set when it does."""
        if self._quota is None:
            return True
        if self._context.clock() - self._turn_at > _TURN_SECONDS:
            self._quota_wait = None
        if self._quota_wait is None:
            self._turn_at = math.inf
            self._quota_wait = attempts.create_task(self._quota.acquire())
            self._quota_wait.add_done_callback(self._take_turn)
        return self._quota_wait.done()

    def _take_turn(self, _: object) -> None:
        self._turn_at = self._context.clock()
        self._wake.set()

    def _is_answering(self, attempts: asyncio.TaskGroup) -> bool:
        """Whether a create is worth a try: during an outage, a probe that costs nothing is answered first."""
        if not self._outage.is_on:
            return True
        if self._probe is None or (self._probe.done() and not self._probe.result()):
            self._probe = attempts.create_task(self._is_probe_answered())
            self._probe.add_done_callback(lambda _: self._wake.set())
        return self._probe.done()

    async def _is_probe_answered(self) -> bool:
        """Whether the account answers at all; whatever it says is an answer."""
        try:
            await answer_within(_PROBE_SECONDS, self._provider.probe())
        except (NotSent, Unclear) as error:
            self._outage.probe_failed(error)
            self._limits.unclear(error)
            return False
        except (BatchgenError, NotImplementedError):
            pass
        return True

    async def _wait_for_change(self, why: Idle) -> None:
        """Wait for a free slot, the end of an attempt, a time, or the stop.

        A time that has passed since it was looked at is not waited for: nothing else might set `_wake`, ever.
        """
        times = [self._waiting.next_in(), self._outage.gives_up_in()]
        if why is Idle.RATE and (self._quota_wait is None or self._quota_wait.done()):
            times.append(self._limits.closed_for())
        timeout = min((seconds for seconds in times if seconds is not None), default=None)
        try:
            async with asyncio.timeout(None if timeout is None else max(0.0, timeout)):
                await self._wake.wait()
        except TimeoutError:
            return

    # --- what is in flight --------------------------------------------------------------------------------

    def _spawn(self, attempts: asyncio.TaskGroup, attempt: Attempt, permit: SlotPermit, status: Status) -> None:
        task = attempts.create_task(self._runner.run(attempt, permit, status))
        self._running[task] = attempt.external_id
        task.add_done_callback(self._ended)
        self._update_counters()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._wake.set()
        if self.stop.is_asked:
            self._release_refused()
        self._update_counters()

    def _release_refused(self) -> None:
        """Free the jobs whose refusals this account will not explain any more, where another one may take them."""
        if self._pool is not None:
            self._outcomes.release_refused()

    async def _cancel_after_grace(self) -> None:
        """Wake the feeder when the stop is asked for; when its grace is over, leave the rest to the next run."""
        await self.stop.asked.wait()
        self._release_refused()
        if self._pool is not None and self.stop.reason is not self._context.stop.reason:
            self._context.notify(f"The account {self._account.name!r} makes no more jobs. {self.stop.reason}")
        self._wake.set()
        self._submitter.recovery.stop()
        await self.stop.grace_over()
        self._submitter.close()
        uncancellable = self._submitter.uncancellable
        if uncancellable and not self._submitter.recovery.can_find:
            self._context.notify(
                f"Waiting for the answers of {len(uncancellable):,} creates, at most"
                f" {self._account.request_timeout:g} s: the account {self._account.name!r} cannot be asked later what"
                " became of them."
            )
        while self._running:
            for task, external_id in self._running.items():
                if external_id not in uncancellable:
                    task.cancel()
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)

    def _defer_retry(self) -> None:
        """Money is spent at the manifest's own account only."""
        self._context.stats.defer(f"An attempt at the account {self._account.name!r} made nothing; run again.")

    async def on_callback(self, call: Mapping[str, Any], sent: OpenAttempt | None) -> None:
        """A callback's body, at the address of an attempt of this account, or of none.

        Where it says that a task has ended, the task is asked for soon; where the attempt has no task, that may be it.
        Raises RunStopped where the ledger's disk refuses.
        """
        task = self._provider.parse_callback(call)
        if task is None or not task.id:
            return
        self.calls_understood += 1
        if task.state is not TaskState.RUNNING:
            self._poller.on_callback(task.id)
        called = self._submitter.called
        if sent is None or not await called.note(sent, task.id):
            return
        latest = self._context.reader.attempt_of(sent.job.id)
        if latest.attempt != sent.attempt:
            return
        if latest.status is Status.PENDING:
            self._waiting.keep(sent.job.id)
        elif latest.status is Status.UNKNOWN and sent.external_id not in {*self._running.values(), *self._called}:
            attempt = Attempt.resumed(sent, self._context.address_of(self._account))
            is_earlier = sent.intended_at < called.began_ms
            self._called[sent.external_id] = replace(attempt, called=True, earlier=is_earlier)
            self._wake.set()

    @property
    def finds_by_callback(self) -> bool:
        """Whether a callback can find a task whose create had no answer."""
        return self._submitter.called.may_come

    def _query_failed(self, error: BatchgenError) -> None:
        """A query failed: it is free to repeat, but an account that never answers is stopped."""
        reason = error if isinstance(error, AccountStopped) else self._query_backoff.refused(error)
        if reason is not None:
            self.stop.request(reason, grace=self._context.policy.grace)

    def _update_counters(self) -> None:
        counters = self._context.counters
        if self._owns_limits:
            in_use, units = self._counted
            self._counted = (self._limits.in_use, self._limits.units)
            counters.slots_in_use += self._limits.in_use - in_use
            counters.slots += self._limits.units - units
        counters.waiting = len(self._waiting)
        if self._starts_new:
            counters.task_seconds = self._poller.task_seconds()
