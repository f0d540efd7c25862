"""The engine's entry: the work of every account side by side, until all of it has ended or the run is stopped."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.errors import DeadlinePassed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchgen.engine.attempt import Attempt
    from batchgen.engine.context import Context
    from batchgen.engine.scheduler import AccountScheduler
    from batchgen.engine.shutdown import Deadline
    from batchgen.jobs import Status

_CLOCK_CHECK_SECONDS = 30.0  # a machine that slept, or whose clock was set, is late by no more


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountWork:
    """What one account has to do: the attempts of earlier runs, then new ones.

    `source` gives None where it has looked at many jobs and found none to start.
    """

    scheduler: AccountScheduler
    resumed: list[tuple[Attempt, Status]]
    source: Iterator[Attempt | None]


async def run_accounts(context: Context, accounts: Iterable[AccountWork], deadline: Deadline | None = None) -> None:
    """Do the work of all accounts. Why it ended early is in `context.stop`, what it did in `context.stats`."""
    async with asyncio.TaskGroup() as outer:
        timer = outer.create_task(_stop_at(deadline, context))
        async with asyncio.TaskGroup() as group:
            for account in accounts:
                group.create_task(account.scheduler.run(account.resumed, account.source))
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
