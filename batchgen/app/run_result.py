"""How a run ended: typed for Python, as data for JSON, with the exit code of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batchgen.errors import ReasonCode
from batchgen.formatting import counted
from batchgen.jobs import INCOMPLETE, LIVE, Status
from batchgen.money import plain
from batchgen.reports.index import FAILURES, INDEX

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batchgen.app.check import CheckReport
    from batchgen.catalog.pool import Pool
    from batchgen.engine.context import RunStats
    from batchgen.engine.timings import SlotTime
    from batchgen.errors import BatchgenError


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountResult:
    """What one account of a pool did in a run; `cost` is in its own `unit`."""

    name: str
    started: int  # attempts that were sent
    images: int  # that it made
    cost: Decimal
    unit: str
    stopped: BatchgenError | None  # why it made no more

    def as_data(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "started": self.started,
            "images": self.images,
            "cost": f"{self.cost:f}",
            "unit": self.unit,
            "stopped": None if self.stopped is None else str(self.stopped),
        }

    def __str__(self) -> str:
        cost = f", {self.cost:f} {self.unit or 'units'}" if self.cost else ""
        why = f"; stopped: {self.stopped}" if self.stopped else ""
        return f"{self.name}: {counted(self.images, 'image')} made{cost}{why}"


def account_results(pool: Pool, stats: RunStats, costs: Mapping[str, int]) -> tuple[AccountResult, ...]:
    """What each account of a pool did in a run, which cost so many millionths there; empty where there is only one."""
    if pool.is_alone:
        return ()
    return tuple(
        AccountResult(
            name=account.name,
            started=stats.started_at[account.name],
            images=stats.made[account.name],
            cost=Decimal(plain(costs[account.name])),
            unit=account.prices.unit,
            stopped=stats.stopped.get(account.name),
        )
        for account in pool.accounts
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run leaves. `jobs` counts the selected jobs by status; `cost` is this run's, in `unit`.

    Where the accounts of a pool have prices in several units, `unit` is None and `cost` means nothing.
    """

    output: Path
    images: int  # in the index
    jobs: Mapping[Status, int]
    started: int  # attempts that were sent
    fetched: int  # jobs whose images were downloaded
    unfinished: int  # jobs left for the next run
    unfinished_reasons: tuple[str, ...]  # the first few
    cost: Decimal
    unit: str | None
    retired: int  # files that the manifest no longer asks for
    watermarks_missing: int
    warnings: int  # images that are unusual
    error: BatchgenError | None  # why the run stopped early
    accounts: tuple[AccountResult, ...] = ()  # of a pool
    checks: tuple[CheckReport, ...] = ()
    cost_by_model: Mapping[str, Decimal] = field(default_factory=dict)  # its sum is `cost`
    slot_times: Mapping[str, SlotTime] = field(default_factory=dict, repr=False)  # by account

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is there, or is still to be started because of `limit`."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """The exit code of `batchgen run`."""
        if self.error is not None:
            return self.error.exit_code
        return 1 if self.incomplete or self.unfinished or self.to_collect else 0

    @property
    def reason_code(self) -> ReasonCode:
        """Why it ended so, from a closed set."""
        if self.error is not None:
            return self.error.reason_code
        return ReasonCode.INCOMPLETE if self.exit_code else ReasonCode.COMPLETE

    @property
    def reason(self) -> str:
        """Why the exit code is not 0, in one sentence; empty where it is."""
        if self.error is not None:
            return str(self.error)
        return next(iter(self.shortfalls), "")

    @property
    def index(self) -> Path:
        return self.output / INDEX

    @property
    def incomplete(self) -> int:
        """Jobs that ended without all their images."""
        return sum(self.jobs.get(status, 0) for status in INCOMPLETE)

    @property
    def to_collect(self) -> int:
        """Jobs that were started and have not ended: a later run collects them."""
        return sum(self.jobs.get(status, 0) for status in LIVE)

    @property
    def nothing_to_do(self) -> bool:
        """Whether everything was there already."""
        is_idle = not self.started and not self.fetched and self.error is None
        return is_idle and not self.incomplete and not self.unfinished and not self.jobs.get(Status.PENDING)

    @property
    def shortfalls(self) -> list[str]:
        """What is missing of the jobs that were started, in sentences."""
        sentences = []
        if self.incomplete:
            kinds = [f"{self.jobs[status]} {status.value}" for status in Status if status in INCOMPLETE & {*self.jobs}]
            sentences.append(f"Jobs without all their images: {', '.join(kinds)}. {self.output / FAILURES} says why.")
        if self.unfinished:
            why = self.unfinished_reasons[0]
            end = "" if why.endswith((".", "!", "?")) else "."
            sentences.append(f"Left for the next run: {self.unfinished}. {why}{end}")
        if self.to_collect:
            sentences.append(f"Started, and to be collected by the next run: {counted(self.to_collect, 'job')}.")
        return sentences

    def as_data(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "exit_code": self.exit_code,
            "reason_code": self.reason_code.value,
            "output": str(self.output),
            "index": str(self.index),
            "images": self.images,
            "jobs": {status.value: self.jobs[status] for status in Status if self.jobs.get(status)},
            "started": self.started,
            "unfinished": list(self.unfinished_reasons),
            "cost": None if self.unit is None else f"{self.cost:f}",
            "cost_by_model": {model: f"{cost:f}" for model, cost in self.cost_by_model.items()},
            "unit": self.unit,
            "accounts": [account.as_data() for account in self.accounts],
            "retired": self.retired,
            "watermarks_missing": self.watermarks_missing,
            "warnings": self.warnings,
            "checks": [report.as_data() for report in self.checks],
            "reason": None if self.error is None else str(self.error),
        }
