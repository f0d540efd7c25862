"""Watches a run: the engine changes plain counters and never waits for an observer, who looks at them now and then."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from batchgen.engine.counters import Counters


class Observer:
    """Shows nothing; override what you want to see. Its methods are called on the run's thread and must not block.

    `interval`: seconds between two calls of `on_progress`.
    """

    interval = 1.0

    def on_start(self, counters: Counters) -> None:
        """The first image is about to be made, and the counters say what there is to do."""

    def on_progress(self, counters: Counters) -> None:
        """The run is under way."""

    def on_end(self, counters: Counters) -> None:
        """Nothing more is made."""

    def on_message(self, message: str, level: str = "info") -> None:
        """A sentence for whoever watches. `level`: info, warning or error."""


@asynccontextmanager
async def observed(
    counters: Counters, observer: Observer, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator[None]:
    """Show the counters to the observer while this is entered.

    An observer's error is raised at the end: the jobs are paid for, and go on without it.
    """

    async def look() -> None:
        while True:
            await sleep(observer.interval)
            observer.on_progress(counters)

    observer.on_start(counters)
    looking = asyncio.create_task(look(), name="progress")
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.wait([looking])
        observer.on_end(counters)
    if not looking.cancelled():
        looking.result()
