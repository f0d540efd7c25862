"""What was paid for against what is there: from the ledger, and from the gateway where it can be asked.

A task of the gateway is ours by its external id, `bg-<job>-<attempt>`, which follows from the job: so a task that
no ledger knows, of a job that the manifest asks for, can be adopted instead of being paid for again.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, TypeVar

from batchgen.engine.list_proof import SKEW_MS
from batchgen.engine.retry import backoff
from batchgen.errors import BatchgenError, NotSent, TaskNotFound, Throttled, Unclear
from batchgen.jobs import Status
from batchgen.ledger.adoption import another_attempt, latest_of
from batchgen.ledger.events import Accepted, Outcome, Reopened
from batchgen.ledger.payments import Payment, payments
from batchgen.providers.base import TaskState
from batchgen.reconcile.files import is_asked_for, look_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from pathlib import Path

    from batchgen.jobs import Job
    from batchgen.ledger.events import Event
    from batchgen.ledger.reader import LedgerReader
    from batchgen.providers.base import Page, Provider, Task

T = TypeVar("T")
_OURS = re.compile(r"bg-(?P<job>[0-9][a-z2-7]{25})-(?P<attempt>[0-9]{1,9})")
_PAGE = 500
_MOST_PAGES = 1000  # the API's own bound
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
class LedgerTotals:
    """The ledger's side. Numbers count images, except where they say tasks."""

    paid: int = 0
    delivered: int = 0
    twice: int = 0
    adopted_tasks: int = 0
    in_flight: int = 0
    unknown: list[Payment] = field(default_factory=list)
    undelivered: list[Payment] = field(default_factory=list)
    sent: dict[str, Payment] = field(default_factory=dict)  # every attempt, by its external id
    tasks: set[str] = field(default_factory=set)  # the tasks of attempts that are or may be paid for
    images: dict[str, int] = field(default_factory=dict)  # that each job asks for
    latest: dict[str, int] = field(default_factory=dict)  # the latest attempt of each job
    oldest: dict[str, int] = field(default_factory=dict)  # when the first attempt was sent (Unix ms), by account
    live: set[str] = field(default_factory=set)  # jobs that have a live, made or paid attempt


def books(ledger: LedgerReader, root: Path) -> LedgerTotals:
    """Add up what the ledger knows of the output `root`; a file that is not there is not delivered."""
    found = LedgerTotals()
    lost = _lost_files(ledger, root)
    paid_jobs: dict[str, int] = {}
    for recorded in payments(ledger):
        payment = replace(recorded, delivered=recorded.delivered - lost[recorded.job_id, recorded.number])
        _enter(found, payment)
        if payment.is_paid:
            # The images of all paid attempts but one: only what a job costs beyond its first time is twice.
            found.twice += min(payment.images, paid_jobs.get(payment.job_id, 0))
            paid_jobs[payment.job_id] = max(payment.images, paid_jobs.get(payment.job_id, 0))
    return found


def _lost_files(ledger: LedgerReader, root: Path) -> Counter[tuple[str, int]]:
    """How many images of which attempts have no file, or one that was changed. What was retired was delivered."""
    return Counter(
        (image.job_id, image.attempt)
        for image in ledger.stored_images()
        if not image.marked and is_asked_for(image) and look_at(str(root), image).fault is not None
    )


def _enter(found: LedgerTotals, payment: Payment) -> None:
    found.sent[payment.external_id] = payment
    found.images[payment.job_id] = payment.images
    found.latest[payment.job_id] = max(payment.number, found.latest.get(payment.job_id, 0))
    found.oldest.setdefault(payment.account, payment.intended_at)
    found.adopted_tasks += payment.found
    found.delivered += payment.delivered
    if payment.is_paid:
        found.paid += payment.images
        if payment.delivered < payment.images:
            found.undelivered.append(payment)
    if payment.outcome is Outcome.LIVE:
        found.in_flight += payment.images
    if payment.outcome is Outcome.UNKNOWN:
        found.unknown.append(payment)
    if payment.is_paid or payment.outcome is Outcome.LIVE:
        found.live.add(payment.job_id)
        if payment.task_id:
            found.tasks.add(payment.task_id)


@dataclass(slots=True, kw_only=True)
class GatewayReport:
    """The gateway's side of one account."""

    account: str
    base_url: str
    tasks: int = 0  # that the gateway told of
    strangers: int = 0  # not batchgen's, or without an id of the caller's
    strays: list[OrphanTask] = field(default_factory=list)
    how: str = ""  # "list" or "one by one"; empty where it was not asked
    error: str = ""


class GatewayQuery:
    """Asks one account what it knows."""

    def __init__(
        self, provider: Provider, books: LedgerTotals, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._provider = provider
        self._books = books
        self._sleep = sleep
        self._chance = Random()
        self._nameless: dict[str, str] = {}  # the task that was seen first of an attempt whose own is not known

    async def ask(self) -> GatewayReport:
        """Look through the account's list or, where it has none, ask for each doubtful attempt by its id.

        Never raises for an account that cannot be asked: the answer says why.
        """
        account = self._provider.account
        answered = GatewayReport(account=account.name, base_url=account.base_url)
        try:
            if self._provider.can_list and await self._through_the_list(answered):
                answered.how = "list"
            elif self._provider.can_find:
                await self._one_by_one(answered)
                answered.how = "one by one"
            else:
                answered.error = "it lists no tasks and knows none by our own ids"
        except BatchgenError as error:
            answered.error = str(error)
        return answered

    async def _through_the_list(self, answered: GatewayReport) -> bool:
        """Every task back to our first; False where the account has no list after all."""
        first = self._books.oldest.get(answered.account, 0) - SKEW_MS
        for number in range(1, _MOST_PAGES + 1):
            try:
                page: Page = await self._patiently(partial(self._provider.page, number, _PAGE))
            except TaskNotFound:
                return False
            for task in page.tasks:
                self._note(answered, task)
            if not page.tasks:
                return True
            created = page.tasks[-1].created_ms
            if created is not None and first > 0 and created < first:
                return True
        return True

    async def _one_by_one(self, answered: GatewayReport) -> None:
        for payment in self._books.unknown:
            if payment.account != answered.account:
                continue
            try:
                task: Task = await self._patiently(partial(self._provider.find, payment.external_id))
            except TaskNotFound:
                continue
            self._note(answered, task, payment.external_id)

    def _note(self, answered: GatewayReport, task: Task, asked: str = "") -> None:
        answered.tasks += 1
        external_id = asked or task.external_id or ""
        ours = _OURS.fullmatch(external_id)
        if ours is None:
            answered.strangers += 1
            return
        if task.state in {TaskState.FAILED, TaskState.REJECTED} or self._is_counted(external_id, task):
            return
        answered.strays.append(
            OrphanTask(
                account=answered.account,
                base_url=answered.base_url,
                external_id=external_id,
                job_id=ours["job"],
                attempt=int(ours["attempt"]),
                task=task,
            )
        )

    def _is_counted(self, external_id: str, task: Task) -> bool:
        """Whether the ledger counts this very task; another one of the same external id was paid for besides."""
        sent = self._books.sent.get(external_id)
        if task.id in self._books.tasks:
            return True
        if sent is None or sent.task_id or not (sent.is_paid or sent.outcome is Outcome.LIVE):
            return False
        return self._nameless.setdefault(external_id, task.id) == task.id

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        for tries in range(1, _TRIES):
            try:
                return await ask()
            except (Throttled, Unclear, NotSent) as error:
                asked = error.retry_after if isinstance(error, Throttled) else None
                await self._sleep(backoff(tries, self._chance, asked=asked))
        return await ask()


def adoptable(strays: Iterable[OrphanTask], wanted: Mapping[str, Job], found: LedgerTotals) -> list[OrphanTask]:
    """Tasks whose job is asked for and has nothing else that is or may be paid for; one for each job.

    An attempt that the ledger holds as unknown is taken as it is; any other has to be later than the job's latest.
    """
    chosen: dict[str, OrphanTask] = {}
    for stray in sorted(strays, key=lambda stray: stray.attempt):
        sent = found.sent.get(stray.external_id)
        is_held = sent is not None and sent.outcome is Outcome.UNKNOWN
        latest = found.latest.get(stray.job_id, 0)
        fits = stray.attempt == latest if is_held else stray.attempt > latest
        if fits and stray.job_id in wanted and stray.job_id not in found.live:
            chosen.setdefault(stray.job_id, stray)
    return list(chosen.values())


def adoption(stray: OrphanTask, job: Job, ledger: LedgerReader, at: int) -> list[Event]:
    """The events that take a task into the ledger, so that the next run fetches it. `at` is Unix ms.

    The job may be pending, or have ended without images; an attempt that is held is taken as it is.
    """
    accepted = Accepted(
        job_id=job.id, attempt=stray.attempt, task_id=stray.task.id, at=at, found=True, rehearsal=stray.task.rehearsal
    )
    latest = latest_of(ledger, job.id)
    if latest is not None and latest.external_id == stray.external_id:
        given_up = latest.status in {Status.FAILED, Status.REJECTED}  # the last attempt that run.max_attempts allowed
        return [Reopened(job_id=job.id), accepted] if given_up else [accepted]
    sent = stray.task.created_ms
    earlier = accepted if sent is None or not 0 < sent < at else replace(accepted, at=sent)
    return another_attempt(ledger, job, earlier, stray.account, stray.base_url)


def paid_beside(strays: Iterable[OrphanTask], images: Mapping[str, int], found: LedgerTotals) -> tuple[int, int]:
    """Images that the gateway made, or is making, and the ledger does not count; and how many of them are twice.

    `images` are those that each job asks for: not every list tells what a task has made.
    """
    paid = twice = 0
    counted = set(found.live)
    for stray in strays:
        number = max(len(stray.task.links), images.get(stray.job_id, 1))
        paid += number
        twice += number if stray.job_id in counted else 0
        counted.add(stray.job_id)
    return paid, twice
