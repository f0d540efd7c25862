"""Jobs against the ledger: what a run would make, reuse, take up again or leave, and why.

Streams: a million jobs pass through here without being held.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from batchgen.catalog.catalog import price_at
from batchgen.errors import CommandError
from batchgen.jobs import LIVE, Status
from batchgen.matrix.expand import expand
from batchgen.money import micros
from batchgen.plan.reasons import Reasons
from batchgen.reconcile.files import Fault, check_file, has_returned, is_managed
from batchgen.reconcile.reconcile import check_folder, check_not_away

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchgen.catalog.catalog import Prices
    from batchgen.jobs import Job
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.records import JobState
    from batchgen.ledger.store import Ledger
    from batchgen.manifest.model import Manifest
    from batchgen.plan.selection import Selection

_PAGE = 1000
FILE_LOST = "file lost or changed: to be fetched again, unpaid"
REAL_KEPT = "made by a real account: kept, not painted anew"
FILE_BACK = "a file that was lost is back: to be taken back, unpaid"
FILE_GONE = "file lost or changed, and no gateway has it: only --retry-failed makes it anew, which is paid again"


def check_any(manifest: Manifest, selection: Selection) -> None:
    """Raise CommandError where no job is meant at all: a slip in `exclude`, `on_illegal: skip` or `--only`."""
    any_job = False
    for job in expand(manifest):
        any_job = True
        if selection.takes(job):
            return
    if any_job:
        wishes = " ".join(f"--only {key}={value}" for key, values in selection.wishes.items() for value in values)
        raise CommandError(f"No job of {manifest.path} is meant by {wishes}; see them with: batchgen plan --detailed")
    raise CommandError(
        f"{manifest.path} asks for nothing: `exclude` or `on_illegal: skip` leaves no job of its matrix."
        " Nothing was sent and nothing was changed."
    )


def standings(manifest: Manifest, ledger: LedgerReader) -> Iterator[tuple[Job, JobState]]:
    """Every wanted job once, in the manifest's order, with how it stands. The ledger holds the list of them."""
    numbered = enumerate(expand(manifest))
    while page := list(islice(numbered, _PAGE)):
        rows = {row.seq: row for row in ledger.page(page[0][0], page[-1][0] + 1)}
        for seq, job in page:
            if seq in rows:
                yield job, rows[seq]


@dataclass(slots=True, kw_only=True)
class Group:
    """Jobs of the plan that are alike; `cost` in millionths, of those whose price is known."""

    jobs: int = 0
    images: int = 0
    cost: int = 0
    unpriced: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, job: Job, prices: Prices, reason: str = "") -> None:
        """Count one job, and why it is here."""
        if reason:
            self.reasons[reason] += 1
        self.jobs += 1
        self.images += job.parameters.n
        price = micros(prices.of_task(job.parameters))
        if price is None:
            self.unpriced += 1
        else:
            self.cost += price


@dataclass(slots=True, kw_only=True)
class Plan:
    """What a run would do. `again`: begun by an earlier run, to be finished without a new create."""

    make: Group = field(default_factory=Group)
    make_by_model: dict[str, Group] = field(default_factory=dict)
    done: Group = field(default_factory=Group)
    again: Group = field(default_factory=Group)
    ended: dict[Status, Group] = field(default_factory=dict)
    retired_images: int = 0
    seconds: float | None = None  # at the account's limits; None where too little is known
    within_budget: int | None = None  # jobs that the manifest's budget lets begin; None: all of them

    @property
    def anything_to_do(self) -> bool:
        """Whether a run would send anything."""
        return bool(self.make.jobs or self.again.jobs)


def survey(manifest: Manifest, ledger: Ledger, root: Path, selection: Selection, limit: int | None = None) -> Plan:
    """Count what a run would do. The ledger is a preview, `root` its output: nothing is written."""
    plan = Plan()
    account = manifest.account
    painted = frozenset() if account.is_local_sandbox else ledger.preview_drop_rehearsals(account.base_url)
    check_folder(ledger, root)
    ledger.preview_wanted_jobs(expand(manifest))
    reasons = Reasons(ledger, painted)
    lost = _jobs_with_lost_files(ledger, root)
    funds = _Funds(manifest, ledger)
    for job, standing in standings(manifest, ledger):
        if selection.takes(job):
            if standing.status is Status.PENDING and plan.within_budget is None and not funds.take(job):
                plan.within_budget = plan.make.jobs
            _count(plan, job, standing, manifest.account.prices, reasons, limit=limit, lost=lost.get(job.id))
    plan.retired_images = sum(not image.watermarked for image in ledger.images_to_retire())
    if account.is_local_sandbox and (kept := ledger.count_real_jobs()):
        plan.done.reasons[REAL_KEPT] = kept
    plan.seconds = _seconds(plan, manifest, ledger)
    return plan


class _Funds:
    """What the budget still lets begin: what is spent, in flight or unknown counts (see engine.budget)."""

    def __init__(self, manifest: Manifest, ledger: LedgerReader) -> None:
        spent = ledger.spent(partial(price_at, manifest.accounts))
        bounds = manifest.budget
        cost = micros(bounds.max_cost)
        self._prices = manifest.account.prices
        self._images = math.inf if bounds.max_images is None else bounds.max_images - spent.images
        self._cost = math.inf if cost is None else cost - spent.cost

    def take(self, job: Job) -> bool:
        """Take a job's price and images, if they are there."""
        self._images -= job.parameters.n
        self._cost -= micros(self._prices.of_task(job.parameters)) or 0
        return self._images >= 0 and self._cost >= 0


def _count(
    plan: Plan, job: Job, standing: JobState, prices: Prices, reasons: Reasons, *, limit: int | None, lost: str | None
) -> None:
    status = standing.status
    if status is Status.PENDING:
        if limit is None or plan.make.jobs < limit:
            plan.make.add(job, prices, reasons.of(job, standing))
            plan.make_by_model.setdefault(job.parameters.model, Group()).add(job, prices)
    elif lost is not None:
        plan.again.add(job, prices, lost)
    elif status is Status.DONE:
        plan.done.add(job, prices)
    elif status in LIVE:
        plan.again.add(job, prices, _BEGUN[status])
    else:
        why = f"{standing.code} {standing.message}".strip()
        plan.ended.setdefault(status, Group()).add(job, prices, why)


_BEGUN = {
    Status.INTENT: "sent, no answer recorded: to be asked for",
    Status.SUBMITTED: "at the gateway: to be waited for",
    Status.MADE: "made: to be fetched",
}


def _jobs_with_lost_files(ledger: LedgerReader, root: Path) -> dict[str, str]:
    """Jobs with an image whose file is not there or not what it was, and what follows; as a run sees it."""
    lost: dict[str, str] = {}
    away = looked_at = 0
    for image in chain(ledger.current_images(), ledger.lost_and_wanted()):
        seen = check_file(str(root), image)
        looked_at += 1
        away += seen.fault is Fault.MISSING
        if seen.fault is not None:
            lost[image.job_id] = FILE_GONE if image.only_copy else lost.get(image.job_id, FILE_LOST)
    check_not_away(ledger, root, away, looked_at)
    back = {image.job_id for image in ledger.lost_images() if is_managed(image) and has_returned(str(root), image)}
    return lost | dict.fromkeys(back, FILE_BACK)


def _seconds(plan: Plan, manifest: Manifest, ledger: LedgerReader) -> float | None:
    """How long the account's limits make it take; the time of a task is what this output has seen."""
    account = manifest.account
    paced = plan.make.jobs * 60.0 / account.creates_per_minute if account.creates_per_minute else 0.0
    usual = ledger.mean_task_seconds()
    if usual is None:
        return paced or None
    return max(paced, usual * (plan.make.images + plan.again.images) / account.concurrency)


def unpriced(manifest: Manifest) -> set[tuple[str, str]]:
    """The (model, resolution) pairs of the manifest whose price is not known."""
    prices = manifest.account.prices
    seen: set[tuple[str, str]] = set()
    for job in expand(manifest):
        seen.add((job.parameters.model, job.parameters.resolution))
    return {pair for pair in seen if prices.of_image(*pair) is None}
