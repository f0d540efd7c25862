"""Asks a gateway which tasks it has, and which of them a ledger does not count as paid.

A task is ours by its external id, `bg-<job>-<attempt>`, which follows from the job.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING, TypeVar

from batchgen.engine.retry import backoff
from batchgen.errors import BatchgenError, NotSent, TaskNotFound, Throttled, Unclear
from batchgen.ledger.events import Outcome
from batchgen.providers.base import CLOCK_SKEW_MS, SentCreate, TaskState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batchgen.app.ledger_totals import LedgerTotals
    from batchgen.providers.base import Page, Provider, Task

T = TypeVar("T")
_OURS = re.compile(r"bg-(?P<job>[0-9][a-z2-7]{25})-(?P<attempt>[0-9]{1,9})")
_PAGE = 500
_MAX_PAGES = 1000  # the API's own bound
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanTask:
    """A task at the gateway, made or running, that this ledger does not count as paid."""

    account: str
    base_url: str
    external_id: str
    job_id: str
    attempt: int
    task: Task


@dataclass(slots=True, kw_only=True)
class GatewayReport:
    account: str
    base_url: str
    tasks: int = 0  # that the gateway named
    foreign: int = 0  # created elsewhere, or without an id of the caller's
    orphans: list[OrphanTask] = field(default_factory=list)
    method: str = ""  # "list" or "one by one"; empty where it was not queried
    error: str = ""


class GatewayQuery:
    def __init__(self, provider: Provider, totals: LedgerTotals) -> None:
        self._provider = provider
        self._totals = totals
        self._rng = Random()
        self._first_seen: dict[str, str] = {}  # by external id: the first task of an attempt whose own is not known

    async def ask(self) -> GatewayReport:
        """Search the account's list or, where it has none, ask for each unknown attempt by its id.

        Never raises for an account that cannot be queried: the report says why.
        """
        account = self._provider.account
        report = GatewayReport(account=account.name, base_url=account.base_url)
        try:
            if self._provider.can_list and await self._search_list(report):
                report.method = "list"
            elif self._provider.can_find:
                await self._find_unknown(report)
                report.method = "one by one"
            else:
                report.error = "it lists no tasks and finds none by our own ids"
        except BatchgenError as error:
            report.error = str(error)
        return report

    async def _search_list(self, report: GatewayReport) -> bool:
        """Every task back to our first; False where the account has no list after all."""
        self._provider.expect(self._totals.sent)
        return all([await self._search_list_of(report, model) for model in self._models])

    async def _search_list_of(self, report: GatewayReport, model: str) -> bool:
        first = self._totals.oldest.get(report.account, 0) - CLOCK_SKEW_MS
        asked = SentCreate(external_id="", model=model)
        for number in range(1, _MAX_PAGES + 1):
            try:
                page: Page = await self._with_retries(partial(self._provider.page_for, asked, number, _PAGE))
            except TaskNotFound:
                return False
            for task in page.tasks:
                self._note(report, task)
            if not page.tasks:
                return True
            created = page.tasks[-1].created_ms
            if created is not None and first > 0 and created < first:
                return True
        return True

    @property
    def _models(self) -> tuple[str, ...]:
        """Those that have to be asked for one by one."""
        return self._provider.account.models if self._provider.looks_by_model else ("",)

    async def _find_unknown(self, report: GatewayReport) -> None:
        for payment in self._totals.unknown:
            for model in self._models if payment.account == report.account else ():
                asked = SentCreate(external_id=payment.external_id, model=model)
                try:
                    task: Task = await self._with_retries(partial(self._provider.find_sent, asked))
                except TaskNotFound:
                    continue
                if task.may_be(payment.external_id):  # else it is another task
                    self._note(report, task, payment.external_id)
                    break

    def _note(self, report: GatewayReport, task: Task, asked: str = "") -> None:
        report.tasks += 1
        external_id = asked or task.external_id or ""
        ours = _OURS.fullmatch(external_id)
        if ours is None:
            report.foreign += 1
            return
        if task.state in {TaskState.FAILED, TaskState.REJECTED} or self._is_counted(external_id, task):
            return
        report.orphans.append(
            OrphanTask(
                account=report.account,
                base_url=report.base_url,
                external_id=external_id,
                job_id=ours["job"],
                attempt=int(ours["attempt"]),
                task=task,
            )
        )

    def _is_counted(self, external_id: str, task: Task) -> bool:
        """Whether the ledger counts this very task; another one of the same external id was paid for besides."""
        sent = self._totals.sent.get(external_id)
        if task.id in self._totals.tasks:
            return True
        if sent is None or sent.task_id or not (sent.is_paid or sent.outcome is Outcome.LIVE):
            return False
        return self._first_seen.setdefault(external_id, task.id) == task.id

    async def _with_retries(self, ask: Callable[[], Awaitable[T]]) -> T:
        for tries in range(1, _TRIES):
            try:
                return await ask()
            except (Throttled, Unclear, NotSent) as error:
                asked = error.retry_after if isinstance(error, Throttled) else None
                await asyncio.sleep(backoff(tries, self._rng, asked=asked))
        return await ask()
