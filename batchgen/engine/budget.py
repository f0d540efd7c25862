"""What a run may still spend. Counts the ledger's own reservations, never a balance, which lags by hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.errors import BudgetSpent
from batchgen.money import plain

if TYPE_CHECKING:
    from batchgen.ledger.records import Spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the whole output, and of this run; money in millionths, None for no bound."""

    images: int | None = None
    cost: int | None = None
    run_cost: int | None = None
    unit: str = ""  # of the money


class Budget:
    """What is spent, reserved and allowed; in flight counts like spent."""

    def __init__(self, spent: Spent, limits: Limits) -> None:
        self.images = spent.images
        self.cost = spent.cost
        self._before = spent.cost
        self._limits = limits

    def refusal(self, images: int, price: int | None) -> BudgetSpent | None:
        """Why a task of so many images cannot be begun any more, or None."""
        limits = self._limits
        if limits.images is not None and self.images + images > limits.images:
            return BudgetSpent(
                f"The budget of {limits.images} images leaves no room for the next task, of {images}"
                f" ({self.images} made, in flight or in doubt)."
                " Raise budget.max_images, then run again to go on."
            )
        cost = price or 0
        if limits.cost is not None and self.cost + cost > limits.cost:
            return BudgetSpent(
                f"The budget of {self._money(limits.cost)} leaves no room for the next task, of {self._money(cost)}"
                f" ({self._money(self.cost)} spent, in flight or in doubt)."
                " Raise budget.max_cost, then run again to go on."
            )
        if limits.run_cost is not None and self.cost_of_run + cost > limits.run_cost:
            spent = self._money(self.cost_of_run)
            return BudgetSpent(
                f"This run's --max-cost of {self._money(limits.run_cost)} leaves no room for the next task, of"
                f" {self._money(cost)} ({spent} spent, in flight or in doubt). Run again to go on."
            )
        return None

    def _money(self, micros: int) -> str:
        return f"{plain(micros)} {self._limits.unit}".rstrip()

    @property
    def cost_of_run(self) -> int:
        """What this run has spent or has in flight."""
        return self.cost - self._before

    def reserve(self, images: int, price: int | None) -> None:
        """A task is about to be sent."""
        self.images += images
        self.cost += price or 0

    def release(self, images: int, price: int | None, *, earlier: bool = False) -> None:
        """It certainly made nothing. `earlier`: it was sent by an earlier run, and costs this one nothing."""
        self.images -= images
        self._change(-(price or 0), earlier=earlier)

    def settle(self, price: int | None, charge: int | None, *, earlier: bool = False) -> None:
        """The gateway said what it charged. `earlier` as in `release`."""
        if charge is not None:
            self._change(charge - (price or 0), earlier=earlier)

    def adopt(self, price: int | None) -> None:
        """What was reserved was paid by an earlier run, or by that of another output: this one has not spent it."""
        self._before += price or 0

    def _change(self, by: int, *, earlier: bool) -> None:
        self.cost += by
        if earlier:
            self._before += by
