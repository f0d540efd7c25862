"""What an examination finds of one account."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchgen.catalog.accounts import Account

PATIENCE_SECONDS = 10.0  # for each question


class Verdict(StrEnum):
    """How a check came out; a note is nothing wrong."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding: what was looked at, how it is, and what to do."""

    name: str
    verdict: Verdict
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """All findings about one account. `ahead`: our clock before the gateway's; `latency`: of a query; both seconds."""

    account: Account
    checks: tuple[Check, ...]
    ahead: float | None = None
    latency: float | None = None

    @property
    def is_fine(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.verdict is not Verdict.PROBLEM for check in self.checks)
