"""The price of a task, and what may still be spent.

Counts the ledger's own reservations, never the account's balance, which lags by hours.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.errors import BudgetSpent
from batchgen.money import micros, plain

if TYPE_CHECKING:
    from batchgen.catalog.accounts import Account
    from batchgen.jobs import Parameters
    from batchgen.ledger.records import Spent


def cost_of(account: Account, parameters: Parameters) -> int | None:
    """Today's price of one task at an account, in millionths of its unit; None where it is not known."""
    return micros(account.prices.of_task(parameters))


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLimits:
    """Limits of the whole output, and of this run; money in millionths, None for no limit."""

    images: int | None = None
    cost: int | None = None
    run_cost: int | None = None
    unit: str = ""  # of the money
    account: str = ""  # whose own budget it is; empty: that of all


class Budget:
    """What is spent and reserved, against the limits. A price that is not known (None) counts as nothing."""

    def __init__(self, spent: Spent, limits: BudgetLimits, whole: Budget | None = None) -> None:
        """`whole`: the budget that this one is a part of; what counts here counts there too."""
        self.images = spent.images
        self.cost = spent.cost
        self.run_cost_by_model: Counter[str] = Counter()  # millionths; the sum is `cost_of_run`
        self._cost_before = spent.cost
        self._limits = limits
        self._whole = whole

    @property
    def is_bounded(self) -> bool:
        """Whether it has a limit of its own."""
        return (self._limits.images, self._limits.cost, self._limits.run_cost) != (None, None, None)

    def refusal(self, images: int, price: int | None) -> BudgetSpent | None:
        """Why a task with so many images exceeds a limit, or None."""
        own = self.own_refusal(images, price)
        return own if own is not None or self._whole is None else self._whole.refusal(images, price)

    def own_refusal(self, images: int, price: int | None) -> BudgetSpent | None:
        """The same, whatever the budget allows that this one is a part of."""
        limits, cost = self._limits, price or 0
        if limits.images is not None and self.images + images > limits.images:
            return BudgetSpent(
                f"The next task, of {images} images, exceeds {self._name} of {limits.images} images"
                f" ({self.images} made, in flight or unknown). Raise {self._key}.max_images, then run again to"
                " continue."
            )
        if limits.cost is not None and self.cost + cost > limits.cost:
            return self._too_expensive(
                self._name, limits.cost, self.cost, cost, f"Raise {self._key}.max_cost, then run"
            )
        if limits.run_cost is not None and self.cost_of_run + cost > limits.run_cost:
            return self._too_expensive("this run's --max-cost", limits.run_cost, self.cost_of_run, cost, "Run")
        return None

    @property
    def _name(self) -> str:
        return self._key if self._limits.account else "the budget"

    @property
    def _key(self) -> str:
        return f"providers.{self._limits.account}.budget" if self._limits.account else "budget"

    def _too_expensive(self, name: str, limit: int, spent: int, cost: int, advice: str) -> BudgetSpent:
        return BudgetSpent(
            f"The next task, at {self._money(cost)}, exceeds {name} of {self._money(limit)}"
            f" ({self._money(spent)} spent, in flight or unknown). {advice} again to continue."
        )

    def _money(self, micros: int) -> str:
        return f"{plain(micros)} {self._limits.unit}".rstrip()

    @property
    def cost_of_run(self) -> int:
        """What this run has spent or reserved."""
        return self.cost - self._cost_before

    def reserve(self, images: int, price: int | None, model: str = "") -> None:
        """Count a task that is about to be sent."""
        self.images += images
        self._change(price or 0, model)
        if self._whole is not None:
            self._whole.reserve(images, price, model)

    def release(self, images: int, price: int | None, model: str = "", *, earlier: bool = False) -> None:
        """Refund a task that certainly made nothing. `earlier`: an earlier run sent it, so this one did not pay."""
        self.images -= images
        self._change(-(price or 0), model, earlier=earlier)
        if self._whole is not None:
            self._whole.release(images, price, model, earlier=earlier)

    def charge(self, price: int | None, charged: int | None, model: str = "", *, earlier: bool = False) -> None:
        """Replace a task's reserved price by what the gateway charged, where it says so. `earlier` as in `release`."""
        if charged is not None:
            self._change(charged - (price or 0), model, earlier=earlier)
            if self._whole is not None:
                self._whole.charge(price, charged, model, earlier=earlier)

    def adopt(self, price: int | None, model: str = "") -> None:
        """Take a reservation off this run: an earlier run, or that of another output, paid for the task."""
        self._cost_before += price or 0
        self.run_cost_by_model[model] -= price or 0
        if self._whole is not None:
            self._whole.adopt(price, model)

    def _change(self, by: int, model: str, *, earlier: bool = False) -> None:
        self.cost += by
        if earlier:
            self._cost_before += by
        else:
            self.run_cost_by_model[model] += by
