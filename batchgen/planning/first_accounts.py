"""Which account of a manifest a job would go to first, and what the accounts that can make it would charge."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from batchgen.budget import Budget, BudgetLimits, cost_of
from batchgen.catalog.accounts import price_at
from batchgen.catalog.pool import PoolOrder
from batchgen.manifest.rules import can_make
from batchgen.money import micros

if TYPE_CHECKING:
    from batchgen.catalog.accounts import Account
    from batchgen.jobs import Parameters
    from batchgen.ledger.reader import LedgerReader
    from batchgen.manifest.model import Manifest


class Choice(NamedTuple):
    """The account that a job goes to first, what it costs there, and the bounds of that; None where unknown."""

    account: Account
    cost: int | None
    cheapest: int | None
    dearest: int | None


class FirstAccounts:
    """Follows the choice of a run as far as it does not depend on time: what the accounts' own budgets allow."""

    def __init__(self, manifest: Manifest, ledger: LedgerReader) -> None:
        self._manifest = manifest
        self._pool = manifest.pool
        self._able: dict[Parameters, list[Account]] = {}
        self._taken = dict.fromkeys((account.name for account in self._pool.accounts), 0)
        price = partial(price_at, manifest.accounts)
        self._budgets = {
            account.name: Budget(
                ledger.spent(price, account.name),
                BudgetLimits(images=account.max_images, cost=micros(account.max_cost)),
            )
            for account in self._pool.accounts
            if not self._pool.is_alone
        }

    def of(self, parameters: Parameters) -> Choice:
        """Where such a job would go first, if it went now."""
        if self._pool.is_alone:
            cost = cost_of(self._manifest.account, parameters)
            return Choice(self._manifest.account, cost, cost, cost)
        able = self._able_accounts(parameters)
        costs = {account.name: cost_of(account, parameters) for account in able}
        if self._pool.by is PoolOrder.SPREAD:
            able = sorted(able, key=lambda account: self._taken[account.name] / account.weight)
        affordable = (
            account
            for account in able
            if self._budgets[account.name].own_refusal(parameters.n, costs[account.name]) is None
        )
        first = next(affordable, able[0])
        known = [cost for cost in costs.values() if cost is not None]
        is_known = len(known) == len(costs) and self._pool.unit is not None
        bounds = (min(known), max(known)) if is_known else (None, None)
        return Choice(first, costs[first.name], *bounds)

    def take(self, choice: Choice, parameters: Parameters) -> None:
        """Count the job at its account."""
        self._taken[choice.account.name] += 1
        if not self._pool.is_alone:
            self._budgets[choice.account.name].reserve(parameters.n, choice.cost)

    def _able_accounts(self, parameters: Parameters) -> list[Account]:
        if (known := self._able.get(parameters)) is None:
            accounts, asked = self._pool.accounts, self._manifest.asked
            able = [account for account in accounts if can_make(account, parameters, asked)]
            known = sorted(able or accounts, key=lambda account: self._pool.rank(account, parameters))
            self._able[parameters] = known
        return known
