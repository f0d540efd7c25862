"""A lane by itself: whatever the moment at which time passes, it goes on until all has ended."""

from __future__ import annotations

import asyncio
import time
from itertools import count

import pytest
from jobs_for_tests import job

from batchgen.catalog.catalog import builtin
from batchgen.engine.attempt import Work
from batchgen.engine.budget import Budget, Limits
from batchgen.engine.context import Context, Rules
from batchgen.engine.counters import Counters
from batchgen.engine.scheduler import AccountScheduler
from batchgen.errors import JobRejected, NotSent, RefusedOrTaken, TaskNotFound, Unclear
from batchgen.ledger.reader import Spent
from batchgen.ledger.store import Ledger
from batchgen.ledger.writer import Writer
from batchgen.providers.base import Provider
from batchgen.storage.tree import Tree

RULES = Rules(max_attempts=3, task_timeout=None, resend_unknown=False, give_up_after=600.0, grace=1.0)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("KAPON_API_KEY", "a-key-for-tests")


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


async def one_job(folder, provider: Provider, **more) -> list[tuple[str, str]]:
    """A lane carries one job to the end of the run; how it then stands, and why."""
    ledger = Ledger.open(folder / "state.sqlite3")
    async with Writer(ledger) as writer:
        context = Context(
            writer=writer,
            reader=ledger,
            tree=Tree(folder),
            template=None,
            client=None,
            downloader=None,
            rules=RULES,
            budget=Budget(Spent(images=0, cost=0, unpriced=0), Limits()),
            counters=Counters(),
            downloads=asyncio.Semaphore(1),
            writes=asyncio.Semaphore(1),
            say=print,
            **more,
        )
        await AccountScheduler(context, provider, begins=True).run([], iter([Work.of(job(), 0, 0)]))
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
