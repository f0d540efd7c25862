"""Jobs against the ledger: what a run would make, keep, resume or leave, and why.

Jobs are streamed: a million of them need no more memory than a thousand.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from batchgen.budget import Budget, BudgetLimits
from batchgen.catalog.accounts import price_at
from batchgen.errors import CommandError
from batchgen.jobs import LIVE, Status
from batchgen.manifest.rules import can_make
from batchgen.matrix.expand import expand, expand_all
from batchgen.money import micros
from batchgen.planning.first_accounts import FirstAccounts
from batchgen.planning.reasons import Reasons
from batchgen.reconcile.files import Fault, check_file, has_returned, is_managed
from batchgen.reconcile.reconcile import check_folder, check_not_away

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from batchgen.catalog.accounts import Account
    from batchgen.jobs import Job
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.records import JobState
    from batchgen.ledger.store import Ledger
    from batchgen.manifest.model import Manifest
    from batchgen.planning.selection import Selection

_PAGE = 1000
_TYPICAL_BYTES = {"1k": 1.5e6, "2k": 6e6, "4k": 24e6}  # of a PNG, where there is no image of that resolution yet
FILE_LOST = "file lost or changed: to be fetched again, unpaid"
REAL_KEPT = "made by a real account: kept, not painted again"
FILE_BACK = "a file that was lost is back: it is recorded again, unpaid"
FILE_GONE = "file lost or changed, and no gateway has it: only --retry-failed makes it again, which is paid again"


def check_any(manifest: Manifest, selection: Selection) -> None:
    """Raise CommandError where no job is selected: a mistake in `exclude`, `on_illegal: skip` or `--only`."""
    any_job = False
    for job in expand_all(manifest):  # a shard may have none of them
        any_job = True
        if selection.takes(job):
            return
    if any_job:
        raise CommandError(f"No job of {manifest.path} matches {selection}; list them with: batchgen plan --detailed")
    raise CommandError(
        f"{manifest.path} asks for nothing: `exclude` or `on_illegal: skip` leaves out every job of its matrix."
        " Nothing was sent and nothing was changed."
    )


def job_states(manifest: Manifest, ledger: LedgerReader) -> Iterator[tuple[Job, JobState]]:
    """Every wanted job once, in the manifest's order, with its state. The ledger holds the list of them."""
    numbered = enumerate(expand_all(manifest))
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

    def add(self, images: int, cost: int | None, reason: str = "") -> None:
        """Count one job, and why it is here."""
        if reason:
            self.reasons[reason] += 1
        self.jobs += 1
        self.images += images
        self.cost += cost or 0
        self.unpriced += cost is None


@dataclass(slots=True, kw_only=True)
class Plan:
    """What a run would do. `resumed`: started by an earlier run, and finished without a new create."""

    make: Group = field(default_factory=Group)
    make_by_model: dict[str, Group] = field(default_factory=dict)
    make_by_account: dict[str, Group] = field(default_factory=dict)  # of a pool: where jobs go first
    cheapest: Group = field(default_factory=Group)  # of a pool: what is to be made, at the cheapest account of each job
    dearest: Group = field(default_factory=Group)  # the same, at the dearest
    done: Group = field(default_factory=Group)
    resumed: Group = field(default_factory=Group)
    ended: dict[Status, Group] = field(default_factory=dict)
    retired_images: int = 0
    seconds: float | None = None  # at the account's limits; None where too little is known
    within_budget: int | None = None  # jobs that the manifest's budget allows; None: all of them
    disk_bytes: int = 0  # that the images to come are expected to take
    disk_free: int = 0  # bytes, where the images go

    @property
    def anything_to_do(self) -> bool:
        """Whether a run would send anything."""
        return bool(self.make.jobs or self.resumed.jobs)


def survey(
    manifest: Manifest,
    ledger: Ledger,
    root: Path,
    selection: Selection,
    limit: int | None = None,
    *,
    remake: bool = False,
) -> Plan:
    """Count what a run would do. The ledger is a preview, `root` its output: nothing is written.

    `remake`: with the next attempt of jobs of which an image is rejected.
    """
    plan = Plan()
    account = manifest.account
    is_local = account.is_local_sandbox
    painted = frozenset() if is_local else ledger.preview_drop_rehearsals(manifest.pool.base_urls)
    check_folder(ledger, root)
    ledger.set_wanted_jobs(expand_all(manifest), manifest.shard)
    reasons = Reasons(ledger, painted)
    lost = _jobs_with_lost_files(ledger, root)
    budget = _budget(manifest, ledger)
    firsts = FirstAccounts(manifest, ledger)
    rejected = ledger.rejected_jobs() if remake else {}
    sizes = _TYPICAL_BYTES | ledger.mean_image_bytes()
    for job, state in job_states(manifest, ledger):
        if not selection.takes(job):
            continue
        choice = firsts.of(job.parameters)
        images, cost = job.parameters.n, choice.cost if manifest.pool.unit is not None else None
        if (state.status is Status.PENDING or job.id in rejected) and plan.within_budget is None:
            if budget.refusal(images, cost) is not None:
                plan.within_budget = plan.make.jobs
            budget.reserve(images, cost)
        if job.id in rejected:
            group, reason = plan.make, _anew(rejected[job.id][1], images)
        else:
            group, reason = _group_of(plan, job, state, reasons, lost)
        if group is plan.make and limit is not None and plan.make.jobs >= limit:
            continue
        group.add(images, cost, reason)
        if group is plan.make or group is plan.resumed:
            plan.disk_bytes += _bytes(job, sizes)
        if group is plan.make:
            plan.make_by_model.setdefault(job.parameters.model, Group()).add(images, cost)
            if not manifest.pool.is_alone:
                firsts.take(choice, job.parameters)
                plan.make_by_account.setdefault(choice.account.name, Group()).add(images, choice.cost)
                plan.cheapest.add(images, choice.cheapest)
                plan.dearest.add(images, choice.dearest)
    plan.retired_images = sum(not image.watermarked for image in ledger.images_to_retire())
    if account.is_local_sandbox and (kept := ledger.count_real_jobs()):
        plan.done.reasons[REAL_KEPT] = kept
    plan.seconds = _seconds(plan, manifest, ledger)
    images_folder = root.absolute() / "images"
    place = next(folder for folder in (images_folder, *images_folder.parents) if folder.exists())
    plan.disk_free = shutil.disk_usage(place).free
    return plan


def _anew(rejected: int, images: int) -> str:
    """Why a job with images is made again: a task makes all of its images."""
    if images == 1:
        return "rejected: made anew and paid again; the image moves to retired/"
    return f"{rejected} of {images} images rejected: all are made anew and paid again; the earlier move to retired/"


def _bytes(job: Job, sizes: Mapping[str, float]) -> int:
    """What the images of a job are expected to take, with their watermarked copies."""
    each = sizes.get(job.parameters.resolution, _TYPICAL_BYTES["1k"])
    return round(each * job.parameters.n * (2 if job.parameters.watermark_info else 1))


def _budget(manifest: Manifest, ledger: LedgerReader) -> Budget:
    spent = ledger.spent(partial(price_at, manifest.accounts))
    limits = BudgetLimits(images=manifest.budget.max_images, cost=micros(manifest.budget.max_cost))
    return Budget(spent, limits)


def _group_of(plan: Plan, job: Job, state: JobState, reasons: Reasons, lost: dict[str, str]) -> tuple[Group, str]:
    """The group of the plan that a job belongs to, and why."""
    status = state.status
    if status is Status.PENDING:
        return plan.make, reasons.of(job, state)
    if job.id in lost:
        return plan.resumed, lost[job.id]
    if status is Status.DONE:
        return plan.done, ""
    if status in LIVE:
        return plan.resumed, _STARTED[status]
    return plan.ended.setdefault(status, Group()), f"{state.code} {state.message}".strip()


_STARTED = {
    Status.INTENT: "sent, no answer recorded: the gateway will be asked",
    Status.SUBMITTED: "at the gateway: will be waited for",
    Status.MADE: "made: to be fetched",
}


def _jobs_with_lost_files(ledger: LedgerReader, root: Path) -> dict[str, str]:
    """Jobs with an image whose file is missing or changed, and what a run does about it."""
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
    """How long it takes within the account's limits; the time of a task is the mean of this output so far."""
    by_account = [(account, plan.make_by_account.get(account.name, Group())) for account in manifest.pool.accounts]
    if manifest.pool.is_alone:
        by_account = [(manifest.account, plan.make)]
    usual, slowest = ledger.mean_task_seconds(), 0.0
    if manifest.pool.passes_on and usual is not None:  # whichever account has a free slot
        return usual * (plan.make.images + plan.resumed.images) / manifest.pool.concurrency
    for account, make in by_account:
        paced = make.jobs * 60.0 / account.creates_per_minute if account.creates_per_minute else 0.0
        resumed = plan.resumed.images if account is manifest.account else 0
        slowest = max(slowest, paced, (usual or 0.0) * (make.images + resumed) / account.concurrency)
    return slowest or (None if usual is None else 0.0)


def unpriced(manifest: Manifest, accounts: Collection[Account]) -> set[tuple[str, str, str]]:
    """The (account, model, resolution) of the manifest's jobs whose price is not known."""
    alone = manifest.pool.is_alone
    found = (job.parameters for job in expand(manifest))
    asked = {(each.model, each.resolution) if alone else each: each for each in found}.values()
    return {
        (account.name, parameters.model, parameters.resolution)
        for account in accounts
        for parameters in asked
        if account.prices.of_image(parameters.model, parameters.resolution) is None
        and (alone or can_make(account, parameters, manifest.asked))
    }
