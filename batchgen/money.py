"""Money in whole millionths of the account's unit, as in the ledger, so that sums are exact."""

from __future__ import annotations

from decimal import Decimal

_MILLION = 1_000_000


def micros(amount: Decimal | None) -> int | None:
    """An amount in millionths, rounded; None where it is not known."""
    return None if amount is None else int((amount * _MILLION).to_integral_value())


def plain(amount: int) -> str:
    """Millionths as a plain decimal without trailing zeros."""
    return f"{(Decimal(amount) / _MILLION).normalize():f}"
