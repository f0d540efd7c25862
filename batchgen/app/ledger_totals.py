"""Adds up what a ledger says was paid for and delivered."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from batchgen.ledger.events import Outcome
from batchgen.reconcile.files import check_file, is_managed

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.records import Payment


@dataclass(slots=True, kw_only=True)
class LedgerTotals:
    """What the ledger knows. Numbers count images, except where they say tasks."""

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


def ledger_totals(ledger: LedgerReader, root: Path) -> LedgerTotals:
    """Add up what the ledger knows of the output `root`; a missing file is not delivered."""
    totals = LedgerTotals()
    # Images of which attempts have no file, or one that was changed. What was retired was delivered.
    lost = Counter(
        (image.job_id, image.attempt)
        for image in ledger.stored_images()
        if not image.watermarked and is_managed(image) and check_file(str(root), image).fault is not None
    )
    paid_jobs: dict[str, int] = {}
    for recorded in ledger.payments():
        payment = replace(recorded, delivered=recorded.delivered - lost[recorded.job_id, recorded.number])
        totals.sent[payment.external_id] = payment
        totals.images[payment.job_id] = payment.images
        totals.latest[payment.job_id] = max(payment.number, totals.latest.get(payment.job_id, 0))
        totals.oldest.setdefault(payment.account, payment.intended_at)
        totals.adopted_tasks += payment.found
        totals.delivered += payment.delivered
        if payment.replaces:
            paid_jobs.pop(payment.job_id, None)  # from here on its user wants the job to be paid once more
        if payment.is_paid:
            totals.paid += payment.images
            # The images of all paid attempts but one: only what a job costs beyond its first time is twice.
            totals.twice += min(payment.images, paid_jobs.get(payment.job_id, 0))
            paid_jobs[payment.job_id] = max(payment.images, paid_jobs.get(payment.job_id, 0))
            if payment.delivered < payment.images:
                totals.undelivered.append(payment)
        if payment.outcome is Outcome.LIVE:
            totals.in_flight += payment.images
        if payment.outcome is Outcome.UNKNOWN:
            totals.unknown.append(payment)
        if payment.is_paid or payment.outcome is Outcome.LIVE:
            totals.live.add(payment.job_id)
            if payment.task_id:
                totals.tasks.add(payment.task_id)
    return totals
