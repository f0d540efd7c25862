"""A scheduler by itself: whatever the moment at which time passes, it goes on until all has ended."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import count

import pytest
from jobs_for_tests import job

from batchgen.budget import Budget, BudgetLimits
from batchgen.catalog.accounts import Capability
from batchgen.catalog.load import builtin
from batchgen.engine.attempt import Attempt
from batchgen.engine.context import Context, RunPolicy
from batchgen.engine.counters import Counters
from batchgen.engine.scheduler import AccountScheduler
from batchgen.engine.shutdown import Stop
from batchgen.errors import JobRefused, JobRejected, NotSent, RefusedOrTaken, RunStopped, TaskNotFound, Unclear
from batchgen.ledger.events import Ended, Intent, NotMade
from batchgen.ledger.records import Spent
from batchgen.ledger.store import Ledger
from batchgen.ledger.writer import Writer
from batchgen.providers.base import Provider, Task, TaskState

RULES = RunPolicy(max_attempts=3, task_timeout=None, resend_unknown=False, give_up_after=600.0, grace=1.0)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    for name in ("KAPON_API_KEY", "ANYAPI_API_KEY"):
        monkeypatch.setenv(name, "a-key-for-tests")


class Clock:
    """Goes as it should, but for a leap right before one of the looks at it."""

    def __init__(self) -> None:
        self.looks = count()
        self.leaps_at = -1
        self.leapt = 0.0

    def __call__(self) -> float:
        if next(self.looks) == self.leaps_at:
            self.leapt = 5.0
        return time.monotonic() + self.leapt


class Refusing(Provider):
    """Refuses the first create for now, and the second for good."""

    def __init__(self, clock: Clock, leap: int) -> None:
        self.account = builtin().accounts["kapon"]
        self.creates = 0
        self._clock, self._leap = clock, leap

    async def create(self, *_asked):
        self.creates += 1
        if self.creates > 1:
            raise JobRejected("no")
        self._clock.looks, self._clock.leaps_at = count(), self._leap
        raise NotSent("not reached")

    async def query(self, *_asked):
        raise TaskNotFound("there is no task")


@pytest.mark.parametrize("leap", range(12))
async def test_a_time_that_comes_between_two_looks_at_the_clock_is_not_slept_through(tmp_path, leap):
    clock = Clock()
    provider = Refusing(clock, leap)
    async with asyncio.timeout(10):
        await one_job(tmp_path, provider, clock=clock)
    assert provider.creates == 2


def nothing_spent(kind: type[Budget]) -> Budget:
    return kind(Spent(images=0, cost=0, unpriced=0), BudgetLimits())


async def one_job(
    folder, provider: Provider, *jobs, writer_class: type[Writer] = Writer, **more
) -> list[tuple[str, str]]:
    """A scheduler carries one job (or these) to the end of the run; its status then, and why."""
    ledger = Ledger.open(folder / "state.sqlite3")
    async with writer_class(ledger) as writer:
        usual = {"policy": RULES, "budget": nothing_spent(Budget), "counters": Counters(), "notify": print}
        context = Context(recorder=writer, storage=None, reader=ledger, **usual | more)
        await AccountScheduler(context, provider, starts_new=True).run(
            [], iter([Attempt.of(each, 0, 0) for each in jobs or (job(),)])
        )
    stands = ledger.db.execute("SELECT status, message FROM job").fetchall()
    ledger.close()
    return stands


class Silent(Provider):
    """Refuses a create's parameters, of which our own id is one, and answers no question."""

    def __init__(self) -> None:
        self.account = builtin().accounts["kapon"]

    async def create(self, *_asked):
        raise RefusedOrTaken("The gateway answered HTTP 400 1201 to the create.", code="1201")

    async def query(self, *_asked):
        raise Unclear("The gateway answered HTTP 500.")

    async def page(self, *_asked):
        raise Unclear("The gateway answered HTTP 500.")


async def test_a_refusal_that_may_mean_a_known_id_is_in_doubt_until_the_account_can_be_asked(tmp_path):
    async def no_time(_seconds):
        await asyncio.sleep(0)

    ((status, message),) = await one_job(tmp_path, Silent(), sleep=no_time)
    assert status == "unknown"
    assert "1201" in message


class Unqueryable(Provider):
    """Cannot be asked what became of a create."""

    def __init__(self) -> None:
        self.account = builtin().accounts["anyapi"]
        self.creates = 0

    async def query(self, *_asked):
        raise TaskNotFound("there is no task")

    async def create(self, *_asked):
        self.creates += 1
        raise Unclear("The answer was lost.")


async def test_a_run_that_ends_while_an_intent_is_recorded_sends_no_create_and_holds_no_job_unknown(tmp_path):
    is_recorded, may_continue = asyncio.Event(), asyncio.Event()

    class SlowDisk(Writer):
        async def record(self, *events, after_commit=None):
            await super().record(*events, after_commit=after_commit)
            if isinstance(events[0], Intent):
                is_recorded.set()
                await may_continue.wait()

    async def interrupted():
        await is_recorded.wait()
        stop.request(RunStopped("Interrupted."), grace=0.0)
        await asyncio.sleep(0.1)  # more than the grace: whatever may be cancelled has been
        may_continue.set()

    stop, provider = Stop(), Unqueryable()
    assert not provider.can_find
    assert not provider.can_list
    async with asyncio.TaskGroup() as group:
        group.create_task(interrupted())
        stands = await one_job(tmp_path, provider, writer_class=SlowDisk, stop=stop)
    assert provider.creates == 0
    assert [status for status, _ in stands] == ["pending"]


async def test_what_was_about_to_start_when_a_stop_came_is_not_begun_and_costs_nothing(tmp_path):
    stop, provider = Stop(), Unqueryable()

    class LastMoment(Budget):
        def reserve(self, *price):
            super().reserve(*price)
            stop.request(RunStopped("The deadline has passed."), grace=1.0)

    budget = nothing_spent(LastMoment)
    assert await one_job(tmp_path, provider, budget=budget, stop=stop) == []
    assert (provider.creates, budget.images) == (0, 0)


class RefusedAndAccepted(Provider):
    """Refuses "early" and "late", and accepts "last": while it is asked whether "late" has a task after all."""

    def __init__(self) -> None:
        kapon = builtin().accounts["kapon"]
        self.account = replace(kapon, lists_tasks=Capability.NO, lookup_by_external_id=Capability.YES)
        self.is_asked, self.may_say = asyncio.Event(), asyncio.Event()

    async def create(self, asked, external_id):
        if asked.prompt == "last":
            await self.is_asked.wait()
            return Task(id="T", state=TaskState.RUNNING, external_id=external_id)
        raise JobRefused("The gateway answered HTTP 400 to the create.", code="no")

    async def find(self, external_id):
        if job("late").id in external_id:
            self.is_asked.set()
            await self.may_say.wait()
        raise TaskNotFound("there is no task")

    async def query(self, *_asked):
        return Task(id="T", state=TaskState.REJECTED)


async def test_a_refusal_that_is_decided_while_another_is_recorded_is_carried_out_too(tmp_path):
    provider, recorded = RefusedAndAccepted(), set()
    all_answered = asyncio.Event()

    class SlowDisk(Writer):
        async def record(self, *events, after_commit=None):
            await super().record(*events, after_commit=after_commit)
            recorded.update((type(each), each.job_id) for each in events if isinstance(each, Ended | NotMade))
            if (Ended, early.id) in recorded:
                provider.may_say.set()
                if {(NotMade, late.id), (Ended, last.id)} <= recorded:
                    all_answered.set()
                if events[0].job_id == early.id:
                    await all_answered.wait()
                    await asyncio.sleep(0.05)  # the attempts end, too

    async def no_time(_seconds):
        await asyncio.sleep(0)

    early, late, last = (job(prompt=text) for text in ("early", "late", "last"))
    async with asyncio.timeout(20):
        stands = await one_job(tmp_path, provider, early, late, last, writer_class=SlowDisk, sleep=no_time)
    assert sorted(status for status, _ in stands) == ["failed", "failed", "rejected"]
