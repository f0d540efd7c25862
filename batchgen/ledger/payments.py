"""What the ledger knows of money spent: every attempt with what it was to bring and what it brought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.jobs import Job, Status
from batchgen.ledger.events import Outcome

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from batchgen.ledger.reader import LedgerReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One attempt. `images` were asked for, `delivered` are here; `cost` in millionths, None where not known."""

    job_id: str
    number: int
    account: str
    external_id: str
    task_id: str
    outcome: Outcome
    found: bool  # its task was found by asking: the create's own answer was never seen
    images: int
    delivered: int
    cost: int | None
    intended_at: int  # Unix ms
    job_status: Status
    is_latest: bool  # of its job

    @property
    def is_paid(self) -> bool:
        """Whether the gateway made it, as far as is known. What is lost was accepted, and counts."""
        return self.outcome in {Outcome.MADE, Outcome.LOST}


def payments(ledger: LedgerReader) -> Iterator[Payment]:
    """Every attempt of every job, wanted or not, in the order of sending."""
    rows = ledger.db.execute(
        "SELECT attempt.job_id, number, account, external_id, coalesce(task_id, ''), outcome, found, images,"
        " (SELECT count(*) FROM image WHERE image.job_id = attempt.job_id AND image.attempt = number"
        "  AND marked = 0 AND (sha256 IS NOT NULL OR lost_sha256 IS NOT NULL AND NOT ("
        # what was retired and then deleted was delivered all the same
        "   number = job.attempt AND attempt.job_id IN (SELECT job_id FROM wanted)))),"
        " cost, intended_at, job.status, number = job.attempt"
        " FROM attempt JOIN job ON job.id = attempt.job_id ORDER BY intended_at, attempt.job_id, number"
    )
    for job_id, number, account, external_id, task_id, outcome, found, images, delivered, cost, *rest in rows:
        intended_at, status, is_latest = rest
        yield Payment(
            job_id=job_id,
            number=number,
            account=account,
            external_id=external_id,
            task_id=task_id,
            outcome=Outcome(outcome),
            found=bool(found),
            images=images,
            delivered=delivered,
            cost=cost,
            intended_at=intended_at,
            job_status=Status(status),
            is_latest=bool(is_latest),
        )


def unpriced_attempts(db: sqlite3.Connection) -> Iterator[tuple[str, Job]]:
    """The account and the job of each attempt that is or may be paid for, and whose price was never known."""
    rows = db.execute(
        "SELECT account, job.id, request FROM attempt JOIN job ON job.id = job_id"
        " WHERE outcome IN ('', 'made', 'unknown', 'lost') AND coalesce(cost, reserved) IS NULL"
    )
    for account, job_id, request in rows:
        yield account, Job.from_json(job_id, request)
