"""Events that take into the ledger what it does not know: an image of the index, a task of the gateway.

In whatever state the ledger has the job, what follows from here are events that fit it; where none fit, there are none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.jobs import ImageLink, Status, external_id
from batchgen.ledger.events import Accepted, Fetched, Intent, Made, Relinked, Reopened

if TYPE_CHECKING:
    from batchgen.jobs import ImageFile, Job
    from batchgen.ledger.events import Event
    from batchgen.ledger.reader import LedgerReader, OpenAttempt

_ENDED_WITHOUT_IMAGES = frozenset({Status.FAILED, Status.REJECTED, Status.UNKNOWN})
_WITH_LINKS = frozenset({Status.MADE, Status.DONE, Status.PARTIAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHere:
    """An image's file, and when it was fetched (Unix ms)."""

    image: ImageFile
    mtime_ns: int
    fetched_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Images of one job that came from somewhere else. Times in Unix ms, cost in millionths."""

    job: Job
    attempt: int
    account: str
    base_url: str
    task_id: str
    submitted_at: int
    finished_at: int
    cost: int | None
    indexes: tuple[int, ...]  # of the images that there are
    files: tuple[FileHere, ...]  # those that are here and whole


def known_images(ledger: LedgerReader, ids: list[str]) -> set[tuple[str, int]]:
    """The images (job id, index) of these jobs that the ledger knows, whether their files are here or not."""
    marks = ",".join("?" * len(ids))
    return set(ledger.db.execute(f"SELECT job_id, idx FROM image WHERE marked = 0 AND job_id IN ({marks})", ids))  # noqa: S608 - marks alone


def placed_images(ledger: LedgerReader, folder: str) -> int:
    """How many images the ledger has under a folder of the output."""
    counted = "SELECT count(*) FROM image WHERE sha256 IS NOT NULL AND path LIKE ? || '%'"
    return int(ledger.db.execute(counted, (folder,)).fetchone()[0])


def latest_of(ledger: LedgerReader, job_id: str) -> OpenAttempt | None:
    """The latest attempt of a job; None where it was never begun."""
    known = ledger.db.execute("SELECT 1 FROM job WHERE id = ?", (job_id,)).fetchone()
    return None if known is None else ledger.attempt_of(job_id)


def another_attempt(ledger: LedgerReader, job: Job, accepted: Accepted, account: str, base_url: str) -> list[Event]:
    """An attempt that the ledger never began: the job, pending or ended without images, goes on with it."""
    latest = latest_of(ledger, job.id)
    number = accepted.attempt if latest is None else max(accepted.attempt, latest.attempt + 1)
    intent = Intent(
        job=job,
        attempt=number,
        account=account,
        base_url=base_url,
        external_id=external_id(job.id, number),
        at=accepted.at,
        reserved=None,
    )
    again = [Reopened(job_id=job.id)] if latest is not None and latest.status in _ENDED_WITHOUT_IMAGES else []
    taken = Accepted(job_id=job.id, attempt=number, task_id=accepted.task_id, at=accepted.at, found=accepted.found)
    return [*again, intent, taken]


def taking_in(ledger: LedgerReader, found: Delivery) -> list[Event]:
    """The events after which the ledger has the job's images; none where it has another task of the job."""
    latest = latest_of(ledger, found.job.id)
    status = Status.PENDING if latest is None else latest.status
    accepted = Accepted(
        job_id=found.job.id, attempt=found.attempt, task_id=found.task_id, at=found.submitted_at, found=True
    )
    if latest is not None and status not in {Status.PENDING, Status.FAILED, Status.REJECTED}:
        is_later = status is Status.UNKNOWN and found.attempt > latest.attempt
        if not is_later:
            return _of_the_latest(ledger, found, latest)
    events = another_attempt(ledger, found.job, accepted, found.account, found.base_url)
    number = next(event.attempt for event in events if isinstance(event, Intent))
    return [*events, _made(found, number), *_fetched(found, number)]


def _of_the_latest(ledger: LedgerReader, found: Delivery, latest: OpenAttempt) -> list[Event]:
    number = latest.attempt
    if latest.task_id is not None and latest.task_id != found.task_id:
        return []
    if latest.status in {Status.INTENT, Status.UNKNOWN}:
        accepted = Accepted(
            job_id=found.job.id, attempt=number, task_id=found.task_id, at=found.submitted_at, found=True
        )
        return [accepted, _made(found, number), *_fetched(found, number)]
    if latest.status is Status.SUBMITTED:
        return [_made(found, number), *_fetched(found, number)]
    if latest.status not in _WITH_LINKS:
        return []
    known = {index for _, index in known_images(ledger, [found.job.id])}
    links = tuple(ImageLink(index=index, url="") for index in found.indexes if index not in known)
    new = {link.index for link in links}
    fetched = [event for event in _fetched(found, number) if event.image.index in new]
    return [Relinked(job_id=found.job.id, attempt=number, links=links), *fetched] if links else []


def _made(found: Delivery, number: int) -> Made:
    """Without links: what is not here is asked for, by its task."""
    links = tuple(ImageLink(index=index, url="") for index in found.indexes)
    return Made(job_id=found.job.id, attempt=number, links=links, cost=found.cost, at=found.finished_at)


def _fetched(found: Delivery, number: int) -> list[Fetched]:
    return [
        Fetched(
            job_id=found.job.id,
            attempt=number,
            image=file.image,
            marked=False,
            mtime_ns=file.mtime_ns,
            at=file.fetched_at,
        )
        for file in found.files
    ]
