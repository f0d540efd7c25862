"""What the ledger knows of images that a sandbox painted, and of those that a real account made beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchgen.ledger.image_queries import StoredImage
    from batchgen.ledger.reader import LedgerReader

_LAST = 2**62  # above every attempt's number


def rehearsed_jobs(ledger: LedgerReader, base_url: str) -> list[str]:
    """Jobs of which a sandbox painted something, another one than the account at this address."""
    return sorted({job_id for job_id, _ in _attempts(ledger, base_url)})


def rehearsed_images(ledger: LedgerReader, base_url: str) -> list[StoredImage]:
    """The images in the tree that such a sandbox painted."""
    painted = _attempts(ledger, base_url)
    return [
        image
        for job_id in sorted({job_id for job_id, _ in painted})
        for image in ledger.earlier_images(job_id, _LAST)
        if (job_id, image.attempt) in painted
    ]


def _attempts(ledger: LedgerReader, base_url: str) -> set[tuple[str, int]]:
    rows = ledger.db.execute("SELECT job_id, number FROM attempt WHERE rehearsal = 1 AND base_url <> ?", (base_url,))
    return {(job_id, number) for job_id, number in rows}


def real_jobs(ledger: LedgerReader) -> int:
    """How many wanted jobs are done by a real account."""
    (number,) = ledger.db.execute(
        "SELECT count(*) FROM wanted JOIN job ON job.id = wanted.job_id AND status = 'done'"
        " JOIN attempt ON attempt.job_id = job.id AND number = job.attempt AND rehearsal = 0"
    ).fetchone()
    return int(number)
