"""The engine's rules as arithmetic: slots, rates, back-off, budgets. No test waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from statistics import mean
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs_for_tests import job

from batchgen.budget import Budget, BudgetLimits
from batchgen.catalog.load import builtin
from batchgen.engine.attempt import Attempt
from batchgen.engine.limits import MAX_PASSES, AccountLimits, CreateRate, SlotPermit, max_units, quota
from batchgen.engine.retry import LONGEST_SECONDS, Backoff, backoff
from batchgen.engine.running import Latencies
from batchgen.engine.shutdown import Stop
from batchgen.engine.timings import Phase
from batchgen.errors import NotSent, RunStopped, TooFast, TooManyRunning
from batchgen.ledger.records import Spent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def attempt(units: int) -> Attempt:
    return Attempt.of(job(f"{units}", n=units), 0, 0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(times=st.integers(1, 200), seed=st.integers())
def test_backoff_is_at_least_a_second_and_never_endless(times, seed):
    assert 1.0 <= backoff(times, Random(seed)) <= LONGEST_SECONDS


def test_backoff_grows_and_honours_what_the_gateway_asks():
    middle = [sum(backoff(n, Random(seed)) for seed in range(50)) / 50 for n in range(1, 8)]
    assert middle == sorted(middle)
    assert backoff(1, Random(1), asked=30) == 30


def test_a_service_that_became_faster_is_found_out():
    known = Latencies()
    for _ in range(64):
        known.learn("kind", 58.0, 60.0)
    queries = 0
    while known.median("kind") > 6.0 and queries < 1000:
        queries += 1
        known.learn("kind", 0.0, max(5.0, 0.64 * known.median("kind")))
    assert queries < 600


def test_a_kind_that_was_not_seen_is_taken_to_be_as_the_others():
    known = Latencies()
    assert known.median("other") is None
    assert known.mean is None
    known.learn("kind", 10.0, 10.0)
    known.learn("kind", 20.0, 20.0)
    assert known.median("other") == known.mean == pytest.approx(15.0)


def limits_of(*, clock: Callable[[], float] | None = None, **account: object) -> AccountLimits:
    return AccountLimits(
        context_of(clock or Clock()),
        replace(builtin().accounts["kapon"], **account),
        can_ask=True,
        wake=asyncio.Event(),
    )


def context_of(clock: Callable[[], float], give_up_after: float = 600.0) -> SimpleNamespace:
    policy = SimpleNamespace(give_up_after=give_up_after)
    return SimpleNamespace(clock=clock, rng=Random(1), policy=policy, notify=print)


def send(limits: AccountLimits, waiting: list[Attempt]) -> SlotPermit | None:
    """Send the next one out of `waiting`, if one may be sent."""
    if (position := limits.choose(waiting)) is None:
        return None
    return limits.acquire(waiting.pop(position).units, passes=position > 0)


def test_smaller_tasks_pass_a_larger_one_a_bounded_number_of_times():
    limits = limits_of(concurrency=9)
    limits.resume(4)
    waiting = [attempt(9), *[attempt(1) for _ in range(MAX_PASSES + 5)]]
    passed = 0
    while (permit := send(limits, waiting)) is not None:
        passed += 1
        permit.release()
    assert passed == MAX_PASSES
    assert len(waiting) == 6
    assert send(limits_of(concurrency=9), waiting).units == 9


def test_order_is_kept_where_everything_fits():
    waiting = [attempt(3), attempt(1), attempt(2)]
    limits = limits_of(concurrency=9)
    assert [send(limits, waiting).units for _ in range(3)] == [3, 1, 2]


def test_slots_count_units_and_wake_who_waits():
    limits = limits_of(concurrency=9)
    limits.resume(4)
    permit = limits.resume(9)  # a task of an earlier run
    assert limits.choose([attempt(1)]) is None
    assert not limits.wake.is_set()
    permit.release()
    permit.release()
    assert limits.wake.is_set()
    assert limits.in_use == 4
    assert send(limits, [attempt(5)]).units == 5


@pytest.mark.parametrize("rate", [0.5, 1, 2, 3, 60, 600, 6000])
def test_the_worst_minute_never_sees_more_than_the_rate(rate):
    limiter = quota(rate)
    burst = limiter.max_rate
    assert burst + 60 * burst / limiter.time_period <= max(rate, 1) * 1.0001 + (burst if rate <= 2 else 0)


class Gateway:
    """An account that runs so many units at a time, and refuses a share of all creates for reasons of its own."""

    def __init__(self, limits: AccountLimits, clock: Clock, units: int, *, noise: float = 0.0, seed: int = 1) -> None:
        self.limits = limits
        self.clock = clock
        self.units = units
        self.running: list[SlotPermit] = []
        self.refused = 0
        self.is_busy = True
        self._noise = noise
        self._rng = Random(seed)

    def creates(self, number: int, *, task: int = 1, seconds: float = 0.05) -> Iterator[int]:
        """So many creates, each after a while; gives the units that run. Where none may be sent, a task ends."""
        for _ in range(number):
            self.clock.now += seconds + self.limits.closed_for()
            while (permit := send(self.limits, [attempt(task)])) is None:
                self.running.pop(0).release()
            if self.is_busy:
                self.limits.choose([attempt(task)])  # the next one waits while this create is in flight
            held = sum(running.units for running in self.running)
            if held + task > self.units or self._rng.random() < self._noise:
                self.refused += 1
                self.limits.refused(permit, TooManyRunning("1303"))
            else:
                self.limits.accepted(permit)
                permit.enter(Phase.RUNNING)
                self.running.append(permit)
            yield sum(running.units for running in self.running)

    def make(self, number: int, **how: Any) -> float:
        """The same at once; returns the units that ran on average."""
        return mean(self.creates(number, **how))


def gateway_with(units: int, *, concurrency: int, seeks: bool = False, **how: Any) -> Gateway:
    clock = Clock()
    limits = limits_of(clock=clock, concurrency=concurrency, adaptive_concurrency=seeks)
    return Gateway(limits, clock, units, **how)


def test_a_limit_that_is_true_is_never_exceeded():
    gateway = gateway_with(24, concurrency=24)
    gateway.make(5000)
    assert (gateway.refused, gateway.limits.units) == (0, 24)
    gateway.units = 100
    gateway.make(5000)
    assert (gateway.refused, gateway.limits.in_use) == (0, 24)


@pytest.mark.parametrize("task", [1, 4])
def test_a_limit_that_is_too_high_is_found_out_and_seldom_tried_again(task):
    gateway = gateway_with(24, concurrency=100)
    gateway.make(200, task=task)
    gateway.refused = 0
    assert gateway.make(5000, task=task) >= 0.95 * 24
    assert gateway.refused < 0.01 * 5000


def test_a_limit_that_nobody_stated_is_found_from_below():
    gateway = gateway_with(24, concurrency=9, seeks=True)
    assert max(gateway.creates(40)) == 24
    assert gateway.refused <= 2
    gateway.refused = 0
    assert gateway.make(5000) >= 0.95 * 24
    assert gateway.refused < 0.01 * 5000


def test_the_search_for_a_limit_does_not_leap_after_a_pause():
    gateway = gateway_with(24, concurrency=9, seeks=True)
    gateway.make(9)
    gateway.make(1, seconds=300.0)
    assert gateway.limits.units < 18


def test_the_search_for_a_limit_has_a_bound():
    gateway = gateway_with(10**6, concurrency=9, seeks=True)
    assert max(gateway.creates(2000)) == max_units(builtin().accounts["kapon"]) == 200
    assert gateway.refused == 0


def test_units_that_somebody_else_held_for_a_while_are_used_again():
    gateway = gateway_with(5, concurrency=24)
    gateway.make(200)
    assert gateway.limits.units == 5
    gateway.units = 24
    gateway.make(400)
    assert gateway.limits.units == 24


def test_a_limit_that_is_not_reached_does_not_grow():
    gateway = gateway_with(5, concurrency=24)
    gateway.make(200)
    gateway.is_busy = False
    for _ in gateway.creates(400):
        gateway.running.pop().release()
    assert gateway.limits.units <= 6


def test_a_slow_account_is_tried_again_after_a_time():
    gateway = gateway_with(3, concurrency=9)
    gateway.make(20, seconds=60.0)
    gateway.units = 9
    gateway.make(30, seconds=60.0)
    assert gateway.limits.units == 9


@pytest.mark.parametrize("units", [9, 24, 100])
@pytest.mark.parametrize("share", [0.02, 0.04, 0.06])
def test_an_account_that_refuses_some_tasks_whatever_runs_keeps_its_units(units, share):
    for seed in range(3):
        assert gateway_with(units, concurrency=units, noise=share, seed=seed).make(3000) > 0.8 * units


def slowed_down(share: float, seed: int) -> float:
    """How many times as long creates take that could go fifty times a second, where this share is refused by chance.

    After each refusal nothing is sent for a while, which is not counted.
    """
    clock, rng = Clock(), Random(seed)
    rate, waited = CreateRate(clock), 0.0
    for _ in range(2000):
        clock.now += max(rate.closed_for(), 0.02)
        sent = rate.sent()
        if rng.random() < share:
            rate.refused(sent)
            clock.now += 1.2
            waited += 1.2
        else:
            rate.accepted()
    return (clock.now - waited) / (2000 * 0.02)


@pytest.mark.parametrize("share", [0.01, 0.02, 0.04])
def test_an_account_that_says_too_fast_whatever_the_rate_does_not_slow_a_run_down_for_ever(share):
    times = [slowed_down(share, seed) for seed in range(8)]
    assert mean(times) < 2.5
    assert max(times) < 8


def creates_at(limit: float, rate: CreateRate, clock: Clock, seconds: float) -> tuple[int, int]:
    """Creates as fast as the rate allows, against an account that takes so many in each second."""
    taken: list[float] = []
    accepted = refused = 0
    end = clock.now + seconds
    while clock.now < end:
        clock.now += max(rate.closed_for(), 0.001)
        sent = rate.sent()
        taken = [time for time in taken if time > clock.now - 1.0]
        if len(taken) < limit:
            taken.append(clock.now)
            accepted += 1
            rate.accepted()
        else:
            refused += 1
            rate.refused(sent)
    return accepted, refused


@pytest.mark.parametrize("limit", [2, 10, 50])
def test_the_rate_that_an_account_takes_is_found_and_seldom_exceeded(limit):
    clock = Clock()
    rate = CreateRate(clock)
    assert rate.closed_for() == 0
    creates_at(limit, rate, clock, 60)
    accepted, refused = creates_at(limit, rate, clock, 600)
    assert accepted >= 0.75 * limit * 600
    assert refused <= 0.03 * accepted


def test_creates_that_were_in_flight_with_a_refused_one_slow_nothing_more():
    clock = Clock()
    rate = CreateRate(clock)
    sent = [rate.sent() for _ in range(50)]
    clock.now += 0.5
    rate.refused(sent[0])
    before = rate._limit.value
    for moment in sent[1:]:
        rate.refused(moment)
    assert rate._limit.value == before


def test_refusals_are_waited_after_ever_longer_until_a_success():
    clock = Clock()
    account = Backoff(context_of(clock, 1e9))
    waits = []
    for _ in range(5):
        assert account.refused(NotSent("no")) is None
        waits.append(account.closed_for())
        clock.now += account.closed_for()
    assert waits[-1] > waits[0]
    account.succeeded()
    account.refused(NotSent("no"))
    assert account.closed_for() <= 1.0


def test_refusals_during_a_wait_are_one_refusal():
    clock = Clock()
    account = Backoff(context_of(clock, 1e9))
    for _ in range(50):
        account.refused(NotSent("no"))
    assert account.closed_for() <= 1.0


def test_endless_refusal_ends_the_run_with_a_sentence():
    clock = Clock()
    account = Backoff(context_of(clock))
    assert account.refused(NotSent("the host cannot be reached.")) is None
    clock.now = 601
    reason = account.refused(NotSent("the host cannot be reached."))
    assert isinstance(reason, RunStopped)
    assert "10 min " in str(reason)
    assert "the host cannot be reached" in str(reason)


def test_a_budget_counts_what_is_in_flight():
    budget = Budget(Spent(images=8, cost=0, unpriced=0), BudgetLimits(images=10))
    assert budget.refusal(2, None) is None
    budget.reserve(2, None)
    assert budget.refusal(1, None) is not None
    budget.release(2, None)
    assert budget.refusal(2, None) is None


def test_a_bound_on_this_run_does_not_count_earlier_ones():
    budget = Budget(Spent(images=0, cost=90, unpriced=0), BudgetLimits(cost=100, run_cost=5))
    assert budget.refusal(1, 5) is None
    budget.reserve(1, 5)
    budget.charge(5, 4)
    assert budget.refusal(1, 1) is None
    assert "--max-cost" in str(budget.refusal(1, 2))


def test_a_wait_longer_than_give_up_after_is_not_started():
    account = Backoff(context_of(Clock()))
    assert "1790000000 s" in str(account.refused(TooFast("no.", retry_after=1790000000)))


async def test_every_account_learns_that_the_grace_is_over():
    stop = Stop()
    stops = [stop, stop.child(), stop.child()]
    stop.request(RunStopped("disk"), grace=0.0)
    for each in stops:
        await each.grace_over()


def test_another_account_stops_alone():
    stop = Stop()
    other = stop.child()
    other.request(RunStopped("that account is empty"), grace=None)
    assert not stop.is_asked


async def test_a_later_stop_can_only_shorten_the_grace():
    stop = Stop()
    stop.request(RunStopped("budget"), grace=None)
    stop.request(RunStopped("disk"), grace=0.0)
    await stop.grace_over()
    assert str(stop.reason) == "budget"
