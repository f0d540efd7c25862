"""Several accounts that make the jobs of one manifest, and which of them a job goes to first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchgen.catalog.accounts import Account
    from batchgen.jobs import Parameters


class PoolOrder(StrEnum):
    """By what the next account is chosen."""

    ORDER = "order"  # as listed: a later one when those before it have stopped
    SPREAD = "spread"  # whichever has a free slot, by weight
    PRICE = "price"  # the cheapest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The accounts of a manifest, mostly one. `spill`: a later one also makes what the earlier have no slot for."""

    accounts: tuple[Account, ...]
    by: PoolOrder = PoolOrder.ORDER
    spill: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether there is only one account."""
        return len(self.accounts) == 1

    @property
    def unit(self) -> str | None:
        """The unit of all its prices; None where they have several."""
        units = {account.prices.unit for account in self.accounts}
        return units.pop() if len(units) == 1 else None

    @property
    def base_urls(self) -> tuple[str, ...]:
        return tuple(account.base_url for account in self.accounts)

    @property
    def concurrency(self) -> int:
        """The units of all of them; accounts that share their limits count once."""
        own = {account.shares_limits_with or account.name: account.concurrency for account in reversed(self.accounts)}
        own |= {account.name: account.concurrency for account in self.accounts if account.name in own}
        return sum(own.values())

    @property
    def passes_on(self) -> bool:
        """Whether a job goes to another account while the first one is busy."""
        return self.spill or self.by is PoolOrder.SPREAD

    def rank(self, account: Account, parameters: Parameters) -> float:
        """Of two accounts the one of the lower rank takes a job first, of equals the first one of the pool."""
        if self.by is not PoolOrder.PRICE:
            return 0.0
        price = account.prices.of_task(parameters)
        return math.inf if price is None else float(price)
