"""What an image costs at an account."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.jobs import Parameters

ANY = "default"  # in place of a model or a resolution: the price of every other one


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Money for one image, by model and resolution; what is not listed is unknown, not free."""

    unit: str = ""
    as_of: str = ""
    deducted: bool = False  # whether the gateway's own `final_unit_deduction` is in this unit
    by_model: Mapping[str, Mapping[str, Decimal]] = field(default_factory=dict)

    def of_image(self, model: str, resolution: str) -> Decimal | None:
        """The price of one image, or None where it is not known."""
        for name in (model, ANY):
            table = self.by_model.get(name, {})
            if (price := table.get(resolution, table.get(ANY))) is not None:
                return price
        return None

    def of_task(self, parameters: Parameters) -> Decimal | None:
        """The price of a whole task, or None where it is not known."""
        price = self.of_image(parameters.model, parameters.resolution)
        return None if price is None else price * parameters.n


def parse_prices(raw: Mapping[str, Any]) -> Prices:
    """Read `{unit, as_of, MODEL: price}` or `{…, MODEL: {RESOLUTION: price}}`."""
    by_model = {}
    for name, price in raw.items():
        if name not in {"unit", "as_of", "deducted"}:
            table = price if isinstance(price, dict) else {ANY: price}
            by_model[name] = {resolution: Decimal(str(value)) for resolution, value in table.items()}
    return Prices(
        unit=str(raw.get("unit", "")),
        as_of=str(raw.get("as_of", "")),
        deducted=raw.get("deducted", False),
        by_model=by_model,
    )
