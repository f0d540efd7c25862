"""A lane: everything of one account. Its slots are kept full; each attempt is carried by one asyncio task.

There are never more of those tasks than the account has slots, plus those whose images are being fetched.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from batchgen.durations import duration
from batchgen.engine.backoff import Gate
from batchgen.engine.limits import AccountLimits
from batchgen.engine.poller import TaskPoller
from batchgen.engine.rate import quota
from batchgen.engine.runner import AttemptRunner
from batchgen.engine.timings import Idle
from batchgen.errors import AccountStopped, BatchgenError, NotSent, RunStopped, Throttled, Unclear
from batchgen.jobs import Status
from batchgen.money import micros
from batchgen.providers.base import TaskState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchgen.engine.attempt import Work
    from batchgen.engine.context import Context
    from batchgen.engine.limits import SlotPermit
    from batchgen.providers.base import Task
    from batchgen.providers.validated import ValidatedProvider

_LOOK_AHEAD = 32  # waiting works among which a smaller one may be chosen
_FREE_QUESTION_SECONDS = 15.0
_SAID_AFTER = 3  # answers with a status that is not known
_FETCH_BACKLOG = 500  # finished tasks that may wait for their download before nothing more is begun


class AccountScheduler:
    """One account's work in one run."""

    def __init__(self, context: Context, provider: ValidatedProvider, *, begins: bool) -> None:
        """`begins`: the manifest's own account. Another one only finishes what it owes us, and ends by itself."""
        self._context = context
        self._begins = begins
        self.stop = context.stop if begins else context.stop.child()
        self._provider = provider
        self._account = provider.account
        self._wake = asyncio.Event()
        self._flow = AccountLimits(
            provider.account,
            clock=context.clock,
            chance=context.chance,
            give_up_after=context.rules.give_up_after,
            can_ask=provider.can_find or provider.can_list,
            say=context.say,
            freed=self._wake.set,
        )
        self._outage = self._flow.outage
        self._quota = quota(provider.account.creates_per_minute)
        self._paced: asyncio.Task[None] | None = None  # waits for the quota, or has waited
        self._asking = Gate(context.clock, context.chance, context.rules.give_up_after)
        self._poller = TaskPoller(
            provider,
            clock=context.clock,
            wall=context.wall,
            rng=context.chance,
            on_trouble=self._asking_failed,
            on_answer=self._asking.served,
            jobs_wait=lambda: bool(self._waiting),
        )
        self._poller.on_status = self._note_status
        self._life = AttemptRunner(
            context,
            provider,
            flow=self._flow,
            poller=self._poller,
            stop=self.stop,
            later=self._put_back,
            changed=self._wake.set,
        )
        self._unknown_statuses: Counter[str] = Counter()
        self._freely_asked: asyncio.Task[bool] | None = None  # whether the account answers, during an outage
        self._waiting: list[Work] = []
        self._is_out_of_funds = False  # the next job waits for what others may give back
        self._later: list[tuple[float, int, Work]] = []  # a heap, by the time from which they may go
        self._put = 0
        self._lives: set[asyncio.Task[None]] = set()

    async def run(self, begun: Sequence[tuple[Work, Status]], source: Iterator[Work | None]) -> None:
        """Take up what was begun, then begin what `source` gives, until all has ended or the lane is stopped.

        `source` gives None where it has looked at a good many jobs and found none to begin.
        """
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(self._poller.run()), group.create_task(self._curfew())]
            async with asyncio.TaskGroup() as lives:
                for work, status in begun:
                    self._spawn(lives, work, self._flow.hold(work.units), status)
                try:
                    await self._feed(lives, source)
                except RunStopped as reason:  # the ledger cannot be read: what is in flight has its grace
                    self._context.stop.request(reason, grace=self._context.rules.grace)
                finally:
                    self._end_feeding()
            for loop in loops:
                loop.cancel()
        self._context.stats.slot_times[self._account.name] = self._flow.time
        if self.stop.reason is not None and not self._context.stop.is_asked:
            name = self._account.name
            self._context.stats.leave(f"Tasks begun at the account {name!r} wait for it: {self.stop.reason}")

    async def _feed(self, lives: asyncio.TaskGroup, source: Iterator[Work | None]) -> None:
        while not self.stop.is_asked:
            self._wake.clear()
            if (reason := self._outage.reason_to_stop()) is not None:
                self.stop.request(reason, grace=self._context.rules.grace)
                break
            await self._carry_out_verdicts()
            if self._fill(source):
                await asyncio.sleep(0)  # a long stretch of jobs that are there: let the others act
                continue
            if not self._waiting and not self._later:
                if self._life.ends.verdicts.wait and not (self._outage.is_creating or self._life.creates.undecided):
                    self._decide_the_rest()
                    continue
                if not self._lives:
                    return
            self._call_doubts_last()
            if (why := self._begin_next(lives)) is not None:
                self._flow.time.idle(why)
                await self._something_changes(why)

    def _end_feeding(self) -> None:
        self._flow.time.idle(Idle.STOPPED)
        for waited in (self._paced, self._freely_asked):
            if waited is not None:
                waited.cancel()

    async def _carry_out_verdicts(self) -> None:
        try:
            for suspended in self._life.ends.verdicts.take():
                await self._life.ends.conclude(suspended)
        except RunStopped as reason:
            self._context.stop.request(reason, grace=self._context.rules.grace)

    def _decide_the_rest(self) -> None:
        """Nothing more will be created that could show whose fault the last refusals were."""
        context = self._context
        is_known = bool(self._outage.accepted) or context.reader.has_accepted(
            self._account.name, context.address_of(self._account)
        )
        reason = self._life.ends.verdicts.nothing_else_to_do(
            is_account_in_trouble=self._outage.is_account_in_trouble, is_known_to_accept=is_known
        )
        if reason is not None:
            self.stop.request(reason, grace=None)

    def _fill(self, source: Iterator[Work | None]) -> bool:
        """Those that may go again go first, then come new ones, in the manifest's order. Whether to look on."""
        while self._later and self._later[0][0] <= self._context.clock():
            self._waiting.insert(0, heapq.heappop(self._later)[-1])
        while len(self._waiting) < _LOOK_AHEAD:
            try:
                work = next(source)
            except StopIteration:
                if not self._waiting:  # what is to come behind all others
                    while self._later and self._later[0][0] == math.inf:
                        self._waiting.append(heapq.heappop(self._later)[-1])
                return False
            if work is None:
                return not self._waiting
            self._waiting.append(work)
        return False

    def _begin_next(self, lives: asyncio.TaskGroup) -> Idle | None:
        """Begin one work, if gate, slots, budget and rate let us; else why not."""
        if not self._waiting:
            return Idle.NO_JOB
        if (why := self._held_back(lives)) is not None:
            return why
        chosen = self._flow.choose(self._waiting)
        if chosen is None:
            return Idle.SIZE
        work, hold = chosen
        budget = self._context.budget
        price = micros(self._account.prices.of_task(work.job.parameters))
        if (refusal := budget.refusal(work.units, price)) is not None:
            hold.give()
            self._wake.clear()  # which that set: these slots were not in use
            return self._short_of_funds(work, refusal)
        self._is_out_of_funds = False
        self._paced = None
        budget.reserve(work.units, price)
        self._flow.sent(hold)
        self._freely_asked = None
        self._outage.sent(work.external_id)
        self._spawn(lives, work, hold, Status.PENDING)
        return None

    def _call_doubts_last(self) -> None:
        """Where nothing goes on but questions that wait for what others bring, none will bring it."""
        recovery = self._life.creates.recovery
        may_go_on = (self._waiting and not self._is_out_of_funds) or self._later
        if may_go_on or len(self._lives) > recovery.waiting:
            recovery.keep_waiting()
        else:
            recovery.decide_now(only_one=self._context.rules.resend_unknown)

    def _held_back(self, lives: asyncio.TaskGroup) -> Idle | None:
        """Why no work at all may begin now, if so."""
        if self._life.fetching >= _FETCH_BACKLOG or self._life.is_starved:
            return Idle.FETCHING
        if self._flow.closed_for() > 0:
            return Idle.RATE
        if not self._outage.may_send() or not self._answers(lives):
            return Idle.OUTAGE
        return None if self._in_quota(lives) else Idle.RATE

    def _short_of_funds(self, work: Work, refusal: RunStopped) -> Idle:
        """What is in flight may yet be refused or fail, and then gives back what is reserved for it."""
        if len(self._lives) > self._life.fetching:
            self._is_out_of_funds = True
            self._waiting.insert(0, work)
            return Idle.BUDGET
        self.stop.request(refusal, grace=None)
        return Idle.STOPPED

    def _in_quota(self, lives: asyncio.TaskGroup) -> bool:
        """Whether the manifest's rate allows one more create; if not, it is waited for, and the feeder is woken."""
        if self._quota is None:
            return True
        if self._paced is None:
            self._paced = lives.create_task(self._quota.acquire())
            self._paced.add_done_callback(lambda _: self._wake.set())
        return self._paced.done()

    def _answers(self, lives: asyncio.TaskGroup) -> bool:
        """Whether a create is worth a try: during an outage, a question that costs nothing is answered first."""
        if not self._outage.is_on:
            return True
        if self._freely_asked is None or (self._freely_asked.done() and not self._freely_asked.result()):
            self._freely_asked = lives.create_task(self._ask_freely())
            self._freely_asked.add_done_callback(lambda _: self._wake.set())
        return self._freely_asked.done()

    async def _ask_freely(self) -> bool:
        """Whether the account answers at all; whatever it says is an answer."""
        try:
            async with asyncio.timeout(_FREE_QUESTION_SECONDS):
                await self._provider.probe()
        except (NotSent, Unclear) as error:
            return self._no_answer(error)
        except TimeoutError:
            return self._no_answer(Unclear(f"The account {self._account.name!r} does not answer."))
        except (BatchgenError, NotImplementedError):
            return True
        return True

    def _no_answer(self, error: BatchgenError) -> bool:
        self._outage.still(error)
        self._flow.unclear(error)
        return False

    async def _something_changes(self, why: Idle) -> None:
        """Wait for a free slot, an ended life, a time that comes, or the stop.

        A time that has come since the feeder looked is not waited for: nothing else might wake it, ever.
        """
        times = []
        if why is Idle.RATE and (self._paced is None or self._paced.done()):
            times.append(self._flow.closed_for())
        if self._later and self._later[0][0] < math.inf:
            times.append(self._later[0][0] - self._context.clock())
        if (seconds := self._outage.gives_up_in()) is not None:
            times.append(seconds)
        try:
            async with asyncio.timeout(max(0.0, min(times)) if times else None):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _curfew(self) -> None:
        """Wake the feeder when the stop is asked for; when its grace is over, leave the rest to the next run."""
        await self.stop.asked.wait()
        self._wake.set()
        self._life.creates.recovery.stop()
        await self.stop.grace_over()
        self._say_who_is_waited_for()
        while self._lives:
            # A create that nobody could be asked about is let come to its answer, which may hold the images.
            for life in self._lives - self._life.creates.unaskable:
                life.cancel()
            await asyncio.wait(self._lives, return_when=asyncio.FIRST_COMPLETED)

    def _say_who_is_waited_for(self) -> None:
        if waiting := len(self._lives & self._life.creates.unaskable):
            self._context.say(
                f"{waiting:,} tasks are still waited for, at most {self._account.request_timeout:g} s: the account"
                f" {self._account.name!r} tells what became of a task only in its answer."
            )

    def _spawn(self, lives: asyncio.TaskGroup, work: Work, hold: SlotPermit, status: Status) -> None:
        task = lives.create_task(self._life.live(work, hold, status))
        self._lives.add(task)
        task.add_done_callback(self._ended)
        self._show()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._lives.discard(task)
        self._wake.set()
        self._show()

    def _put_back(self, work: Work, seconds: float) -> None:
        if not self._begins:  # money is spent at the manifest's own account only
            self._context.stats.leave(f"An attempt at the account {self._account.name!r} made nothing; run again.")
            return
        self._put += 1
        heapq.heappush(self._later, (self._context.clock() + seconds, self._put, work))
        self._wake.set()

    def on_callback(self, body: Mapping[str, Any]) -> None:
        """Query a task soon where a callback's body says that it has ended."""
        task = self._provider.parse_callback(body)
        if task is not None and task.state is not TaskState.RUNNING:
            self._poller.on_callback(task.id)

    def _asking_failed(self, error: BatchgenError) -> None:
        """A query met trouble: free to repeat, but an account that never answers ends the lane."""
        grace = self._context.rules.grace
        if isinstance(error, AccountStopped):
            self.stop.request(error, grace=grace)
            return
        retry_after = error.retry_after if isinstance(error, Throttled) else None
        if (reason := self._asking.refused(error, retry_after=retry_after)) is not None:
            self.stop.request(reason, grace=grace)

    def _note_status(self, task: Task) -> None:
        """Say it once when a task keeps a status that nobody knows: it may never end."""
        if not (status := task.unknown_status):
            return
        self._unknown_statuses[status] += 1
        if self._unknown_statuses[status] == _SAID_AFTER:
            limit = self._context.rules.task_timeout
            until = "without end" if limit is None else f"for at most {duration(limit)} (run.task_timeout)"
            self._context.say(
                f"The gateway says {status!r} of the task {task.id}, a status that batchgen does not know: it is asked"
                f" again, {until}."
            )

    def _show(self) -> None:
        counters = self._context.counters
        counters.slots_in_use = self._flow.slots.in_use
        counters.slots = self._flow.slots.units
        counters.waiting = len(self._waiting) + len(self._later)
        if self._begins:
            counters.task_seconds = self._poller.task_seconds()
