"""The engine's rules as arithmetic: slots, turns, the gate, back-off, budgets. No test waits."""

from __future__ import annotations

from random import Random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs_for_tests import job

from batchgen.engine.attempt import Work
from batchgen.engine.backoff import Gate
from batchgen.engine.budget import Budget, Limits
from batchgen.engine.concurrency import MOST, AdaptiveConcurrency
from batchgen.engine.latency import Latencies
from batchgen.engine.rate import AdaptiveRate, quota
from batchgen.engine.retry import LONGEST_SECONDS, backoff, next_query
from batchgen.engine.shutdown import Stop
from batchgen.engine.slots import PASSES, FirstFit, Slots
from batchgen.errors import NotSent, RunStopped
from batchgen.ledger.reader import Spent


def work(units: int) -> Work:
    return Work.of(job(f"{units}", n=units), 0, 0)


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


@given(elapsed=st.floats(0, 1e6))
def test_a_task_of_which_nothing_is_known_is_asked_for_again_but_not_without_pause(elapsed):
    assert 0.25 <= next_query(elapsed) <= 15.0


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


def test_smaller_tasks_pass_a_larger_one_a_bounded_number_of_times():
    turn = FirstFit()
    waiting = [work(9), *[work(1) for _ in range(PASSES + 5)]]
    passed = 0
    while turn.choose(waiting, free=5) is not None:
        passed += 1
    assert passed == PASSES
    assert turn.choose(waiting, free=9).units == 9
    assert turn.choose(waiting, free=1).units == 1


def test_order_is_kept_where_everything_fits():
    waiting = [work(3), work(1), work(2)]
    turn = FirstFit()
    assert [turn.choose(waiting, free=9).units for _ in range(3)] == [3, 1, 2]


def test_slots_count_units_and_wake_who_waits():
    woken = []
    slots = Slots(AdaptiveConcurrency(9, seeks=False, clock=Clock()), lambda: woken.append(True))
    slots.take(4)
    slots.take(9)  # a task of an earlier run
    assert slots.free == 0
    slots.give(9)
    assert slots.free == 5
    assert woken == [True]


@pytest.mark.parametrize("rate", [0.5, 1, 2, 3, 60, 600, 6000])
def test_the_worst_minute_never_sees_more_than_the_rate(rate):
    limiter = quota(rate)
    burst = limiter.max_rate
    assert burst + 60 * burst / limiter.time_period <= max(rate, 1) * 1.0001 + (burst if rate <= 2 else 0)


def gateway_with(units: int, capacity: AdaptiveConcurrency, creates: int, *, task: int = 1) -> tuple[int, int]:
    """Creates against an account that runs so many units: how many were refused, and how many units are held.

    Each time all slots are full, the oldest task ends.
    """
    held = refused = 0
    for _ in range(creates):
        probe = False
        if held + task > capacity.units:
            probe = capacity.may_probe(held + task)
            if not probe:
                held -= task
        if held + task > units:
            refused += 1
            capacity.refused(held, probe=probe)
        else:
            held += task
            capacity.accepted(held, probe=probe)
    return refused, held


def test_a_limit_that_is_true_is_never_exceeded():
    capacity = AdaptiveConcurrency(24, seeks=False, clock=Clock())
    assert gateway_with(24, capacity, 5000) == (0, 24)
    assert gateway_with(100, capacity, 5000) == (0, 24)


@pytest.mark.parametrize("task", [1, 4])
def test_a_limit_that_is_too_high_is_found_out_and_seldom_tried_again(task):
    capacity = AdaptiveConcurrency(100, seeks=False, clock=Clock())
    gateway_with(24, capacity, 200, task=task)
    refused, held = gateway_with(24, capacity, 5000, task=task)
    assert held >= 24 - task
    assert refused < 0.01 * 5000


def test_a_limit_that_nobody_said_is_found_from_below():
    capacity = AdaptiveConcurrency(9, seeks=True, clock=Clock())
    assert gateway_with(24, capacity, 40)[0] <= 2
    assert capacity.units == 24
    refused, held = gateway_with(24, capacity, 5000)
    assert held == 24
    assert refused < 0.01 * 5000


def test_what_is_looked_for_has_a_bound():
    capacity = AdaptiveConcurrency(9, seeks=True, clock=Clock())
    assert gateway_with(10**6, capacity, 2000) == (0, MOST)


def test_units_that_somebody_else_held_for_a_while_are_taken_again():
    capacity = AdaptiveConcurrency(24, seeks=False, clock=Clock())
    gateway_with(5, capacity, 200)
    assert capacity.units == 5
    gateway_with(24, capacity, 400)
    assert capacity.units == 24


def test_a_slow_account_is_tried_again_after_a_time():
    clock = Clock()
    capacity = AdaptiveConcurrency(9, seeks=False, clock=clock)
    capacity.refused(3, probe=False)
    assert not capacity.may_probe(4)
    clock.now += 121
    assert capacity.may_probe(4)


@pytest.mark.parametrize("share", [0.02, 0.04, 0.06])
def test_an_account_that_refuses_some_tasks_whatever_runs_keeps_its_units(share):
    capacity, chance = AdaptiveConcurrency(100, seeks=False, clock=Clock()), Random(1)
    held, seen = 0, []
    for _ in range(5000):
        held -= int(held >= capacity.units)
        if chance.random() < share:
            capacity.refused(held, probe=False)
        else:
            held += 1
            capacity.accepted(held, probe=False)
        held -= int(chance.random() < 0.3)  # tasks end, so that refusals meet it less than full
        seen.append(capacity.units)
        if held >= capacity.units and capacity.may_probe(held + 1):
            held += 1
            capacity.accepted(held, probe=True)
    assert mean(seen) > 50


def slowed_down(share: float, seed: int) -> float:
    """How many times as long creates take that might go fifty times a second, where this share is refused by chance.

    After each refusal the gate is closed for a while, which is not counted.
    """
    clock, chance = Clock(), Random(seed)
    pace, closed = AdaptiveRate(clock), 0.0
    for _ in range(2000):
        clock.now += max(pace.closed_for(), 0.02)
        sent = pace.sent()
        if chance.random() < share:
            pace.refused(sent)
            clock.now += 1.2
            closed += 1.2
        else:
            pace.accepted()
    return (clock.now - closed) / (2000 * 0.02)


@pytest.mark.parametrize("share", [0.01, 0.02, 0.04])
def test_an_account_that_says_too_fast_whatever_the_rate_does_not_slow_a_run_down_for_ever(share):
    times = [slowed_down(share, seed) for seed in range(8)]
    assert mean(times) < 2.5
    assert max(times) < 8


def creates_at(limit: float, pace: AdaptiveRate, clock: Clock, seconds: float) -> tuple[int, int]:
    """Creates as fast as the pace lets them go, against an account that takes so many in each second."""
    taken: list[float] = []
    accepted = refused = 0
    end = clock.now + seconds
    while clock.now < end:
        clock.now += max(pace.closed_for(), 0.001)
        sent = pace.sent()
        taken = [time for time in taken if time > clock.now - 1.0]
        if len(taken) < limit:
            taken.append(clock.now)
            accepted += 1
            pace.accepted()
        else:
            refused += 1
            pace.refused(sent)
    return accepted, refused


@pytest.mark.parametrize("limit", [2, 10, 50])
def test_the_rate_that_an_account_takes_is_found_and_seldom_exceeded(limit):
    clock = Clock()
    pace = AdaptiveRate(clock)
    assert pace.closed_for() == 0
    creates_at(limit, pace, clock, 60)
    accepted, refused = creates_at(limit, pace, clock, 600)
    assert accepted >= 0.75 * limit * 600
    assert refused <= 0.03 * accepted


def test_creates_that_were_under_way_with_a_refused_one_slow_nothing_more():
    clock = Clock()
    pace = AdaptiveRate(clock)
    sent = [pace.sent() for _ in range(50)]
    clock.now += 0.5
    pace.refused(sent[0])
    rate = pace.rate
    for moment in sent[1:]:
        pace.refused(moment)
    assert pace.rate == rate


def test_refusals_close_the_gate_ever_longer_until_a_success():
    clock = Clock()
    gate = Gate(clock, Random(1), give_up_after=1e9)
    waits = []
    for _ in range(5):
        assert gate.refused(NotSent("no")) is None
        waits.append(gate.closed_for())
        clock.now += gate.closed_for()
    assert waits[-1] > waits[0]
    gate.served()
    gate.refused(NotSent("no"))
    assert gate.closed_for() <= 1.0


def test_refusals_that_meet_a_closed_gate_are_one_refusal():
    clock = Clock()
    gate = Gate(clock, Random(1), give_up_after=1e9)
    for _ in range(50):
        gate.refused(NotSent("no"))
    assert gate.closed_for() <= 1.0


def test_endless_refusal_ends_the_run_with_a_sentence():
    clock = Clock()
    gate = Gate(clock, Random(1), give_up_after=600)
    assert gate.refused(NotSent("the host cannot be reached.")) is None
    clock.now = 601
    reason = gate.refused(NotSent("the host cannot be reached."))
    assert isinstance(reason, RunStopped)
    assert "10 minutes" in str(reason)
    assert "the host cannot be reached" in str(reason)


def test_a_budget_counts_what_is_in_flight():
    budget = Budget(Spent(images=8, cost=0, unpriced=0), Limits(images=10))
    assert budget.refusal(2, None) is None
    budget.reserve(2, None)
    assert budget.refusal(1, None) is not None
    budget.release(2, None)
    assert budget.refusal(2, None) is None


def test_a_bound_on_this_run_does_not_count_earlier_ones():
    budget = Budget(Spent(images=0, cost=90, unpriced=0), Limits(cost=100, run_cost=5))
    assert budget.refusal(1, 5) is None
    budget.reserve(1, 5)
    budget.settle(5, 4)
    assert budget.refusal(1, 1) is None
    assert "--max-cost" in str(budget.refusal(1, 2))


def test_a_wait_longer_than_the_users_patience_is_not_begun():
    gate = Gate(Clock(), Random(1), give_up_after=600)
    assert "1790000000 s" in str(gate.refused(NotSent("no."), retry_after=1790000000))


async def test_every_lane_hears_that_the_grace_is_over():
    stop = Stop()
    lanes = [stop, stop.child(), stop.child()]
    stop.request(RunStopped("disk"), grace=0.0)
    for lane in lanes:
        await lane.grace_over()


def test_a_lane_of_its_own_stops_alone():
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
