"""Runs the schedulers of all accounts at the same time, until they have ended or the deadline passes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from batchgen.errors import DeadlinePassed

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from batchgen.engine.context import Context
    from batchgen.engine.shutdown import Deadline

_CLOCK_CHECK_SECONDS = 30.0  # a machine that slept, or whose clock was set, is late by no more


async def run_accounts(
    context: Context, schedulers: Iterable[Coroutine[None, None, None]], deadline: Deadline | None
) -> None:
    """Run all schedulers. Why they ended early is in `context.stop`, what they did in `context.stats`."""
    async with asyncio.TaskGroup() as outer:
        timer = outer.create_task(_stop_at(deadline, context))
        async with asyncio.TaskGroup() as group:
            for scheduler in schedulers:
                group.create_task(scheduler)
        timer.cancel()


async def _stop_at(deadline: Deadline | None, context: Context) -> None:
    if deadline is None:
        return
    # A deadline that has passed stops the run before the schedulers' first step.
    while (left := deadline.left()) > 0:  # noqa: ASYNC110 - no event tells what time it is
        await asyncio.sleep(min(left, _CLOCK_CHECK_SECONDS))
    grace = context.policy.grace
    reason = DeadlinePassed("The deadline has passed; nothing more was started. Run again to go on.")
    context.stop.request(reason, grace=grace)
    context.notify(
        f"The deadline has passed: nothing more is started. Finishing what is in flight (up to {grace:g} s)."
    )
