"""The accounts of one run: their budgets and schedulers, and what each of them has to do."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from batchgen.app.gateway import open_gateway
from batchgen.budget import Budget, BudgetLimits
from batchgen.catalog.accounts import price_at
from batchgen.engine.attempt import Attempt
from batchgen.engine.pool import PoolQueue
from batchgen.engine.scheduler import AccountScheduler
from batchgen.errors import CommandError
from batchgen.manifest.rules import can_make
from batchgen.money import micros
from batchgen.providers.registry import provider_for

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
    from contextlib import AsyncExitStack
    from pathlib import Path

    from batchgen.app.run_callbacks import RunCallbacks
    from batchgen.catalog.accounts import Account
    from batchgen.engine.context import Context
    from batchgen.http.client import HttpClient
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.records import OpenAttempt
    from batchgen.manifest.model import Manifest
    from batchgen.providers.validated import ValidatedProvider


class RunAccounts:
    """The accounts of the manifest, which start new jobs, and those at which earlier runs started `resumed`.

    `remake`: jobs that the user wants made again.
    """

    def __init__(self, manifest: Manifest, resumed: Sequence[OpenAttempt], remake: Collection[str]) -> None:
        self._manifest = manifest
        self._resumed = resumed
        self._remake = remake
        self._own = {account.name: account for account in manifest.pool.accounts}
        self._schedulers: dict[str, AccountScheduler] = {}
        self._limits: dict[str, AccountScheduler] = {}  # the first that has them, by the account whose they are
        self._pool: PoolQueue | None = None
        self._new: Iterator[Attempt | None] = iter(())

    def budgets(self, ledger: LedgerReader, whole: Budget) -> dict[str, Budget]:
        """Each account's part of the budget, of one that has none of its own only in a pool."""
        price = partial(price_at, self._manifest.accounts)
        return {
            name: Budget(ledger.spent(price, name), _own_limits(account), whole)
            for name, account in self._own.items()
            if len(self._own) > 1 or (account.max_images, account.max_cost) != (None, None)
        }

    async def open(
        self,
        stack: AsyncExitStack,
        context: Context,
        client: HttpClient,
        root: Path,
        callbacks: RunCallbacks | None,
    ) -> Mapping[str, AccountScheduler]:
        """Make the schedulers, by account."""
        if len(self._own) > 1:
            able = partial(can_make, asked=self._manifest.asked)
            called_at = context.reader.called_at
            self._pool = PoolQueue(self._manifest.pool, able, called_at, clock=context.clock, wake=asyncio.Event())
        # First those whose limits another one shares.
        own = sorted(self._own, key=lambda name: bool(self._own[name].shares_limits_with))
        called = context.reader.accounts_of_unknown() if callbacks is not None else []  # by callbacks that come now
        for name in dict.fromkeys([*own, *(attempt.account for attempt in self._resumed), *called]):
            try:
                account = self._account(name)
                reached = await stack.enter_async_context(open_gateway(account, root))
                urls = callbacks.urls_of(account) if callbacks is not None else None
                self._schedule(context, reached, provider_for(reached, client, callback_urls=urls))
            except CommandError as error:
                if name in self._own:
                    raise
                for attempt in self._resumed_at(name):
                    reason = f"A task that was started at {name!r} cannot be queried: {error}"
                    context.stats.defer(reason, wanted=attempt.wanted)
        return self._schedulers

    def work(self, pending: Iterator[Attempt | None]) -> Iterator[Coroutine[None, None, None]]:
        """What each account has to do: the attempts of earlier runs, then new ones."""
        resumed = {attempt.job.id for attempt in self._resumed}
        self._new = (work for work in pending if work is None or work.job.id not in resumed)
        for name, scheduler in self._schedulers.items():
            base_url = self._account(name).base_url
            works = [
                (Attempt.resumed(attempt, base_url, remake=attempt.job.id in self._remake), attempt.status)
                for attempt in self._resumed_at(name)
            ]
            yield scheduler.run(works, self._new if name in self._own else iter(()))

    def is_anything_left(self) -> bool:
        """Whether the accounts of a pool have all ended, and have left jobs that were to be started."""
        return self._pool is not None and self._pool.is_anything_left(self._new)

    def _schedule(self, context: Context, account: Account, provider: ValidatedProvider) -> None:
        is_own = account.name in self._own
        owner = account.shares_limits_with or account.name
        self._schedulers[account.name] = scheduler = AccountScheduler(
            context,
            provider,
            starts_new=is_own,
            pool=self._pool if is_own else None,
            shares_limits_with=self._limits.get(owner) if is_own else None,
        )
        if is_own:
            self._limits.setdefault(owner, scheduler)

    def _resumed_at(self, name: str) -> list[OpenAttempt]:
        return [attempt for attempt in self._resumed if attempt.account == name]

    def _account(self, name: str) -> Account:
        account = self._own.get(name) or self._manifest.accounts.get(name)
        if account is None:
            raise CommandError(f"The account {name!r} is not in the manifest any more; name it in `providers`.")
        return account


def _own_limits(account: Account) -> BudgetLimits:
    return BudgetLimits(
        images=account.max_images, cost=micros(account.max_cost), unit=account.prices.unit, account=account.name
    )
