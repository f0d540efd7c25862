"""Which running tasks are queried, and when: none is forgotten, however many others there are."""

from __future__ import annotations

import asyncio
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs_for_tests import job

from batchgen.catalog.load import builtin
from batchgen.engine.poller import _LONGEST, _OLDER_PAGES, _SHORTEST, TaskPoller
from batchgen.engine.running import RunningTask
from batchgen.jobs import ImageLink
from batchgen.providers.base import Page, Provider, Secrets, Task, TaskState
from batchgen.providers.validated import ValidatedProvider

LINKS = (ImageLink(index=0, url="https://images.example/1.png"),)
AT_ONCE = 100


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Busy(Provider):
    """Tasks take ten seconds here, the first one eighty. Its list shows the newest."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(builtin().accounts["kapon"], None, Secrets({}))
        self.clock = clock
        self.begun: dict[str, float] = {}
        self.queried: list[str] = []

    async def create(self, *_asked):
        raise AssertionError("nothing is created here")

    async def query(self, task_id):
        self.queried.append(task_id)
        return self.task(task_id)

    async def page(self, number, size):
        newest_first = list(reversed(self.begun))[(number - 1) * size : number * size]
        return Page(tasks=tuple(map(self.task, newest_first)))

    def task(self, task_id):
        takes = 80.0 if task_id == "0" else 10.0
        if self.clock.now - self.begun[task_id] < takes:
            return Task(id=task_id, state=TaskState.RUNNING)
        return Task(id=task_id, state=TaskState.SUCCEEDED, links=LINKS)


async def test_a_task_that_a_page_of_newer_ones_hides_is_queried_though_all_slots_are_busy():
    clock = Clock()
    provider = Busy(clock)
    parameters = job().parameters
    poller = poller_of(provider, clock)
    ends: dict[str, asyncio.Task[Task]] = {}
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(keep_listing(poller, clock))
        while clock.now < 200:
            while sum(not end.done() for end in ends.values()) < AT_ONCE:
                task_id = str(len(ends))
                provider.begun[task_id] = clock.now
                ends[task_id] = group.create_task(poller.wait(task_id, parameters, ""))
            await asyncio.sleep(0)
        asking.cancel()
        first = ends["0"].done()
        for end in ends.values():
            end.cancel()
    assert len(ends) > 1000
    assert first
    assert len(provider.queried) < 10


async def test_time_in_which_the_process_stood_still_is_not_taken_for_the_tasks_own():
    clock = Clock()
    provider = Busy(clock)
    poller = poller_of(provider, clock)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(keep_listing(poller, clock))
        for task_id, stops in (("1", 20_000.0), ("2", 0.0)):
            began = provider.begun[task_id] = clock.now
            end = group.create_task(poller.wait(task_id, job().parameters, ""))
            while clock.now < began + 5:
                await asyncio.sleep(0)
            clock.now += stops
            while not end.done():
                await asyncio.sleep(0)
        asking.cancel()
    assert clock.now - began < 30


async def keep_listing(poller: TaskPoller, clock: Clock) -> None:
    """What the poller itself does, a second each time."""
    async with asyncio.TaskGroup() as group:
        while True:
            poller.query_due(group)
            for _ in range(5):
                await asyncio.sleep(0)
            clock.now += 1.0


def poller_of(provider: Provider, clock: Clock) -> TaskPoller:
    return TaskPoller(
        SimpleNamespace(clock=clock, wall=clock, rng=Random(1)),
        ValidatedProvider(provider),
        on_trouble=print,
        on_answer=lambda: None,
        jobs_wait=lambda: True,
    )


@given(
    latencies=st.lists(st.floats(0.01, 1e4), max_size=80),
    age=st.floats(0, 1e5),
    has_callbacks=st.booleans(),
    page=st.integers(0, 3),
)
def test_a_running_task_is_always_queried_again(latencies, age, has_callbacks, page):
    poller = poller_of(Busy(Clock()), Clock())
    for latency in latencies:
        poller._latencies.learn("kind", 0.9 * latency, latency)
        if has_callbacks:
            poller._callbacks.confirmed()
    wait = poller._until_query(running_task(seen=age), listed=page)
    patience = 5.0 if poller._callbacks.is_reliable else 1.0
    assert 0 < wait <= max(_LONGEST * patience * _OLDER_PAGES, 2.0 * (poller._latencies.median("kind") or 0.0))


def running_task(**state) -> RunningTask:
    plain = {"task_id": "1", "external_id": "", "kind": "kind", "units": 1, "since": 0.0, "due": 0.0, "end": None}
    return RunningTask(**(plain | state))


class Asked(Busy):
    """Its tasks run for ever; each query takes a second by the clock, in which a callback may come."""

    on_query = staticmethod(lambda: None)

    async def query(self, task_id):
        self.queried.append(task_id)
        self.clock.now += 0.5
        self.on_query()
        self.clock.now += 0.5
        return Task(id=task_id, state=TaskState.RUNNING)


async def test_an_answer_to_a_query_from_before_the_callback_does_not_make_the_callback_false():
    clock = Clock()
    provider = Asked(clock)
    poller = poller_of(provider, clock)
    provider.on_query = lambda: poller.on_callback("1") if len(provider.queried) == 1 else None
    async with asyncio.TaskGroup() as group:
        wait = group.create_task(poller.wait("1", job().parameters, ""))
        await asyncio.sleep(0)
        (running,) = poller._running
        await poller._query(running)
        assert running.called_at is not None
        assert running.due - clock.now == pytest.approx(_SHORTEST)  # the callback is the newer of the two
        await poller._query(running)
        assert running.called_at is None
        assert running.due - clock.now <= 1.0
        assert running.false_callbacks == 1
        poller.on_callback("1")
        assert running.due <= running.quiet_until
        wait.cancel()
