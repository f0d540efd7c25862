"""An event loop whose time is virtual, and in which the order of whatever is ready comes from the seed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from heapq import heappop
from typing import TYPE_CHECKING, Any

from tests.simulation import world as worlds
from tests.simulation.world import Crash, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.simulation.world import World

_TICK = 1e-5  # seconds that a round of callbacks takes


class Task(asyncio.Task):
    """A task whose place in a set does not depend on its address in memory."""

    def __init__(self, *arguments: Any, number: int, **named: Any) -> None:
        self._number = number
        super().__init__(*arguments, **named)

    def __hash__(self) -> int:
        return self._number


class Loop(asyncio.BaseEventLoop):
    """One run's loop. Threads are callbacks that take a while; signals are called by the world."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.signals: dict[int, Callable[[], None]] = {}
        self.tasks: list[Task] = []

    def time(self) -> float:
        return self.world.now

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None, **_: Any) -> Task:
        number = len(self.tasks)
        self.tasks.append(Task(coro, loop=self, name=name or f"task {number}", context=context, number=number))
        return self.tasks[-1]

    def run_in_executor(self, _executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()
        share = self.world.order.random()
        self.call_later(0.001 + 0.02 * share**4 if share < 0.97 else 2.0 * share, self._work, future, func, args)
        return future

    def _work(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if future.cancelled() and self.world.order.random() < 0.5:
            return  # no thread had begun it
        try:
            result = func(*args)
        except (Crash, Violation):
            raise
        except BaseException as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)

    def add_signal_handler(self, number: int, callback: Callable[..., Any], *args: Any) -> None:
        self.signals[number] = lambda: callback(*args)

    def remove_signal_handler(self, number: int) -> bool:
        return self.signals.pop(number, None) is not None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.world.is_dead:
            raise Violation(f"an error that nobody takes: {context}")

    def _run_once(self) -> None:
        world, ready, scheduled = self.world, self._ready, self._scheduled
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heappop(scheduled)._scheduled = False
        if not ready and not self._stopping:
            times = [
                time for time in (world.next_event(), scheduled[0]._when if scheduled else None) if time is not None
            ]
            if not times:
                raise Violation("the run waits for nothing")
            world.advance(max(world.now, min(times)))
        world.advance(world.now + _TICK)
        while scheduled and scheduled[0]._when <= world.now:
            handle = heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        handles = list(ready)
        ready.clear()
        if len(handles) > 1:
            world.order.shuffle(handles)
        for handle in handles:
            if not handle._cancelled:
                world.step()
                handle._run()

    def _asyncgen_firstiter_hook(self, agen: Any) -> None:
        """Generators that were left are closed when they are collected, which no seed decides: not by this loop."""

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """As above."""

    def _write_to_self(self) -> None:
        """Nobody else runs."""


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """As asyncio.run, in the present world; what a crash leaves half done is dropped."""
    world = worlds.current
    loop = world.loop = Loop(world)
    asyncio.events.set_event_loop(loop)
    try:
        result = loop.run_until_complete(main)
        if left := [task.get_name() for task in loop.tasks if not task.done()]:
            raise Violation(f"tasks go on after the run: {sorted(left)}")
        return result
    finally:
        for task in loop.tasks if world.is_dead else ():  # now, not whenever they are collected
            with suppress(BaseException):
                task.get_coro().close()
        asyncio.events.set_event_loop(None)
        for pending in (loop._ready, loop._scheduled, loop.tasks):
            pending.clear()
        loop.close()
