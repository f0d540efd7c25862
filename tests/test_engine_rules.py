"""The engine's rules as arithmetic: slots, turns, the gate, back-off, budgets. No test waits."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs_for_tests import job

from batchgen.catalog import builtin
from batchgen.engine.budget import Budget, Limits
from batchgen.engine.gate import Gate
from batchgen.engine.recover import Recovery
from batchgen.engine.retry import LONGEST_SECONDS, backoff, next_query
from batchgen.engine.slots import PASSES, Slots, Turn, pacer
from batchgen.engine.stop import Stop
from batchgen.engine.work import Work
from batchgen.errors import NotSent, RunStopped, TaskNotFound
from batchgen.ledger.questions import Spent
from batchgen.providers.base import Provider


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


@given(elapsed=st.floats(0, 1e6), usual=st.none() | st.floats(0.001, 1e5))
def test_a_task_is_always_asked_for_again_but_not_without_pause(elapsed, usual):
    assert 0.1 <= next_query(elapsed, usual) <= max(15.0, usual or 0)


def test_smaller_tasks_pass_a_larger_one_a_bounded_number_of_times():
    turn = Turn()
    waiting = [work(9), *[work(1) for _ in range(PASSES + 5)]]
    passed = 0
    while turn.choose(waiting, free=5) is not None:
        passed += 1
    assert passed == PASSES
    assert turn.choose(waiting, free=9).units == 9
    assert turn.choose(waiting, free=1).units == 1


def test_order_is_kept_where_everything_fits():
    waiting = [work(3), work(1), work(2)]
    turn = Turn()
    assert [turn.choose(waiting, free=9).units for _ in range(3)] == [3, 1, 2]


def test_slots_count_units_and_wake_who_waits():
    woken = []
    slots = Slots(9, lambda: woken.append(True))
    slots.take(4)
    slots.take(9)  # a task of an earlier run
    assert slots.free == 0
    slots.give(9)
    assert slots.free == 5
    assert woken == [True]


@pytest.mark.parametrize("rate", [0.5, 1, 2, 3, 60, 600, 6000])
def test_the_worst_minute_never_sees_more_than_the_rate(rate):
    limiter = pacer(rate)
    burst = limiter.max_rate
    assert burst + 60 * burst / limiter.time_period <= max(rate, 1) * 1.0001 + (burst if rate <= 2 else 0)


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


class Forgetful(Provider):
    """An account that never knows the task."""

    def __init__(self) -> None:
        self.account = builtin().accounts["kapon"]
        self.asked = 0

    async def create(self, *_asked):
        raise AssertionError("nothing is sent while asking")

    async def query(self, *_asked):
        self.asked += 1
        raise TaskNotFound("no such task")


@pytest.mark.parametrize("set_back", [0, 3600, -3600], ids=["right", "set back", "set forward"])
async def test_not_found_is_believed_after_its_time_whatever_the_clock_does(set_back):
    clock = Clock()
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        clock.now += seconds

    provider = Forgetful()
    recovery = Recovery(provider, sleep=sleep, wall=lambda: 1e9 + clock.now - set_back, chance=Random(1))
    assert await recovery.find(work(1).sent(int(1e12))) is None
    assert provider.asked >= 2
    assert sum(slept) <= provider.account.accepts_within + 8
    if set_back >= 0:
        assert sum(slept) >= provider.account.accepts_within
