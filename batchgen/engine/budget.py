"""What a run may still spend. Counts the ledger's own reservations, never a balance, which lags by hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.errors import RunStopped
from batchgen.money import plain

if TYPE_CHECKING:
    from batchgen.ledger.questions import Spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the whole output, and of this run; money in millionths, None for no bound."""

    images: int | None = None
    cost: int | None = None
    run_cost: int | None = None


class Budget:
    """What is spent, reserved and allowed; in flight counts like spent."""

    def __init__(self, spent: Spent, limits: Limits) -> None:
        self.images = spent.images
        self.cost = spent.cost
        self._before = spent.cost
        self._limits = limits

    def refusal(self, images: int, price: int | None) -> RunStopped | None:
        """Why a task of so many images cannot be begun any more, or None."""
        limits = self._limits
        if limits.images is not None and self.images + images > limits.images:
            return RunStopped(
                f"The budget of {limits.images} images leaves no room for the next task, of {images}"
                f" ({self.images} made, in flight or in doubt)."
                " Raise budget.max_images, then run again to go on."
            )
        cost = price or 0
        if limits.cost is not None and self.cost + cost > limits.cost:
            return RunStopped(
                f"The budget of {plain(limits.cost)} leaves no room for the next task, of {plain(cost)}"
                f" ({plain(self.cost)} spent, in flight or in doubt)."
                " Raise budget.max_cost, then run again to go on."
            )
        if limits.run_cost is not None and self.cost_of_run + cost > limits.run_cost:
            return RunStopped(
                f"This run's --max-cost of {plain(limits.run_cost)} leaves no room for the next task, of {plain(cost)}"
                f" ({plain(self.cost_of_run)} spent, in flight or in doubt). Run again to go on."
            )
        return None

    @property
    def cost_of_run(self) -> int:
        """What this run has spent or has in flight."""
        return self.cost - self._before

    def reserve(self, images: int, price: int | None) -> None:
        """A task is about to be sent."""
        self.images += images
        self.cost += price or 0

    def release(self, images: int, price: int | None) -> None:
        """It certainly made nothing."""
        self.images -= images
        self.cost -= price or 0

    def settle(self, price: int | None, charge: int | None) -> None:
        """The gateway said what it charged."""
        if charge is not None:
            self.cost += charge - (price or 0)
