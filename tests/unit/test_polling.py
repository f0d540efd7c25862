"""Which running tasks are asked for, and when: none is forgotten, however many others there are."""

from __future__ import annotations

import asyncio
from random import Random

from jobs_for_tests import job

from batchgen.catalog.catalog import builtin
from batchgen.engine.poller import TaskPoller
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
    """Tasks take ten seconds here, the first one eighty. Its list tells of the newest."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(builtin().accounts["kapon"], None, Secrets({}))
        self.clock = clock
        self.begun: dict[str, float] = {}
        self.asked_singly: list[str] = []

    async def create(self, *_asked):
        raise AssertionError("nothing is sent while asking")

    async def query(self, task_id):
        self.asked_singly.append(task_id)
        return self.task(task_id)

    async def page(self, number, size):
        newest_first = list(reversed(self.begun))[(number - 1) * size : number * size]
        return Page(tasks=tuple(map(self.task, newest_first)))

    def task(self, task_id):
        takes = 80.0 if task_id == "0" else 10.0
        if self.clock.now - self.begun[task_id] < takes:
            return Task(id=task_id, state=TaskState.RUNNING)
        return Task(id=task_id, state=TaskState.SUCCEEDED, links=LINKS)


async def test_a_task_that_a_page_of_newer_ones_hides_is_asked_for_though_all_slots_are_busy():
    clock = Clock()
    provider = Busy(clock)
    parameters = job().parameters
    poller = TaskPoller(
        ValidatedProvider(provider),
        clock=clock,
        wall=clock,
        rng=Random(1),
        on_trouble=print,
        on_answer=lambda: None,
        jobs_wait=lambda: True,
    )
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
    assert len(provider.asked_singly) < 10


async def keep_listing(poller: TaskPoller, clock: Clock) -> None:
    """What the poller itself does, a second each time."""
    async with asyncio.TaskGroup() as group:
        while True:
            poller.query_due(group)
            for _ in range(5):
                await asyncio.sleep(0)
            clock.now += 1.0
